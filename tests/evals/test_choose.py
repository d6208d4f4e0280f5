"""Which windows of which videos count: in bounds, by the seed alone, and what is left out is told."""

from collections import Counter

import numpy as np
import pytest

from evals.choose import choose_fake, choose_real, common_length
from evals.pairs import Entry
from evals.protocols import load_rules


class Video(Entry):
    """An entry that needs no file: the number behind the dash is its length."""

    def num_frames(self):
        return int(self.name.rpartition("-")[2])

    def read(self, start=0, stop=None, step=1):
        return np.arange(self.num_frames())[start:stop:step]


def videos(*names):
    return [Video(name, name) for name in names]


def rules(**changes):
    return load_rules("custom").changed(changes)


def names(choice):
    return [shot.entry.name for shot in choice.shots]


MANY = videos(*(f"{folder}/{i}-20" for folder, n in (("a", 30), ("b", 3), ("c", 3)) for i in range(n)))


@pytest.mark.parametrize("start", ["first", "centre", "random"])
@pytest.mark.parametrize("clips", [1, 3])
def test_windows_lie_in_their_videos_and_hold_frames_at_the_stride(start, clips):
    choice = choose_real(MANY, rules(start=start, clips=clips, stride=2), 6)
    assert len(choice.shots) == 36 * clips and choice.dropped == []
    for shot in choice.shots:
        frames = shot.read()
        assert len(frames) == 6 and set(np.diff(frames)) == {2} and frames[0] == shot.start


def test_random_windows_follow_the_seed_and_not_the_selection():
    one, other = (choose_real(MANY, rules(start="random", seed=s), 6).shots for s in (0, 1))
    few = choose_real(MANY, rules(start="random", n_real=5, seed=0), 6).shots
    assert one != other and set(few) < set(one)


def test_short_videos_are_left_out_and_told():
    choice = choose_real(videos("a-20", "b-5", "c-6"), rules(), 6)
    assert names(choice) == ["a-20", "c-6"] and choice.dropped == ["b-5: shorter than 6 frames"]
    with pytest.raises(ValueError, match="none of the 1 true videos has 6 frames"):
        choose_real(videos("b-5"), rules(), 6)


def test_selections():
    assert names(choose_real(videos("b-9", "a10-9", "a2-9"), rules(selection="sorted", n_real=2), 6)) == ["a10-9", "a2-9"]
    drawn = names(choose_real(MANY, rules(n_real=9), 6))
    assert len(set(drawn)) == 9 and drawn != names(choose_real(MANY, rules(n_real=9, seed=1), 6))
    turns = Counter(name[0] for name in names(choose_real(MANY, rules(n_real=9, selection="balanced"), 6)))
    assert turns == {"a": 3, "b": 3, "c": 3}
    assert names(choose_real(MANY, rules(n_real=99), 6)) == [video.name for video in MANY]


def test_made_videos_are_the_first_ones_from_their_begin_and_none_may_be_short():
    assert names(choose_fake(MANY, rules(n_fake=4), 6)) == [video.name for video in MANY[:4]]
    with pytest.raises(ValueError, match="x-5 has 5 frames, but 11 count"):
        choose_fake(videos("x-5"), rules(stride=2), 6)


def test_sets_are_as_long_as_all_made_videos_are():
    assert common_length(videos("a-20", "b-20"), rules()) == 20 and common_length(videos("a-20", "b-20"), rules(stride=8)) == 3
    assert common_length(videos("a-20", "b-19"), rules()) is None and common_length(videos("a-20"), rules(frames=4)) == 4
