"""Minimal filtering against the library's convolution, and what is kept of frozen weights."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latent_diffusion import sheets, winograd
from latent_diffusion.sheets import convolve
from latent_diffusion.winograd import KEPT, POINTS, Plan, cheapest, kept, transforms
from tools.ema import Ema, EmaConfig
from tools.speed import count_flops

SIDES = list(POINTS)
PLANES = [[(1, 8, 8), (2, 4, 8)], [(2, 3, 5), (1, 7, 9), (4, 1, 2)], [(3, 1, 9), (1, 6, 2)]]


def drawn(sizes, channels, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(n, channels, h, w, dtype=dtype, requires_grad=True) for n, h, w in sizes]


def layer(inputs, outputs, dtype=torch.float64):
    return nn.Conv2d(inputs, outputs, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.fixture(params=SIDES)
def side(request, monkeypatch):
    """Tiles of this side whatever is faster; frozen weights are kept."""
    monkeypatch.setattr(winograd, "cheapest", lambda *sizes, frozen: Plan(request.param, frozen))
    return request.param


@pytest.mark.parametrize("m", SIDES)
def test_one_tile_is_the_sum_over_its_taps(m):
    maps, n = transforms(m), m + 2
    image, weight = np.random.default_rng(0).normal(size=(n, n)), np.arange(9.0).reshape(3, 3) - 2
    made = maps.write @ ((maps.weight @ weight.ravel()) * (maps.read @ image.ravel()))
    wanted = [(image[i:i + 3, j:j + 3] * weight).sum() for i in range(m) for j in range(m)]
    np.testing.assert_allclose(made, wanted, atol=1e-13)


@pytest.mark.parametrize("sizes", [*([(2, n, n)] for n in range(1, 10)), *PLANES])
def test_any_sheets_are_convolved_as_by_the_library(side, sizes):
    conv, planes = layer(3, 5), drawn(sizes, 3)
    made, wanted = convolve(conv, planes), [conv(x) for x in planes]
    torch.testing.assert_close(made, wanted, atol=1e-12, rtol=0)
    inputs, weights = [*planes, *conv.parameters()], [torch.randn_like(x) for x in wanted]
    torch.testing.assert_close(torch.autograd.grad(made, inputs, weights), torch.autograd.grad(wanted, inputs, weights),
                               atol=1e-12, rtol=0)


def test_gradients_are_those_of_differences(side):
    conv = layer(2, 3)
    assert torch.autograd.gradcheck(lambda *planes: tuple(convolve(conv, planes)), drawn([(1, 3, 2), (2, 1, 5)], 2))


@pytest.mark.parametrize("m, tolerance", [(2, 1e-5), (4, 4e-5)])
def test_rounding_in_single_precision_is_small(monkeypatch, m, tolerance):
    monkeypatch.setattr(winograd, "cheapest", lambda *sizes, frozen: Plan(m, frozen))
    conv, (x,) = layer(256, 64, torch.float32), drawn([(1, 16, 16)], 256, torch.float32)
    nn.init.normal_(conv.weight, std=1 / math.sqrt(9 * 256))  # outputs of about 1
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    (made,) = convolve(conv, [x])
    assert (made - exact).abs().max() < tolerance
    weights = torch.randn_like(made)
    for ours, theirs in zip(torch.autograd.grad(made, [x, conv.weight], weights),
                            torch.autograd.grad(exact, [x, conv.weight], weights.double())):
        assert (ours - theirs).abs().max() < tolerance * theirs.std()


def test_the_gradient_of_weights_is_laid_as_they_are(side):
    conv = layer(3, 5)
    convolve(conv, drawn([(1, 4, 4)], 3))[0].sum().backward()
    assert conv.weight.grad.stride() == conv.weight.stride()


def test_a_step_is_the_same_to_the_bit_when_it_is_repeated(side):
    conv, planes = layer(8, 8, torch.float32), drawn(PLANES[1], 8, torch.float32)
    inputs = [*planes, *conv.parameters()]
    first, again = (torch.autograd.grad([x.square().sum() for x in convolve(conv, planes)], inputs) for _ in range(2))
    assert all(map(torch.equal, first, again))


def frozen_layer():
    return layer(3, 5).requires_grad_(False)


@pytest.mark.parametrize("change", [
    lambda conv: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}),
    lambda conv: conv.weight.add_(1),
    lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight + 1, requires_grad=False)),
    lambda conv: conv.to(torch.float32).double(),
], ids=["loaded", "in place", "replaced", "cast"])
def test_kept_weights_are_renewed_when_the_layer_has_others(side, change):
    conv, planes = frozen_layer(), drawn(PLANES[0], 3)
    before = convolve(conv, planes)
    held = KEPT[conv].weights
    assert kept(conv, side) is held, "they serve again"
    with torch.no_grad():
        change(conv)
    after = convolve(conv, planes)
    torch.testing.assert_close(after, [conv(x) for x in planes], atol=1e-12, rtol=0)
    assert KEPT[conv].weights is not held and not torch.equal(before[0], after[0])


def test_a_layer_that_is_trained_keeps_nothing(side):
    conv, (x,) = layer(3, 5), drawn([(1, 4, 4)], 3)
    optimizer, averages = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True), Ema(conv, EmaConfig())
    for _ in range(2):
        convolve(conv, [x])[0].square().sum().backward()
        optimizer.step()
        with torch.no_grad(), averages.applied(conv):
            torch.testing.assert_close(convolve(conv, [x])[0], conv(x), atol=1e-12, rtol=0)
        torch.testing.assert_close(convolve(conv, [x])[0], conv(x), atol=1e-12, rtol=0)
    assert conv not in KEPT


def test_what_is_kept_follows_an_optimizer_and_averages_of_weights_that_freeze_in_between(side):
    conv, (x,) = layer(3, 5), drawn([(1, 4, 4)], 3)
    optimizer, averages = torch.optim.AdamW(conv.parameters(), lr=0.1, fused=True), Ema(conv, EmaConfig())
    for _ in range(2):
        convolve(conv.requires_grad_(True), [x])[0].square().sum().backward()
        optimizer.step()
        conv.requires_grad_(False)
        for inside in (True, False):
            with averages.applied(conv) if inside else torch.no_grad():
                torch.testing.assert_close(convolve(conv, [x])[0], conv(x), atol=1e-12, rtol=0)


def test_what_is_kept_is_no_part_of_the_layer(side):
    conv = frozen_layer()
    convolve(conv, drawn([(1, 4, 4)], 3))
    other = copy.deepcopy(conv)
    assert list(conv.state_dict()) == ["weight", "bias"] and vars(conv).keys() == vars(layer(3, 5)).keys()
    assert conv in KEPT and other not in KEPT
    count = len(KEPT)
    del conv
    assert len(KEPT) == count - 1


def test_a_frozen_layer_passes_gradients_on(side):
    conv, (x,) = frozen_layer(), drawn([(1, 5, 4)], 3)
    made, wanted = convolve(conv, [x])[0], conv(x)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (made, wanted)), atol=1e-11, rtol=0)


def test_tensors_of_inference_mode_serve_too(side):
    conv, (x,) = frozen_layer(), drawn([(1, 5, 4)], 3)
    with torch.inference_mode():
        convolve(conv, [x])
        made_inside = layer(3, 5).requires_grad_(False)
        torch.testing.assert_close(convolve(made_inside, [x])[0], made_inside(x), atol=1e-12, rtol=0)
    convolve(conv, [x])[0].sum().backward()
    assert made_inside not in KEPT and x.grad is not None


def test_bfloat16_stays_with_the_library(side, monkeypatch):
    monkeypatch.setattr(sheets.winograd.Convolution, "apply", None)
    conv, x = layer(3, 5, torch.float32), drawn([(1, 4, 4)], 3, torch.float32)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(conv, [x])[0].dtype == torch.bfloat16
    assert convolve(conv.bfloat16(), [x.bfloat16()])[0].dtype == torch.bfloat16


def test_a_counter_is_shown_the_operations_of_the_convolution(side):
    conv, planes = layer(3, 5), drawn(PLANES[1], 3)
    assert count_flops(lambda: convolve(conv, planes))[0] == sum(2 * 9 * 3 * 5 * n * h * w for n, h, w in PLANES[1])


@pytest.mark.parametrize("level, channels, clips, plan", [
    (0, 256, 1, Plan(4, True)), (1, 512, 1, Plan(2, True)), (2, 1024, 1, Plan()), (3, 1024, 1, Plan()),
    (2, 1024, 4, Plan(2, False)), (0, 8, 1, Plan())])
def test_the_published_levels_are_computed_as_measured(level, channels, clips, plan):
    sizes = [(clips, 32 >> level, 32 >> level), (2 * clips, 16 >> level, 32 >> level)]
    assert cheapest(sizes, channels, channels, frozen=True) == plan
    assert not cheapest(sizes, channels, channels, frozen=False).keep
