"""Sampling schemes: the contract over the registry, and the windows of FDM and MCVD."""

import json
import random
from pathlib import Path

import pytest

from latent_diffusion.schemes import SCHEMES, is_adaptive, plan, windows

GOLDEN = [case for name in ("schemes.json", "scheme_traces.json")
          for case in json.loads((Path(__file__).parents[1] / "golden" / name).read_text())]
each_scheme = pytest.mark.parametrize("name", list(SCHEMES))
STEPPING = [name for name in SCHEMES if name != "full"]
HIERARCHIES = [name for name in SCHEMES if "hierarchy" in name]


def check(name, total, known, window, stride):
    """Drive a scheme as sampling does, one window after another, and hold it to its contract."""
    done, drawn = set(known), []

    def distance(i, j):
        assert i in done and j in done, "only finished frames are compared"
        return (37 * i % 101 - 37 * j % 101) ** 2 / 7

    for observed, target in windows(name, total, known, distance, window=window, stride=stride):
        assert target and sorted(set(target)) == target, "targets ascend and are not empty"
        assert sorted(set(observed)) == observed, "observed frames ascend"
        assert not done & set(target), "a frame is made once"
        assert set(observed) <= done, "only finished frames are observed"
        assert len(observed) + len(target) <= window
        assert len(target) <= stride or not done or name == "full"
        assert nearest(observed, target) == nearest(done, target), "the nearest finished frame is seen"
        done |= set(target)
        drawn.append((observed, target))
    assert done == set(range(total))
    return drawn


def nearest(frames, target):
    return min((abs(frame - wanted) for frame in frames for wanted in target), default=None)


def known_sets(rng, total):
    """A set of every kind: none, prefix, suffix, both, one inside, two far apart, every few, runs, any, all but one."""
    some, few = rng.randint(1, total), rng.randint(2, 7)
    yield set()
    yield set(range(some))
    yield set(range(total - some, total))
    left = rng.randint(0, some)
    yield {frame for frame in range(total) if frame < left or frame >= total - (some - left)}
    yield {rng.randrange(total)}
    yield {0, total - 1}
    yield set(range(rng.randrange(min(few, total)), total, few))
    yield {frame for frame in range(total) if frame // few % 2}
    yield set(rng.sample(range(total), some))
    yield set(range(total)) - {rng.randrange(total)}


@each_scheme
@pytest.mark.parametrize("seed", range(30))
def test_every_unknown_frame_is_made_once_from_finished_ones(name, seed):
    rng = random.Random(seed)
    total = rng.choice([1, 2, rng.randint(3, 30), rng.randint(30, 120)])
    window = max(rng.randint(2, 20), total if name == "full" else 1)
    for known in known_sets(rng, total):
        for stride in {1, rng.randint(1, window), window - 1, window}:
            check(name, total, known, window, stride)


@each_scheme
def test_nothing_to_do_is_no_window(name):
    assert check(name, 5, range(5), 4, 2) == []


@each_scheme
def test_a_window_that_holds_one_frame_makes_videos_of_one(name):
    assert check(name, 1, [], 1, 1) == [([], [0])]
    for known in ([], [0], [1, 2]):
        with pytest.raises(ValueError, match=r"window=1 holds .* no finished one .* use window=2"):
            windows(name, 3, known, lambda i, j: 0, window=1, stride=1)


@each_scheme
def test_what_is_made_does_not_depend_on_content(name):
    plans = [plan(name, 40, {0, 17, 39}, distance, window=40 if name == "full" else 9, stride=4)
             for distance in (lambda i, j: 0.0, lambda i, j: abs(i - j), lambda i, j: (i * j) % 5)]
    assert len({str([window.target for window in made]) for made in plans}) == 1
    assert is_adaptive(name) == (len({str(made) for made in plans}) > 1)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: "{scheme}-{frames}-{known}-{window}-{stride}".format(**c))
def test_windows_are_those_of_fdm(case):
    drawn = check(case["scheme"], case["frames"], range(case["known"]), case["window"], case["stride"])
    assert [(set(observed), set(target)) for observed, target in drawn] == \
        [(set(w["observed"]), set(w["target"])) for w in case["windows"]]


@pytest.mark.parametrize("name, counts", [
    ("autoreg", (27, 47, 97)), ("long-range", (27, 47, 97)), ("hierarchy-2", (27, 47, 97)),
    ("hierarchy-3", (28, 47, 97)), ("hierarchy-4", (28, 48, 98)), ("hierarchy-5", (34, 55, 98))])
def test_number_of_windows_at_the_published_sizes(name, counts):
    assert tuple(len(plan(name, total, range(36), window=20, stride=10)) for total in (300, 500, 1000)) == counts


# (past, block) as MCVD is trained; the past never holds more than was given or made
@pytest.mark.parametrize("past, block", [(5, 5), (10, 5), (2, 5), (1, 5), (4, 4), (3, 2)])
def test_the_shift_keeps_the_last_frames_as_mcvd_does(past, block):
    condition, first = list(range(past)), past
    wanted = []
    while first < 31:
        made = list(range(first, first + block))
        wanted.append((condition, [frame for frame in made if frame < 31]))  # the last block is cut
        condition = condition[block:] + made[max(0, block - past):]
        first += block
    assert check("shift", 31, range(past), past + block, block) == wanted


def test_the_shift_starts_with_one_block():
    assert check("shift", 11, [], 7, 3) == [([], [0, 1, 2]), ([0, 1, 2], [3, 4, 5]), ([2, 3, 4, 5], [6, 7, 8]),
                                            ([5, 6, 7, 8], [9, 10])]


@pytest.mark.parametrize("known, wanted", [
    ([0, 1, 2, 6, 7, 8], ([1, 2, 6, 7], [3, 4, 5])),  # as many from both sides
    ([2, 6, 7, 8], ([2, 6, 7, 8], [3, 4, 5])),        # what one side lacks is taken from the other
    ([0, 1, 2, 6], ([0, 1, 2, 6], [3, 4, 5])),
    ([0, 1, 2, 4, 7], ([1, 2, 4, 7], [3]))])          # a block ends where finished frames begin again
def test_the_shift_closes_a_gap_as_mcvd_interpolates(known, wanted):
    assert check("shift", 9, known, 7, 3)[0] == wanted


@pytest.mark.parametrize("name", ["autoreg", "long-range", "shift", "adaptive-autoreg"])
def test_a_suffix_is_continued_backward_as_a_prefix_forward(name):
    def distance(i, j):
        return min(abs(i - j), 29 - abs(i - j))  # the same for a mirrored video
    forward, backward = (plan(name, 30, known, distance, window=8, stride=4) for known in (range(6), range(24, 30)))
    mirrored = [([29 - i for i in w.observed[::-1]], [29 - i for i in w.target[::-1]]) for w in backward]
    assert mirrored == forward


@pytest.mark.parametrize("name", STEPPING)
def test_a_gap_is_closed_with_both_sides_in_view(name):
    known = [*range(4), *range(26, 30)]
    observed, target = check(name, 30, known, 8, 4)[-1]
    assert min(observed) < min(target) and max(observed) > max(target)


@pytest.mark.parametrize("name", HIERARCHIES)
@pytest.mark.parametrize("known", [range(6), range(84, 90)], ids=["prefix", "suffix"])
def test_a_hierarchy_spans_the_video_and_then_sees_ahead(name, known):
    (observed, target), *rest = check(name, 90, known, 8, 4)
    unknown = sorted({*range(90)}.difference(known))
    assert (target[0], target[-1]) == (unknown[0], unknown[-1]) and len(target) == 4
    assert is_adaptive(name) or {known[0], known[-1]} < set(observed)
    assert all(max(observed) > max(target) for observed, target in rest if max(target) < 89)


def test_full_makes_all_at_once_beside_the_nearest_known():
    assert plan("full", 10, {0, 1, 2, 9}, window=8, stride=1) == [([2, 9], [3, 4, 5, 6, 7, 8])]


@pytest.mark.parametrize("known, window, needed", [({0, 1, 2, 9}, 5, 7), ({0, 1, 2, 9}, 6, 7), (set(), 9, 10)])
def test_full_is_refused_where_it_would_not_see_what_is_known(known, window, needed):
    with pytest.raises(ValueError, match=f"use window={needed} or more"):
        plan("full", 10, known, window=window, stride=1)
    check("full", 10, known, needed, 1)


@pytest.mark.parametrize("name", [name for name in SCHEMES if is_adaptive(name)])
def test_an_adaptive_scheme_needs_a_distance(name):
    with pytest.raises(ValueError, match=f'"{name}" chooses .* use "{name.removeprefix("adaptive-")}"'):
        windows(name, 9, [0], window=4, stride=2)
    assert name.removeprefix("adaptive-") in SCHEMES


@pytest.mark.parametrize("keys, word", [
    ({"name": "autoregg"}, "autoreg"), ({"total": 0}, "one frame"), ({"stride": 0}, "stride=0"),
    ({"stride": 9}, "stride=9 with window=8"), ({"known": [3, 30]}, "30 lies outside"), ({"known": [-1]}, "-1 lies outside")])
def test_nonsense_is_refused_before_any_window(keys, word):
    given = {"name": "autoreg", "total": 30, "known": [0], "window": 8, "stride": 4} | keys
    with pytest.raises(ValueError, match=word) as error:
        windows(given.pop("name"), given.pop("total"), given.pop("known"), **given)
    assert "\n" not in str(error.value)
