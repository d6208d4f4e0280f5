"""Planes as batches of pictures, and the layers of the U-Net's blocks: inverses, closed forms and invariances."""

import math

import pytest
import torch
import torch.nn.functional as F

from autoencoder.planes import PlaneShape, unpack
from latent_diffusion.sheets import (
    COORDINATES,
    POSITION_FEATURES,
    Norm,
    as_sheet,
    as_tokens,
    convolve,
    coordinates,
    equal_planes,
    few_rows,
    from_sheets,
    halved,
    per_plane,
    position_features,
    project,
    pyramid,
    time_features,
    to_sheets,
    wide,
    zeroed,
)
from tools import dry_run

SHAPES = [PlaneShape(*size) for size in ((2, 4, 4), (3, 4, 5), (4, 4, 4), (1, 1, 1), (3, 3, 5))]
CPU = torch.device("cpu")


def test_equal_planes_share_a_batch():
    groups = {shape: equal_planes(PlaneShape(*shape)) for shape in [(2, 4, 4), (4, 4, 4), (2, 3, 4), (3, 3, 4)]}
    assert list(groups.values()) == [[[0], [1, 2]], [[0, 1, 2]], [[0], [1], [2]], [[0, 1], [2]]]


@pytest.mark.parametrize("channels, groups", [(256, 32), (64, 32), (80, 16), (48, 2), (32, 4), (7, 1)])
def test_norm_takes_any_channel_count(channels, groups):
    norm = Norm(channels)
    assert norm.num_groups == groups
    x = 5 + 3 * torch.randn(2, channels, 6)
    y = norm(x).reshape(2, groups, -1)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(2, groups), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels, asked, groups", [(32, 32, 32), (64, 8, 8), (48, 32, 16)])
def test_norm_groups_can_be_set(channels, asked, groups):
    assert Norm(channels, asked).num_groups == groups


def test_norm_is_float32_under_autocast():
    norm, x = Norm(64), (100 + torch.randn(2, 64, 50)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, norm.double()(x.double()).float(), atol=1e-3, rtol=0)


# --- sheets --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", SHAPES)
def test_sheets_are_the_planes_and_can_be_packed_again(shape):
    x, groups = torch.randn(2, 6, shape.total), equal_planes(shape)
    sheets, planes = to_sheets(x, shape, groups), unpack(x, shape)
    for sheet, group in zip(sheets, groups, strict=True):
        rows = sheet.unflatten(0, (2, len(group)))  # those of a sample are side by side
        assert all(torch.equal(rows[:, k], planes[i]) for k, i in enumerate(group))
    assert torch.equal(from_sheets(sheets, 2, groups), x)


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_tokens_are_the_positions_of_a_samples_planes(planes):
    sheet = torch.randn(2 * planes, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    tokens = as_tokens(sheet, 2)
    assert tokens.shape == (2, planes * 12, 5) and tokens.data_ptr() == sheet.data_ptr()
    assert torch.equal(tokens[1, 12 * (planes - 1) + 4 * 2 + 3], sheet[2 * planes - 1, :, 2, 3])
    assert torch.equal(as_sheet(tokens, sheet), sheet)


def test_a_value_of_a_sample_reaches_each_of_its_planes():
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert per_plane(value, torch.empty(6, 9, 1, 1)).shape == (6, 2, 1, 1)
    assert per_plane(value, torch.empty(6, 9, 1, 1))[..., 0, 0].tolist() == [[1, 2]] * 3 + [[3, 4]] * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 2), (6, 7)])
def test_the_next_level_holds_the_mean_of_what_it_covers(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = halved(x)
    for i in range(out.shape[-2]):
        for j in range(out.shape[-1]):
            torch.testing.assert_close(out[..., i, j], x[..., 2 * i:2 * i + 2, 2 * j:2 * j + 2].mean((-2, -1)))
    assert out.shape[-2:] == (-(-size[0] // 2), -(-size[1] // 2))


def test_a_pyramid_begins_with_the_sheets_themselves():
    sheets = [torch.randn(1, 2, 8, 6), torch.randn(1, 2, 3, 3)]
    levels = pyramid(sheets, 3)
    assert len(levels) == 3 and levels[0] is sheets
    assert all(torch.equal(levels[2][i], halved(halved(sheet))) for i, sheet in enumerate(sheets))


# --- layers --------------------------------------------------------------------------------------------------

def test_what_is_narrow_becomes_wide_and_nothing_becomes_narrower():
    kinds = [wide(torch.zeros(1, dtype=kind)).dtype for kind in (torch.bfloat16, torch.float16, torch.float32, torch.float64)]
    assert kinds == [torch.float32] * 3 + [torch.float64]


def test_a_norm_without_scale_and_shift_is_the_group_norm():
    x = torch.randn(2, 48, 5)
    norm = Norm(48, affine=False)
    assert not list(norm.parameters())
    torch.testing.assert_close(norm(x), F.group_norm(x, norm.num_groups, eps=1e-5))


@pytest.mark.parametrize("silent", [True, False])
def test_the_last_layer_of_a_branch_may_be_silent(silent):
    layer = zeroed(torch.nn.Linear(3, 2), silent)
    assert all((p == 0).all() for p in layer.parameters()) == silent


def test_time_is_told_by_cosines_and_sines_from_1_down():
    t = torch.tensor([0.0, 1.0, 37.0])
    features = time_features(t, 8)
    for i in range(4):
        angle = t * 10000 ** (-i / 4)
        torch.testing.assert_close(features[:, i], angle.cos())
        torch.testing.assert_close(features[:, 4 + i], angle.sin())


# --- places --------------------------------------------------------------------------------------------------

AXES = {"hw": (1, 2), "tw": (0, 2), "th": (0, 1)}  # of t, h and w


@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_are_which_plane_and_minus_one_to_one_on_its_axes(shape):
    sizes = (shape.t, shape.h, shape.w)
    for number, (plane, (rows, columns)) in enumerate(zip(coordinates(shape, CPU), AXES.values(), strict=True)):
        assert plane.shape == (COORDINATES, sizes[rows], sizes[columns])
        for i in range(sizes[rows]):
            for j in range(sizes[columns]):
                place = [0.0, 0.0, 0.0]
                for axis, at in ((rows, i), (columns, j)):
                    place[axis] = 2 * at / (sizes[axis] - 1) - 1 if sizes[axis] > 1 else 0.0
                wanted = [float(number == k) for k in range(3)] + place
                torch.testing.assert_close(plane[:, i, j], torch.tensor(wanted))


def test_positions_have_periods_of_4_to_512_tokens_on_the_axes_of_a_plane():
    shape = PlaneShape(3, 4, 5)
    for number, (plane, (rows, columns)) in enumerate(zip(position_features(shape, CPU), AXES.values(), strict=True)):
        assert plane.shape[0] == POSITION_FEATURES and plane[:3, 0, 0].tolist() == [float(number == k) for k in range(3)]
        codes = plane[3:].unflatten(0, (3, 2, 8))  # axis, cosine or sine, octave
        for octave in range(8):
            for axis, at in ((rows, 2), (columns, 3)):
                angle = 2 * math.pi * at / (4 * 2 ** octave)
                wanted = torch.tensor([math.cos(angle), math.sin(angle)])
                torch.testing.assert_close(codes[axis, :, octave, 2, 3], wanted, atol=1e-6, rtol=0)
        absent = ({0, 1, 2} - {rows, columns}).pop()
        assert (codes[absent] == 0).all()


def test_places_of_a_larger_grid_begin_like_those_of_a_smaller_one():
    small, large = (position_features(PlaneShape(*size), CPU) for size in ((2, 3, 4), (5, 6, 7)))
    for a, b in zip(small, large):
        assert torch.equal(a, b[:, :a.shape[1], :a.shape[2]])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("sizes", [[(2, 3, 2)], [(1, 2, 4), (2, 1, 3)], [(3, 1, 1), (2, 6, 5)]])  # joined, and one by one
def test_a_convolution_of_many_sheets_is_that_of_each(kernel, sizes):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(20, 6, kernel, padding=kernel // 2).double().to(memory_format=torch.channels_last)
    sheets = [torch.randn(n, 20, h, w, dtype=torch.float64, requires_grad=True) for n, h, w in sizes]
    made, wanted = convolve(conv, sheets), [conv(x) for x in sheets]
    for ours, theirs in zip(made, wanted):
        torch.testing.assert_close(ours, theirs)
    inputs = [*sheets, *conv.parameters()]
    weights = [torch.randn_like(x) for x in wanted]
    for ours, theirs in zip(torch.autograd.grad(made, inputs, weights), torch.autograd.grad(wanted, inputs, weights)):
        torch.testing.assert_close(ours, theirs)


def test_few_positions_read_the_weights_once(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Conv2d, "forward", lambda self, x: calls.append(x.shape) or x)
    conv = torch.nn.Conv2d(20, 20, 3, padding=1)
    convolve(conv, [torch.randn(1, 20, 3, 3), torch.randn(2, 20, 1, 3)])  # 15 positions
    assert not calls
    convolve(conv, [torch.randn(1, 20, 3, 3), torch.randn(4, 20, 1, 3)])  # 21
    assert len(calls) == 2


def test_a_count_without_numbers_leaves_nothing_behind():
    sheets = [(1, 20, 2, 2), (2, 20, 1, 2)]
    with dry_run.hollow(lambda: torch.nn.Conv2d(20, 4, 3, padding=1)) as conv:
        convolve(conv, [torch.empty(size) for size in sheets])
    conv = torch.nn.Conv2d(20, 4, 3, padding=1)
    real = [torch.randn(size) for size in sheets]
    torch.testing.assert_close(convolve(conv, real), [conv(x) for x in real])


@pytest.mark.parametrize("rows", [1, 2, 48, 49])
def test_few_rows_go_through_the_same_layer(rows):
    layer, x = torch.nn.Linear(7, 5).double(), torch.randn(rows, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(rows, 5, dtype=torch.float64)
    made, wanted = few_rows(x, layer.weight, layer.bias), layer(x)
    torch.testing.assert_close(made, wanted)
    inputs = [x, *layer.parameters()]
    for ours, theirs in zip(torch.autograd.grad(made, inputs, weights), torch.autograd.grad(wanted, inputs, weights)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shapes", [[(2, 3, 20)], [(1, 4, 20), (2, 2, 3, 20)], [(2, 8, 20), (1, 9, 20)]])
def test_a_linear_layer_of_many_tensors_is_that_of_each(shapes):
    layer, parts = torch.nn.Linear(20, 6).double(), [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    torch.testing.assert_close(project(layer, parts), [layer(part) for part in parts])


def test_few_tokens_read_the_weights_of_a_linear_layer_once(monkeypatch):
    calls, layer = [], torch.nn.Linear(20, 6)
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: calls.append(x.shape) or x)
    project(layer, [torch.randn(1, 10, 20), torch.randn(2, 4, 20)])  # 18 tokens
    assert not calls
    project(layer, [torch.randn(1, 10, 20), torch.randn(2, 5, 20)])
    assert len(calls) == 2
