"""TensorBoard is read back with its own reader; Weights & Biases is a stand-in that remembers what it was told."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from media import flat
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import commands
from main import main
from tests.tiny import FIRST, SHAPES
from tools import boards
from tools.boards import LogConfig, check_boards
from tools.log import Run
from tools.writers import write_mp4, write_png


class Refused(Exception):
    pass


class FakeWandb:
    """The part of the package that is used."""

    def __init__(self, error=None):
        self.inits, self.logged, self.axes, self.finished, self.error = [], [], {}, 0, error
        self.errors = SimpleNamespace(Error=Refused)
        self.Image = lambda path: ("image", path)
        self.Video = lambda path, format: ("video", path, format)
        self.Histogram = lambda np_histogram: ("histogram", np_histogram)

    def init(self, **options):
        if self.error:
            raise Refused(self.error)
        self.inits.append(options)
        return self

    def define_metric(self, name, step_metric=None):
        self.axes[name] = step_metric

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(boards.importlib.util, "find_spec", lambda name: object())
    return fake


def told(folder, cfg=None, config=None):
    """A run that tells one of each kind, at step 7."""
    run = Run(folder, cfg, config or {})
    run.samples.mkdir(exist_ok=True)
    write_mp4(run.samples / "step-00000007.mp4", flat(0, t=5, h=16, w=24))
    write_png(run.samples / "step-00000007.png", flat(1)[0])
    (run.samples / "notes.txt").write_text("no picture")
    run.metrics(7, {"train/loss": 0.25, "train/learning_rate": 1e-3})
    run.histogram(7, "latents/hw", np.r_[np.linspace(-1, 1, 99), np.nan, np.inf])
    run.show(7, sorted(run.samples.iterdir()))
    run.close()
    return run


def test_tensorboard_has_the_numbers_the_histogram_the_picture_and_the_video(tmp_path):
    told(tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {name: [(e.step, e.value) for e in board.Scalars(name)] for name in board.Tags()["scalars"]} == {
        "train/loss": [(7, 0.25)], "train/learning_rate": [(7, pytest.approx(1e-3))]}
    (histogram,) = board.Histograms("latents/hw")
    assert (histogram.step, histogram.histogram_value.num) == (7, 99)  # finite ones only
    assert histogram.histogram_value.min == pytest.approx(-1) and histogram.histogram_value.sum == pytest.approx(0, abs=1e-9)
    assert set(board.Tags()["images"]) == {"samples/picture", "samples/video"}
    (picture,), (video,) = board.Images("samples/picture"), board.Images("samples/video")
    (tmp_path / "p.png").write_bytes(picture.encoded_image_string)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p.png")), flat(1)[0])
    (tmp_path / "v.gif").write_bytes(video.encoded_image_string)
    with Image.open(tmp_path / "v.gif") as gif:
        assert (gif.n_frames, gif.size, video.step) == (5, (24, 16), 7)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - flat(0, t=5)[0]).max() < 10


def test_what_is_not_finite_or_empty_makes_no_histogram(tmp_path):
    run = Run(tmp_path / "run")
    run.histogram(1, "latents", np.array([np.nan, np.inf]))
    run.close()
    assert not list((tmp_path / "run").glob("events*"))


def test_wandb_is_told_the_same_by_our_own_step(tmp_path, wandb):
    run = told(tmp_path / "run", LogConfig(wandb=True, project="videos"), {"optim": {"lr": 1}})
    (options,) = wandb.inits
    assert (options["project"], options["name"], options["config"]) == ("videos", "run", {"optim": {"lr": 1}})
    assert "mode" not in options, "WANDB_MODE would not be heeded"
    assert wandb.axes == {"step": None, "*": "step"} and wandb.finished == 1
    assert all(values["step"] == 7 for values in wandb.logged)
    assert wandb.logged[0] == {"step": 7, "train/loss": 0.25, "train/learning_rate": 1e-3}
    (kind, (counts, edges)) = wandb.logged[1]["latents/hw"]
    assert (kind, counts.sum(), edges[0], edges[-1]) == ("histogram", 99, -1, 1)
    assert wandb.logged[2]["samples/video"] == ("video", str(run.samples / "step-00000007.mp4"), "mp4")
    assert wandb.logged[3]["samples/picture"] == ("image", str(run.samples / "step-00000007.png"))
    assert EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]  # beside, not in place of


def test_a_continued_run_is_the_same_run_of_wandb(tmp_path, wandb):
    for folder in ("a", "a", "b"):
        told(tmp_path / folder, LogConfig(wandb=True))
    first, again, other = (options["id"] for options in wandb.inits)
    assert first == again != other and all(options["resume"] == "allow" for options in wandb.inits)


def test_wandb_is_not_touched_unless_asked_for(tmp_path, wandb):
    told(tmp_path / "run", LogConfig())
    assert not wandb.inits


def test_no_account_is_an_error_that_names_the_way_out(tmp_path, wandb):
    wandb.error = "no key\nconfigured"
    with pytest.raises(ValueError, match=r"log.wandb=true: no key configured; .*WANDB_MODE=offline"):
        Run(tmp_path / "run", LogConfig(wandb=True))


def test_an_absent_package_is_told_before_a_run_folder_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(boards.importlib.util, "find_spec", lambda name: None)
    check_boards(LogConfig())
    assert main([*FIRST, *SHAPES, "--results", str(tmp_path), "log.wandb=true"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: log.wandb=true needs the package wandb") and line.count("\n") == 1 and "pip install" in line
    assert not list(tmp_path.iterdir())


def test_the_log_may_change_when_a_run_is_continued():
    assert "log" in commands.VOLATILE
