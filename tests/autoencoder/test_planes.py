"""Packing loses nothing, keeps its order and refuses what does not fit."""

import pytest
import torch

from autoencoder.planes import Planes, PlaneShape, pack, unpack

SHAPES = [PlaneShape(2, 3, 5), PlaneShape(1, 4, 4), PlaneShape(7, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_pack_and_unpack_are_inverse(shape):
    planes = Planes(torch.randn(2, 4, shape.h, shape.w), torch.randn(2, 4, shape.t, shape.w),
                    torch.randn(2, 4, shape.t, shape.h))
    latent = pack(planes)
    assert latent.shape == (2, 4, shape.total)
    for ours, theirs in zip(unpack(latent, shape), planes):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    torch.testing.assert_close(pack(unpack(latent, shape)), latent, rtol=0, atol=0)


def test_position_of_each_token():
    # hw first, row by row; then tw and th, whose rows are frames
    shape = PlaneShape(t=2, h=3, w=5)
    hw, tw, th = unpack(torch.arange(float(shape.total))[None, None], shape)
    assert shape.sizes == (15, 10, 6)
    assert hw[0, 0, 2, 1] == 2 * 5 + 1
    assert tw[0, 0, 1, 4] == 15 + 1 * 5 + 4
    assert th[0, 0, 1, 2] == 15 + 10 + 1 * 3 + 2


def test_a_latent_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"latent has 30 positions .* needs 31"):
        unpack(torch.zeros(1, 4, 30), PlaneShape(2, 3, 5))


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        PlaneShape(0, 3, 5)
