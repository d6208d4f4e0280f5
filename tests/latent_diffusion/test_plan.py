"""The command plan: JSON of windows and nothing else, and a drawing of them."""

import json

import numpy as np
import pytest
from PIL import Image

from latent_diffusion.plan import print_plan
from latent_diffusion.schemes import SCHEMES, Window, is_adaptive, plan
from main import main

PLAIN = sorted(name for name in SCHEMES if name != "full" and not is_adaptive(name))
TWO = [Window([0, 1], [2, 5]), Window([2, 5], [3, 4])]  # of 6 frames, 0 and 1 known


@pytest.fixture
def printed(capsys):
    """Run the command: its windows, and what it says on stderr."""
    def run(*, scheme="autoreg", frames=None, known=None, window=None, stride=None, **options):
        print_plan(scheme=scheme, frames=frames, known=known, window=window, stride=stride, **options)
        streams = capsys.readouterr()
        return [Window(w["observed"], w["target"]) for w in json.loads(streams.out)], streams.err
    return run


@pytest.fixture
def video(tmp_path):
    """30 grey frames of which frame 3 is white."""
    frames = np.full((30, 8, 8, 3), 90, dtype=np.uint8)
    frames[3] = 255
    np.save(tmp_path / "video.npy", frames)
    return str(tmp_path / "video.npy")


@pytest.mark.parametrize("scheme", PLAIN)
@pytest.mark.parametrize("frames, known, window, stride", [(30, "0-3", 8, 4), (12, None, 5, 2), (9, "0,-1", 4, 1)])
def test_stdout_is_the_plan_in_frames(printed, scheme, frames, known, window, stride):
    given = {"0-3": [0, 1, 2, 3], None: [], "0,-1": [0, 8]}[known]
    wanted = plan(scheme, frames, given, window=window, stride=stride)
    assert printed(scheme=scheme, frames=frames, known=known, window=window, stride=stride) == (wanted, "")


def test_sizes_default_to_fdms(printed):
    windows, _ = printed(frames=50, known="0-9")
    assert [len(w.target) for w in windows] == [10] * 4 and len(windows[0].observed) == 10


# --- a video to look at --------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", [name for name in SCHEMES if is_adaptive(name)])
def test_an_adaptive_scheme_sees_the_frame_unlike_the_others(printed, video, scheme):
    windows, _ = printed(scheme=scheme, input=video, known="0-7", window=12, stride=3)
    assert all(3 in window.observed for window in windows)
    assert sorted(frame for window in windows for frame in window.target) == [*range(8, 30)]


def test_a_video_gives_the_length_and_may_be_longer(printed, video, monkeypatch):
    monkeypatch.setattr("latent_diffusion.plan.CHUNK", 7)
    whole, _ = printed(input=video, known="0-3")
    assert whole == printed(frames=30, known="0-3")[0]
    part, _ = printed(scheme="adaptive-autoreg", input=video, frames=20, known="0-7", window=8, stride=2)
    assert part[-1].target[-1] == 19 and all(3 in window.observed for window in part)


def test_a_folder_of_one_video_is_that_video(printed, video, tmp_path):
    options = {"scheme": "adaptive-hierarchy-2", "known": "0-7", "window": 8, "stride": 2}
    assert printed(input=str(tmp_path), **options) == printed(input=video, **options)
    np.save(tmp_path / "another.npy", np.zeros((3, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"holds 2 videos, and a plan is for one; give one, like .*another\.npy"):
        printed(input=str(tmp_path), **options)


# --- a schedule ----------------------------------------------------------------------------------------------

def test_a_printed_plan_is_a_schedule(capsys, tmp_path):
    words = ["--exp", "plan", "--frames", "30", "--known", "0-3,-1"]
    assert main([*words, "--scheme", "hierarchy-3", "--window", "8", "--stride", "4"]) == 0
    said = capsys.readouterr().out
    (tmp_path / "mine.json").write_text(said)
    assert main([*words, "--schedule", str(tmp_path / "mine.json"), "--window", "8"]) == 0
    assert capsys.readouterr().out == said


def test_a_schedule_is_held_to_the_window_that_is_given(printed, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps([w._asdict() for w in TWO]))
    options = {"schedule": str(tmp_path / "mine.json"), "frames": 6, "known": "0,1"}
    assert printed(**options)[0] == printed(window=4, **options)[0] == TWO
    with pytest.raises(ValueError, match="window 0 holds 2 observed and 2 made frames, more than --window 3"):
        printed(window=3, **options)


# --- what is refused -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("options, message", [
    ({"frames": None}, "--frames T, or --input VIDEO"), ({"frames": 0}, "got --frames 0"), ({"frames": -3}, "got --frames -3"),
    ({"window": 0}, "window=0"), ({"stride": 0}, "stride=0"), ({"out": "x.png"}, "--out x.png .* add --just_visualise"),
    ({"scheme": "adaptive-autoreg"}, "--scheme adaptive-autoreg .* --input PATH"),
    ({"schedule": "s.json", "stride": 3}, "--stride 3 is for a scheme"),
    ({"schedule": "s.json", "stride": 0}, "--stride 0 is for a scheme"),
    ({"schedule": "s.json", "scheme": "shift"}, "give one of them"), ({"input": "nowhere.mp4"}, "nowhere.mp4: no such video"),
    ({"input": "video.npy", "frames": 31}, "has 30 frames, got --frames 31")])
def test_nonsense_is_refused(printed, video, monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        printed(**({"frames": 9} | options))
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.png"))


# --- the drawing ---------------------------------------------------------------------------------------------

def test_a_drawing_goes_where_it_is_told_and_stdout_stays_json(printed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = {"scheme": "hierarchy-2", "frames": 30, "known": "0-3", "window": 8, "stride": 4}
    windows, said = printed(just_visualise=True, **options)
    assert said == "drawn: plan.png\n" and windows == printed(**options)[0]
    assert printed(just_visualise=True, out="new/mine.png", **options)[1] == "drawn: new/mine.png\n"
    assert np.array_equal(*(np.asarray(Image.open(path)) for path in ("plan.png", "new/mine.png")))
