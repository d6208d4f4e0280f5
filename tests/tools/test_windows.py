"""Which windows of videos a test looks at."""

import numpy as np
import pytest
from numbered import Counted

from tools.windows import at, centre, every, read_starts, read_windows, strided, strided_count, windows


def test_fixed_starts_take_every_video_that_fits():
    source = Counted([10, 5, 20])
    assert windows(source, 8, starts=[0, 2, 8]) == [(0, 0), (0, 2), (2, 0), (2, 2), (2, 8)]
    assert "1 of 3 videos are left out, shorter than 8 frames: video1 (5)" in source.notes[0]


def test_drawn_windows_are_in_bounds_and_take_each_video_before_any_twice():
    source = Counted([10, 5, 20, 9])
    chosen = windows(source, 8, count=6, seed=1)
    assert len(chosen) == 6 and {v for v, _ in chosen[:3]} == {v for v, _ in chosen[3:]} == {0, 2, 3}
    assert all(0 <= start <= source.num_frames(video) - 8 for video, start in chosen)
    assert len(source.notes) == 1 and source.notes[0].count("video1 (5)") == 1


def test_drawn_windows_are_a_function_of_the_seed():
    source = Counted([50] * 9)
    assert windows(source, 8, count=5, seed=1) == windows(source, 8, count=5, seed=1)
    assert windows(source, 8, count=9, seed=1)[:5] == windows(source, 8, count=5, seed=1)
    assert windows(source, 8, count=5, seed=1) != windows(source, 8, count=5, seed=2)
    assert len(windows(source, 8)) == 9


def test_windows_that_fit_nowhere_are_refused():
    with pytest.raises(ValueError, match="none of the 2 videos has a window of 8 frames"):
        windows(Counted([3, 4]), 8, count=2)
    with pytest.raises(ValueError, match=r"at the starts \[90\]"):
        windows(Counted([30, 40]), 8, starts=[90])


def test_damaged_videos_stop_the_choice_unless_skipped():
    source = Counted([10, 10], broken=[0])
    with pytest.raises(ValueError, match="damaged"):
        windows(source, 8)
    assert [v for v, _ in windows(source, 8, on_error="skip")] == [1]
    assert "video0 (damaged)" in source.notes[0]


def test_windows_damaged_within_are_left_out_only_if_asked():
    class Torn(Counted):  # its length can be read, its frames cannot
        def read(self, i, *span):
            if i == 0:
                raise ValueError("frame 3 is damaged")
            return super().read(i, *span)

    source, chosen = Torn([10, 10]), [(0, 0), (1, 2), (0, 1)]
    with pytest.raises(ValueError, match="frame 3 is damaged"):
        list(read_windows(source, chosen, 4))
    (video, start, pixels), = read_windows(source, chosen, 4, stride=2, on_error="skip")
    assert (video, start) == (1, 2) and np.array_equal(pixels, source.read(1, 2, 9, 2))
    assert [note.split(" on:")[0] for note in source.notes] == ["left out is video0 from frame 0",
                                                                 "left out is video0 from frame 1"]
    with pytest.raises(ValueError, match=r"left none of the 1 windows.*frame 3"):
        list(read_windows(source, chosen[:1], 4, on_error="skip"))


def test_windows_at_a_hop_reach_the_last_frame():
    source = Counted([10, 5, 20])
    assert windows(source, 8, every(5)) == [(0, 0), (0, 2), (2, 0), (2, 5), (2, 10), (2, 12)]
    assert windows(source, 4, every(3), stride=2) == [(0, 0), (0, 3), (2, 0), (2, 3), (2, 6), (2, 9), (2, 12), (2, 13)]
    assert windows(source, 5, centre) == [(0, 2), (1, 0), (2, 7)]


@pytest.mark.parametrize("room", [1, 2, 7, 8, 9, 30])
@pytest.mark.parametrize("hop", [1, 3, 8, 50])
def test_strided_windows_leave_no_gap_and_do_not_repeat(room, hop):
    starts = [strided(number, room, hop) for number in range(strided_count(room, hop))]
    assert starts[0] == 0 and starts[-1] == room - 1 and len(set(starts)) == len(starts) == len(every(hop)(room))
    assert all(0 < step <= hop for step in np.diff(starts))


def test_no_window_where_none_fits():
    assert centre(0) == [] == every(3)(0) == at([0])(0) and strided_count(0, 3) == 0


@pytest.mark.parametrize("text, starts", [("0,8, 16", [0, 8]), ("3", [3]), ("centre", [5]), ("every-4", [0, 4, 8, 10])])
def test_starts_are_read(text, starts):
    assert list(read_starts(text)(11)) == starts


@pytest.mark.parametrize("text", ["a", "0;8", "every-0", "every", "every-x", "-1", "0,,8", ""])
def test_other_starts_are_refused(text):
    with pytest.raises(ValueError, match=r"^--starts .*0,8,16.*every-8"):
        read_starts(text)
