"""Schedules from a file: what plan prints is taken back, and what is no plan of the video is refused in one line."""

import json

import pytest

from latent_diffusion.schedule_file import check_windows, read_schedule
from latent_diffusion.schemes import SCHEMES, plan

GOOD = [{"observed": [0, 1], "target": [4, 2]}, {"observed": [2, 4], "target": [3, 5]}]  # of 6 frames, 0 and 1 known


@pytest.fixture
def file(tmp_path):
    """Write a schedule."""
    def write(windows):
        path = tmp_path / "schedule.json"
        path.write_text(windows if isinstance(windows, str) else json.dumps(windows))
        return path
    return write


@pytest.mark.parametrize("name", SCHEMES)
def test_windows_of_every_scheme_are_taken_back(file, name):
    known, window = [0, 1, 17], 30 if name == "full" else 8
    made = plan(name, 30, known, lambda i, j: abs(i - j), window=window, stride=4)
    path = file([window._asdict() for window in made])
    assert read_schedule(path, 30, known, window=window) == read_schedule(path, 30, known) == made


def test_frames_of_a_window_are_sorted(file):
    assert read_schedule(file(GOOD), 6, [0, 1]) == [([0, 1], [2, 4]), ([2, 4], [3, 5])]


def test_a_window_may_observe_nothing(file):
    assert read_schedule(file([{"observed": [], "target": [0, 1]}]), 2, []) == [([], [0, 1])]


def changed(number, **keys):
    return [window | (keys if i == number else {}) for i, window in enumerate(GOOD)]


@pytest.mark.parametrize("windows, message", [
    ("[{", "is no JSON"), ("[" * 10 ** 5, "is no JSON"), ({"observed": []}, "holds a JSON object; write a list"),
    ("7", "holds a JSON number"), ([[0]], "window 0 has a list; write"), ([{}], "window 0 has the keys none"),
    (changed(1, note=1), "window 1 has the keys note, observed, target"), ([{"target": [2]}], "window 0 has the keys target"),
    (changed(0, target=[2, 4.0]), r'window 0 has "target": \[2, 4.0\]; write a list of frame numbers'),
    (changed(0, target=[True]), r'window 0 has "target": \[true\]'), (changed(1, observed=3), 'window 1 has "observed": 3'),
    (changed(1, observed=["2"]), r'window 1 has "observed": \["2"\]'),
    (changed(1, target=[3, 6]), "window 1 has frame 6, but the frames of the video are 0 to 5"),
    (changed(0, observed=[-1]), "window 0 has frame -1, but"), (changed(0, target=[]), "window 0 makes no frame"),
    (changed(0, observed=[0, 1, 0]), "window 0 observes frame 0 twice"),
    (changed(1, target=[3, 5, 3]), "window 1 makes frame 3 twice"),
    (changed(0, target=[1, 2, 4]), r"window 0 makes frame 1, which is given \(--known\)"),
    (changed(1, target=[2, 3, 5]), "window 1 makes frame 2, which is made by an earlier window"),
    (changed(0, observed=[0, 3]), "window 0 observes frame 3, which is not finished then"),
    (changed(0, observed=[0, 2]), "window 0 observes frame 2, which is not finished then"),  # its own target
    (changed(1, observed=[0, 1, 2]), "window 1 holds 3 observed and 2 made frames, more than --window 4; observe fewer"),
    (GOOD[:1], "no window makes frame 3 and 1 more"), (changed(1, target=[3]), "no window makes frame 5;"),
    ([], "no window makes frame 2 and 3 more")])
def test_what_is_no_plan_of_the_video_is_refused(file, windows, message):
    path = file(windows)
    with pytest.raises(ValueError, match=rf"--schedule .*schedule\.json: {message}") as error:
        read_schedule(path, 6, [0, 1], window=4)
    assert "\n" not in str(error.value)


def test_the_size_of_a_window_is_asked_for_only_where_it_is_known(file):
    assert len(read_schedule(file(changed(1, observed=[0, 1, 2])), 6, [0, 1])) == 2


@pytest.mark.parametrize("where", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, where):
    with pytest.raises(ValueError, match=r"cannot be read \(.*\); give a JSON file"):
        read_schedule(tmp_path / where, 6, [0, 1])


@pytest.mark.parametrize("known", [[0, 1], [], [0, 1, 2]])
def test_a_check_is_of_the_frames_that_are_known(known):
    windows = plan("autoreg", 9, [0, 1], window=4, stride=2)
    if known == [0, 1]:
        check_windows(windows, 9, known)
        return
    with pytest.raises(ValueError, match="not finished then" if not known else "makes frame 2, which is given"):
        check_windows(windows, 9, known)
