"""What scales and shifts a normalisation: a hint near each position, the place and the time."""

import pytest
import torch
from torch import nn

from autoencoder.planes import PlaneShape
from latent_diffusion.modulation import Adapt, Hint, HintSpec, Positional
from latent_diffusion.sheets import coordinates

SPEC = HintSpec("spade", 2, 8)
PLACE = coordinates(PlaneShape(3, 4, 5), torch.device("cpu")).hw[None]  # 1 6 h w


def test_scale_and_shift_are_told_from_what_is_near():
    torch.manual_seed(0)
    adapt = Adapt(4, HintSpec("spade", 2, 8), silent=False)
    hint = torch.zeros(1, 2, 9, 9)
    hint[0, :, 4, 4] = 1.0
    for told, silent in zip(adapt(hint), adapt(torch.zeros_like(hint))):
        moved = (told != silent).any(1)[0].nonzero()
        assert moved.min() == 2 and moved.max() == 6  # two 3x3 convolutions


def test_a_silent_word_leaves_the_normalisation_as_it_is():
    scale, shift = Adapt(4, SPEC, silent=True)(torch.randn(2, 2, 5, 5))
    assert scale.shape == shift.shape == (2, 4, 5, 5) and (scale == 1).all() and (shift == 0).all()
    assert all((part == 0).all() for part in Positional(4, 0, silent=True)(torch.rand(2), PLACE, None))


def test_scale_and_shift_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = [*Adapt(4, SPEC, silent=False)(torch.randn(2, 2, 5, 5)), *Positional(4, 0, False)(torch.rand(2), PLACE, None)]
    assert {part.dtype for part in parts} == {torch.float32}


# --- time and place ------------------------------------------------------------------------------------------

def positional(motion=0):
    torch.manual_seed(0)
    return Positional(4, motion, silent=False)


def by_hand(layer, time, place, motion=None):
    """W3 SiLU(W2 sin(W1 u) + W4 m) at one position, u = (time, which plane, place)."""
    def matrix(module):
        return module.weight.flatten(1)
    w1 = torch.cat([layer.time.weight, matrix(layer.place)], 1)
    hidden = matrix(layer.hidden) @ torch.sin(w1 @ torch.cat([time[None], place]) + layer.time.bias) + layer.hidden.bias
    if motion is not None:
        hidden = hidden + matrix(layer.motion) @ motion
    return matrix(layer.out) @ nn.functional.silu(hidden) + layer.out.bias


@pytest.mark.parametrize("motion", [0, 3])
def test_it_is_the_formula_at_every_position(motion):
    layer, time, hint = positional(motion), torch.tensor([-0.5, 0.9]), torch.randn(2, 3, 4, 5)
    said = torch.cat(layer(time, PLACE, layer.motion(hint) if motion else None), 1)
    assert said.shape == (2, 8, 4, 5)
    for b in range(2):
        for i, j in ((0, 0), (3, 4), (1, 2)):
            wanted = by_hand(layer, time[b], PLACE[0, :, i, j], hint[b, :, i, j] if motion else None)
            torch.testing.assert_close(said[b, :, i, j], wanted)


def test_planes_of_a_sample_stand_side_by_side():
    layer, time = positional(), torch.tensor([-0.5, 0.9])
    planes = coordinates(PlaneShape(4, 4, 4), torch.device("cpu"))
    together = torch.cat(layer(time, torch.stack(planes), None), 1).unflatten(0, (2, 3))
    for k, plane in enumerate(planes):
        torch.testing.assert_close(together[:, k], torch.cat(layer(time, plane[None], None), 1))


# --- hints ---------------------------------------------------------------------------------------------------

class Reader(nn.Module):
    """A block that counts how often it reads."""
    times = 0

    def read_hint(self, pyramid):
        self.times += 1
        return [sheet + self.times for sheet in pyramid[0]]


@pytest.mark.parametrize("keep, times", [(True, 1), (False, 3)])
def test_a_block_reads_a_hint_once_if_it_is_kept(keep, times):
    hint, blocks = Hint([[torch.zeros(1, 2, 3, 3)]], keep), (Reader(), Reader())
    for _ in range(3):
        last = [hint.of(block)[0] for block in blocks]
    assert [block.times for block in blocks] == [times, times] and all((part == times).all() for part in last)
