"""Sampling schemes: the contract over the registry, and FDM's own windows."""

import json
import random
from pathlib import Path

import pytest

from latent_diffusion.schemes import SCHEMES, plan

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "schemes.json").read_text())
each_scheme = pytest.mark.parametrize("name", list(SCHEMES))
STEPPING = [name for name in SCHEMES if name != "full"]


def check(name, total, known, window, stride):
    """Run a scheme and hold it to its contract."""
    done, windows = set(known), plan(name, total, known, window=window, stride=stride)
    for observed, target in windows:
        assert target and sorted(set(target)) == target, "targets ascend and are not empty"
        assert sorted(set(observed)) == observed, "observed frames ascend"
        assert not done & set(target), "a frame is made once"
        assert set(observed) <= done, "only finished frames are observed"
        assert len(observed) + len(target) <= window
        assert len(target) <= stride or not done or name == "full"
        done |= set(target)
    assert done == set(range(total))
    return windows


def known_sets(rng, total):
    """A set of every kind: none, prefix, suffix, both, one inside, any."""
    some = rng.randint(1, total)
    yield set()
    yield set(range(some))
    yield set(range(total - some, total))
    yield {frame for frame in range(total) if frame < some // 2 or frame >= total - some // 2}
    yield {rng.randrange(total)}
    yield set(rng.sample(range(total), some))


@each_scheme
@pytest.mark.parametrize("seed", range(40))
def test_every_unknown_frame_is_made_once_from_finished_ones(name, seed):
    rng = random.Random(seed)
    total = rng.choice([1, 2, rng.randint(3, 30), rng.randint(30, 120)])
    window = max(rng.randint(1, 20), total if name == "full" else 1)
    for known in known_sets(rng, total):
        for stride in {1, rng.randint(1, window), window}:
            check(name, total, known, window, stride)


@each_scheme
def test_nothing_to_do_is_no_window(name):
    assert check(name, 5, range(5), 4, 2) == []


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: "{scheme}-{frames}-{known}-{window}-{stride}".format(**c))
def test_windows_are_those_of_fdm(case):
    windows = check(case["scheme"], case["frames"], range(case["known"]), case["window"], case["stride"])
    assert [(set(w.observed), set(w.target)) for w in windows] == \
        [(set(w["observed"]), set(w["target"])) for w in case["windows"]]


# hierarchy-4 and -5 as measured on the FDM reference: (frames, known, window, stride) -> some of its windows
@pytest.mark.parametrize("name, sizes, wanted", [
    ("hierarchy-4", (60, 6, 10, 5), {0: ({0, 1, 2, 4, 5}, {6, 19, 32, 46, 59}),
                                     2: ({46, 59, 32, 31, 26}, {36, 41, 47, 52, 57}),
                                     8: ({8, 10, 11, 12, 14, 6, 5}, {7, 9, 13}),
                                     13: ({52, 53, 55, 57, 50}, {51, 54, 56})}),
    ("hierarchy-5", (100, 5, 16, 8), {1: ({18, 32, 45, 59, 72, 86, 5, 4}, {12, 19, 26, 33, 40, 47, 54, 61}),
                                      5: ({68, 72, 75, 82, 86, 89, 61, 59}, {62, 65, 69, 73, 76, 79, 83, 87}),
                                      13: ({93, 96, 97, 99, 90, 89, 88, 87}, {91, 92, 94, 95, 98})}),
])
def test_deeper_hierarchies_are_those_of_fdm(name, sizes, wanted):
    total, known, window, stride = sizes
    windows = check(name, total, range(known), window, stride)
    assert len(windows) == 14
    assert {i: (set(windows[i].observed), set(windows[i].target)) for i in wanted} == wanted


@pytest.mark.parametrize("name, counts", [
    ("autoreg", (27, 47, 97)), ("long-range", (27, 47, 97)), ("hierarchy-2", (27, 47, 97)),
    ("hierarchy-3", (28, 47, 97)), ("hierarchy-4", (28, 48, 98)), ("hierarchy-5", (34, 55, 98))])
def test_number_of_windows_at_the_published_sizes(name, counts):
    assert tuple(len(plan(name, total, range(36), window=20, stride=10)) for total in (300, 500, 1000)) == counts


@pytest.mark.parametrize("name", ["autoreg", "long-range"])
def test_a_suffix_is_continued_backward_as_a_prefix_forward(name):
    forward = check(name, 30, range(6), 8, 4)
    backward = check(name, 30, range(24, 30), 8, 4)
    mirrored = [([29 - i for i in w.observed[::-1]], [29 - i for i in w.target[::-1]]) for w in backward]
    assert mirrored == forward


@pytest.mark.parametrize("name", STEPPING)
def test_a_gap_is_closed_with_both_sides_in_view(name):
    known = [*range(4), *range(26, 30)]
    last = check(name, 30, known, 8, 4)[-1]
    assert min(last.observed) < min(last.target) and max(last.observed) > max(last.target)


@pytest.mark.parametrize("name", STEPPING)
@pytest.mark.parametrize("stride", [1, 3, 6])
def test_no_window_is_blind_once_something_is_known(name, stride):
    assert all(w.observed for w in check(name, 40, {7}, 6, stride))


@pytest.mark.parametrize("name", ["hierarchy-2", "hierarchy-3", "hierarchy-4", "hierarchy-5"])
def test_a_hierarchy_sees_ahead_from_its_second_window(name):
    first, *rest = check(name, 90, range(6), 12, 5)
    assert first.target[-1] == 89
    assert all(max(w.observed) > max(w.target) for w in rest if max(w.target) < 89)


def test_full_makes_all_at_once_beside_the_nearest_known():
    assert plan("full", 10, {0, 1, 2, 9}, window=8, stride=1) == [([2, 9], [3, 4, 5, 6, 7, 8])]
    with pytest.raises(ValueError, match="use window=6 or more"):
        plan("full", 10, {0, 1, 2, 9}, window=5, stride=1)


@pytest.mark.parametrize("keys, word", [
    ({"name": "autoregg"}, "autoreg"), ({"total": 0}, "one frame"), ({"stride": 0}, "stride=0"),
    ({"stride": 9}, "stride=9 with window=8"), ({"known": [3, 30]}, "30 lies outside"), ({"known": [-1]}, "-1 lies outside")])
def test_nonsense_is_refused(keys, word):
    given = {"name": "autoreg", "total": 30, "known": [0], "window": 8, "stride": 4} | keys
    with pytest.raises(ValueError, match=word) as error:
        plan(given.pop("name"), given.pop("total"), given.pop("known"), **given)
    assert "\n" not in str(error.value)
