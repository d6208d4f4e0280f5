"""Convolutions at frequencies against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F

from evals.convolve import CyclicConv, cheapest, cycles, direct_operations


def drawn(h, w, n, c, d, k, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(h, w, n, c, generator=draw), torch.randn(d, c, k, k, generator=draw) / (c * k * k) ** 0.5,
            torch.randn(d, generator=draw))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 3), (5, 9), (7, 7), (15, 4), (20, 33)])
@pytest.mark.parametrize("taps, padding", [(1, 0), (3, 1), (3, 2), (5, 2)])
def test_equals_pytorchs_convolution(size, taps, padding):
    x, weight, bias = drawn(*size, 3, 6, 5, taps)
    ours = CyclicConv(weight, bias, size, padding=padding)(x)
    wanted = F.conv2d(x.permute(2, 3, 0, 1).double(), weight.double(), bias.double(), padding=padding)
    torch.testing.assert_close(ours.permute(2, 3, 0, 1).double(), wanted, atol=5e-6, rtol=0)


@pytest.mark.parametrize("side, taps, c, d", [(3, 3, 384, 256), (7, 5, 64, 192), (15, 3, 192, 384)])
def test_digits_are_those_of_float32_at_the_layers_of_alexnet(side, taps, c, d):
    x, weight, bias = drawn(side, side, 2, c, d, taps)
    planes = x.permute(2, 3, 0, 1)
    wanted = F.conv2d(planes.double(), weight.double(), bias.double(), padding=taps // 2)
    ours = CyclicConv(weight, bias, (side, side), padding=taps // 2)(x).permute(2, 3, 0, 1)
    off, librarys = ((y - wanted).square().mean().sqrt() for y in (ours, F.conv2d(planes, weight, bias, padding=taps // 2)))
    assert off < max(4 * librarys, 1e-6)


@pytest.mark.parametrize("size, taps, axes, frequencies", [((3, 3), 3, 4, 22), ((7, 7), 5, 9, 121)])
def test_a_small_map_is_one_cycle(size, taps, axes, frequencies):
    # 4 of the 16 frequencies of a 4x4 cycle are real and 6 pairs cost three products each; of 9x9, 1 and 40.
    shape = (384, 192, taps, taps)
    found, operations = cheapest(shape, size, taps // 2)
    assert [axis.length for axis in found] == [axes, axes]
    reads = size[0] * size[1]
    assert operations == 2 * frequencies * (384 * 192 + reads * (384 + 192)) < direct_operations(shape, size, taps // 2)


def test_tiles_cover_the_axis():
    for axis in cycles(33, 5, 2):
        assert axis.count * axis.outputs >= 33 and (axis.count == 1 or axis.outputs == axis.length - 4)


def test_a_frame_gives_the_same_bits_beside_any_others():
    x, weight, bias = drawn(7, 7, 9, 64, 96, 5)
    conv = CyclicConv(weight, bias, (7, 7), padding=2)
    together = conv(x)
    for some in (slice(0, 1), slice(3, 5), slice(2, 9)):
        assert torch.equal(conv(x[:, :, some]), together[:, :, some])


def test_operations_of_the_convolution_itself_leave_out_the_border():
    _, weight, _ = drawn(3, 3, 1, 1, 1, 3)
    assert direct_operations(weight.shape, (3, 3), 1) == 2 * int(F.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3),
                                                                          padding=1).sum())
