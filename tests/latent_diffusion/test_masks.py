"""Mask samplers as a registry, their distributions, and the spelling of known frames."""

import itertools
from collections import Counter

import pytest
import torch

from latent_diffusion.masks import MASKS, fdm_sets, parse_known, thinned

each_mask = pytest.mark.parametrize("name", list(MASKS))


def uniform(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.rand((), generator=generator, dtype=torch.float64).item()


def masks(name, t, count, **options):
    draw = uniform(0)
    sample = MASKS.bind({"name": name, **options})
    return torch.stack([sample(t, draw) for _ in range(count)])  # count t


def given(mask):
    return tuple(mask.nonzero().flatten().tolist())


def enumerated(sample, *grid):
    """How often a sampler of (draw) gives each set of frames, over all draws (the n-th one of grid[n] even values)."""
    draws = itertools.product(*([(i + 0.5) / count for i in range(count)] for count in grid))
    return Counter(given(sample(iter(values).__next__)) for values in draws)


def every(name, t, *grid, **options):
    sample = MASKS.bind({"name": name, **options})
    return enumerated(lambda draw: sample(t, draw), *grid)


def chi_square(found, expected):
    """Pearson's statistic of counts against what they should be, and how large chance lets it be (5 sigma)."""
    counts = [found.get(key, 0) for key in expected]
    assert set(found) <= set(expected)
    total = sum((count - wanted) ** 2 / wanted for count, wanted in zip(counts, expected.values(), strict=True))
    freedom = len(expected) - 1
    return total, freedom + 5 * (2 * freedom) ** 0.5


@each_mask
@pytest.mark.parametrize("t", [1, 2, 5, 32])
def test_a_mask_leaves_something_to_make(name, t):
    known = masks(name, t, 200, **({"known": ""} if name == "fixed" and t == 1 else {}))  # its one frame is to be made
    assert known.dtype == torch.bool and known.shape == (200, t)
    assert not known.all(dim=1).any()


@each_mask
def test_a_mask_is_a_function_of_the_draws(name):
    assert torch.equal(masks(name, 16, 20), masks(name, 16, 20))


@each_mask
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53])
@pytest.mark.parametrize("t", [2, 7, 33])
def test_the_ends_of_the_draws_are_fine(name, number, t):
    draws = iter([number] * (4 * t + 64))  # as many as training has ready
    assert not MASKS.get(name)(t, draws.__next__).all()


def test_pvdm_gives_the_first_clip_at_its_rate():
    known = masks("pvdm", 32, 4000, rate=0.3)
    given = known[:, 0]
    assert torch.equal(known, given[:, None] & (torch.arange(32) < 16))
    assert given.double().mean().item() == pytest.approx(0.3, abs=0.025)
    assert not masks("pvdm", 32, 50, rate=0.0).any()
    assert masks("pvdm", 32, 50, rate=1.0)[:, 0].all()


def test_none_knows_nothing():
    assert not masks("none", 8, 3).any()


@pytest.mark.parametrize("t", [1, 2, 5])
def test_prefixes_and_suffixes_of_every_length(t):
    assert every("prefix", t, t) == {tuple(range(k)): 1 for k in range(t)}
    assert every("suffix", t, t) == {tuple(range(t - k, t)): 1 for k in range(t)}


@pytest.mark.parametrize("t", [1, 2, 5])
def test_both_ends_leave_every_run_alike(t):
    runs = [range(begin, end) for begin in range(t) for end in range(begin + 1, t + 1)]
    assert every("both", t, t + 1, t) == {tuple(i for i in range(t) if i not in run): 2 for run in runs}


def test_fixed_frames():
    assert every("fixed", 6, known="0-1,-1") == {(0, 1, 5): 1}
    assert every("fixed", 6, known=-1) == {(5,): 1}  # what YAML makes of -1
    with pytest.raises(ValueError, match="nothing to make"):
        masks("fixed", 1, 1)


PAST, FUTURE = (0, 1), (4, 5)


def test_mcvd_trains_four_tasks_alike():
    assert every("mcvd", 6, 2, 2) == {PAST + FUTURE: 1, PAST: 1, FUTURE: 1, (): 1}


def test_mcvd_hides_each_block_at_its_own_rate():
    found = every("mcvd", 6, 4, 8, p_past=0.25, p_future=0.625)
    assert found == {PAST + FUTURE: 3 * 3, PAST: 3 * 5, FUTURE: 1 * 3, (): 1 * 5}
    assert every("mcvd", 6, 4, 4, p_past=0.0, p_future=1.0) == {PAST: 16}
    assert every("mcvd", 6, 4, 4, p_past=1.0, p_future=0.0) == {FUTURE: 16}


def test_mcvd_in_step_hides_both_or_none():
    assert every("mcvd", 6, 4, 4, p_past=0.25, p_future=0.25, sync=True) == {PAST + FUTURE: 12, (): 4}
    with pytest.raises(ValueError, match="sync"):
        masks("mcvd", 6, 1, p_past=0.25, sync=True)


@pytest.mark.parametrize("t, lengths, wanted", [
    (48, {}, (16, 16, 16)), (16, {}, (5, 6, 5)), (5, {}, (2, 2, 1)), (2, {}, (1, 1, 0)), (1, {}, (0, 1, 0)),
    (15, {"past": 10, "future": 0}, (10, 5, 0)), (15, {"past": 10}, (10, 3, 2)), (15, {"current": 5}, (5, 5, 5)),
    (12, {"past": 5, "current": 5, "future": 2}, (5, 5, 2)), (7, {"current": 2}, (3, 2, 2)),
])
def test_blocks_of_mcvd(t, lengths, wanted):
    past, current, future = wanted
    found = masks("mcvd", t, 1, p_past=0.0, p_future=0.0, **lengths)[0]
    assert found.tolist() == [True] * past + [False] * current + [True] * future


@pytest.mark.parametrize("lengths", [
    {"past": 16}, {"past": 9, "future": 9}, {"current": 0}, {"past": 5, "current": 5, "future": 5}, {"past": -1}])
def test_blocks_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="past, current and future must add up to the window of 16 frames") as error:
        masks("mcvd", 16, 1, **lengths)
    assert "\n" not in str(error.value)


def test_ramvid_knows_random_sets():
    # 1/4 nothing; else one or two of four frames alike, each set of a size alike.
    wanted = {(): 24} | {(i,): 9 for i in range(4)} | {pair: 6 for pair in itertools.combinations(range(4), 2)}
    assert every("ramvid", 4, 4, 2, 4, 3, max_known=2, p_u=0.25) == wanted


@pytest.mark.parametrize("t, most", [(3, 2), (2, 1), (1, 0)])
def test_ramvid_never_knows_all(t, most):
    known = masks("ramvid", t, 300, max_known=9, p_u=0.0)
    assert set(known.sum(1).tolist()) == (set(range(1, most + 1)) or {0})


def test_ramvid_among_frames_and_from_sets():
    assert every("ramvid", 6, 1, 1, 2, max_known=1, p_u=0.0, among="1,-1") == {(1,): 1, (5,): 1}
    assert every("ramvid", 6, 1, 4, 2, 1, p_u=0.0, among="1,-1") == {(1,): 2, (5,): 2, (1, 5): 4}
    assert every("ramvid", 4, 1, 1, 4, max_known=1, p_u=0.0, among="0-3") == {(i,): 1 for i in range(4)}
    assert every("ramvid", 6, 4, 2, p_u=0.25, sets=["0-2", "0,-1"]) == {(): 2, (0, 1, 2): 3, (0, 5): 3}
    assert every("ramvid", 6, 1, 2, p_u=0.0, sets=[0, -1]) == {(0,): 1, (5,): 1}


def test_ramvid_is_uniform_in_a_real_window():
    known = masks("ramvid", 16, 4000, max_known=4, p_u=0.25)
    sizes = Counter(known.sum(1).tolist())
    total, bound = chi_square(sizes, {0: 1000, 1: 750, 2: 750, 3: 750, 4: 750})
    assert total < bound
    total, bound = chi_square(dict(enumerate(known.sum(0).tolist())), dict.fromkeys(range(16), 3000 * 2.5 / 16))
    assert total < bound


# Shares in percent, as measured on the published sampler: t, max_frames, then nothing observed, all observed before
# those that are made, all after, else.
FDM_TASKS = [(1000, 20, 72.6, 6.4, 7.2, 13.9), (64, 16, 69.6, 4.1, 4.3, 22.0), (32, 16, 62.5, 3.5, 3.2, 30.7),
             (16, 8, 65.6, 5.5, 4.8, 24.0)]


def fdm_task(observed, made):
    if not observed.any():
        return "none"
    observed, made = given(observed), given(made)
    return "before" if observed[-1] < made[0] else "after" if observed[0] > made[-1] else "else"


@pytest.mark.parametrize("t, most, none, before, after, other", FDM_TASKS)
def test_fdm_has_the_published_mixture_of_tasks(t, most, none, before, after, other):
    draw = uniform(1)
    found = Counter(fdm_task(*fdm_sets(t, draw, most)) for _ in range(2000))
    for task, share in {"none": none, "before": before, "after": after, "else": other}.items():
        p = share / 100
        error = (2 * p * (1 - p) / 2000) ** 0.5  # of the difference: the published shares are of 2000 draws, too
        assert found[task] / 2000 == pytest.approx(p, abs=4 * error)


def test_fdm_observes_and_makes_as_many_as_published():
    draw = uniform(2)
    sizes = torch.tensor([[int(frames.sum()) for frames in fdm_sets(1000, draw, 20)] for _ in range(2000)]).double()
    assert sizes.mean(0).tolist() == pytest.approx([2.0, 12.7], abs=0.5)


def test_fdm_groups_of_two_frames():
    # Two frames: one or both are made first; if one, the other goes to either side alike.
    found = Counter(given(fdm_sets(2, draw, 2)[0]) for draw in [uniform(3)] for _ in range(4000))
    total, bound = chi_square(found, {(): 3000, (0,): 500, (1,): 500})
    assert total < bound


def test_fdm_with_room_for_one_frame_makes_that():
    assert enumerated(lambda draw: fdm_sets(5, draw, 1)[1], 1, 1, 5, 1, 1, 1, 1) == {(i,): 1 for i in range(5)}
    assert not masks("fdm", 5, 50, max_frames=1).any()


@pytest.mark.parametrize("t, most", [(8, 8), (8, 20), (30, 4)])
def test_fdm_keeps_to_its_frames(t, most):
    draw = uniform(4)
    for _ in range(300):
        observed, made = fdm_sets(t, draw, most)
        assert made.any() and not (observed & made).any() and int((observed | made).sum()) <= most


def test_fdm_spacing_is_even_and_log_uniform():
    # A first group of two of 101 frames is 1 to 100 apart, a tenth as far in half of all cases.
    draw, apart = uniform(5), []
    while len(apart) < 1000:
        _, made = fdm_sets(101, iter([0.99, draw(), draw(), 0.0, 0.99, draw(), draw()]).__next__, 2)  # 2 fill it
        first, second = given(made)
        apart.append(second - first)
    assert sum(gap <= 10 for gap in apart) / 1000 == pytest.approx(0.5, abs=0.05)
    assert min(apart) == 1 and max(apart) > 90


def test_a_mixture_draws_by_weight_and_passes_options_on():
    parts = [{"name": "none", "weight": 1}, {"name": "fixed", "known": "0,2", "weight": 0}, "none",
             {"name": "ramvid", "p_u": 0.0, "max_known": 1, "weight": 2}]
    assert every("mixture", 4, 4, 1, 1, 4, parts=parts) == {(): 8} | {(i,): 2 for i in range(4)}


def test_mixtures_may_be_nested_and_their_weights_are_relative():
    inner = {"name": "mixture", "parts": [{"name": "fixed", "known": 0}, {"name": "fixed", "known": 1}], "weight": 30}
    assert every("mixture", 3, 4, 2, parts=[inner, {"name": "none", "weight": 10}]) == {(0,): 3, (1,): 3, (): 2}


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("weights", [(0, 0.1, 0.2, 0.7), (0.1, 0.2, 0.7, 0), (0, 1e-300, 0, 0)])
def test_a_part_of_weight_zero_is_never_drawn(weights, number):
    parts = [{"name": "none" if weight else "fixed", "weight": weight} for weight in weights]
    assert not MASKS.bind({"name": "mixture", "parts": parts})(4, lambda: number).any()


@pytest.mark.parametrize("fraction, count", [(0.0, 4), (0.25, 3), (0.5, 2), (0.9, 0), (1.0, 0)])
def test_a_history_is_thinned_to_any_frames_alike(fraction, count):
    known = torch.tensor([True, True, False, True, False, True])
    sets = list(itertools.combinations((0, 1, 3, 5), count))
    found = enumerated(lambda draw: thinned(known, fraction, draw), 4, 3, 2, 1)
    assert found == dict.fromkeys(sets, 24 // len(sets))
    assert int(known.sum()) == 4  # it is left as it was


@pytest.mark.parametrize("options, word", [
    ({"name": "pvdm", "rate": -0.1}, "rate"), ({"name": "pvdm", "rate": 1.5}, "rate"),
    ({"name": "mcvd", "p_past": 1.5}, "p_past"), ({"name": "mcvd", "p_future": -1}, "p_future"),
    ({"name": "ramvid", "p_u": 2}, "p_u"), ({"name": "ramvid", "max_known": 0}, "max_known"),
    ({"name": "ramvid", "sets": "0-4"}, r'\["0-4"\]'), ({"name": "ramvid", "sets": ["0"], "among": "0-3"}, "exclude"),
    ({"name": "ramvid", "p_u": 0, "among": "99"}, "99"), ({"name": "ramvid", "p_u": 0, "sets": ["0-7"]}, "nothing to make"),
    ({"name": "fdm", "max_frames": 0}, "max_frames"), ({"name": "fixed", "known": "8"}, "outside"),
    ({"name": "mixture", "parts": []}, "weights"), ({"name": "mixture", "parts": [{"name": "none", "weight": -1}]}, "weights"),
    ({"name": "mixture", "parts": [{"name": "none", "weight": 0}]}, "weights"),
    ({"name": "mixture", "parts": {"name": "none"}}, "list"), ({"name": "mixture", "parts": [{"name": "prefx"}]}, "prefix"),
    ({"name": "mixture", "parts": ["none", {"name": "pvdm", "rat": 0.1}]}, "rate"),
    ({"name": "mixture", "parts": [{"weight": 1}]}, "needs a name"),
])
def test_wrong_options_are_named_in_one_line(options, word):
    with pytest.raises(ValueError, match=word) as error:
        MASKS.bind(options)(8, uniform(0))
    assert "\n" not in str(error.value)


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
