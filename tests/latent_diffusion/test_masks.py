"""Mask samplers as a registry, and the spelling of known frames."""

import pytest
import torch

from latent_diffusion.masks import MASKS, parse_known

each_mask = pytest.mark.parametrize("name", list(MASKS))


def uniform(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.rand((), generator=generator, dtype=torch.float64).item()


def masks(name, t, count, **options):
    draw = uniform(0)
    sample = MASKS.bind({"name": name, **options})
    return torch.stack([sample(t, draw) for _ in range(count)])  # count t


@each_mask
@pytest.mark.parametrize("t", [1, 2, 5, 32])
def test_a_mask_leaves_something_to_make(name, t):
    known = masks(name, t, 200)
    assert known.dtype == torch.bool and known.shape == (200, t)
    assert not known.all(dim=1).any()


@each_mask
def test_a_mask_is_a_function_of_the_draws(name):
    assert torch.equal(masks(name, 16, 20), masks(name, 16, 20))


@each_mask
@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_draws_are_fine(name, number):
    assert not MASKS.get(name)(7, lambda: number).all()


def test_pvdm_gives_the_first_clip_at_its_rate():
    known = masks("pvdm", 32, 4000, rate=0.3)
    given = known[:, 0]
    assert torch.equal(known, given[:, None] & (torch.arange(32) < 16))
    assert given.double().mean().item() == pytest.approx(0.3, abs=0.025)
    assert not masks("pvdm", 32, 50, rate=0.0).any()
    assert masks("pvdm", 32, 50, rate=1.0)[:, 0].all()


def test_prefixes_of_every_length_are_alike():
    known = masks("prefix", 5, 5000)
    lengths = known.sum(1)
    assert torch.equal(known, torch.arange(5) < lengths[:, None])
    torch.testing.assert_close(lengths.bincount() / 5000, torch.full((5,), 0.2), rtol=0, atol=0.025)


def test_none_knows_nothing():
    assert not masks("none", 8, 3).any()


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="rate"):
        masks("pvdm", 8, 1, rate=rate)


@pytest.mark.parametrize("spec, wanted", [
    ("", []),
    ("0", [0]),
    ("0-3,12", [0, 1, 2, 3, 12]),
    (" 0-3 , 12 ", [0, 1, 2, 3, 12]),
    ("0,16", [0, 16]),
    ("-1", [19]),
    ("-4--1", [16, 17, 18, 19]),
    ("17--1", [17, 18, 19]),
    ("-20-1", [0, 1]),
    ("3-3", [3]),
    ("2,2-4,3", [2, 3, 4]),
    ("12,0-1", [0, 1, 12]),
    ("007", [7]),
])
def test_known_frames(spec, wanted):
    assert parse_known(spec, 20).nonzero().flatten().tolist() == wanted


@pytest.mark.parametrize("spec, word", [
    ("20", "outside"), ("-21", "outside"), ("0-20", "outside"), ("99999999999999999999", "outside"),
    ("3-1", "backward"), ("-1--4", "backward"), ("5--20", "backward"),
    ("0-19", "nothing to make"), ("0--1", "nothing to make"), ("0-9,10-19", "nothing to make"),
    ("a", '"a" is neither'), ("1.5", "neither"), ("0,", '"" is neither'), (",", "neither"), ("1-", "neither"),
    ("1-2-3", "neither"), ("0:3", "neither"), ("--1", "neither"), ("1 2", "neither"), ("²", "neither"),
])
def test_a_wrong_spec_is_named_in_one_line(spec, word):
    with pytest.raises(ValueError, match=word) as error:
        parse_known(spec, 20)
    assert f'known="{spec}"' in str(error.value) and "\n" not in str(error.value)
