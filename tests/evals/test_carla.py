"""The command `carla`: videos to coordinates, and WD and PO of these."""

import json
import os

import numpy as np
import pytest
import torch

from evals.carla_model import Located, Locator
from main import main


class Readable(torch.nn.Module):
    """Tells the place that frames show in their first two colours: tests know what must come out."""
    arch = "readable"

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images, cells=None):
        mean, std = torch.tensor([0.485, 0.456]), torch.tensor([0.229, 0.224])
        return Located(None, (images.mean((2, 3))[:, :2] * std + mean) * 255 * self.scale)


@pytest.fixture(autouse=True)
def readable(monkeypatch):
    """--model N stands for networks whose answers are N times the colours."""
    opened = []

    def load(model, weights=None):
        net = Readable()
        net.scale.data.fill_(float(model))
        opened.append(weights)
        return Locator(net, (8, 8), model)
    monkeypatch.setattr("evals.carla.load_carla", load)
    return opened


def video(speed, length=24, size=8, start=20.0):
    """A car that drives along x at so many metres a frame."""
    frames = np.zeros((length, size, size, 3))
    frames[..., 0] = (start + speed * np.arange(length))[:, None, None]
    frames[..., 1] = 50
    return frames.round().astype(np.uint8)


def put(folder, *speeds, samples="samples", **settings):
    (folder / samples).mkdir(parents=True, exist_ok=True)
    for number, speed in enumerate(speeds):
        np.save(folder / samples / f"{number:05d}_00.npy", video(speed))
    if settings:
        (folder / "sample.json").write_text(json.dumps(settings))
    return folder


def carla(*words):
    assert main(["--exp", "carla", *map(str, words)]) == 0


def refused(capsys, *words):
    assert main(["--exp", "carla", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


# --- coordinates ---------------------------------------------------------------------------------------------

def test_samples_become_coordinates_beside_them(tmp_path):
    carla("--model", 1, "--input", put(tmp_path, 1, 2))
    assert sorted(p.name for p in (tmp_path / "coords").iterdir()) == ["00000_00.npy", "00001_00.npy"]
    coords = np.load(tmp_path / "coords/00001_00.npy")
    assert coords.dtype == np.float32
    np.testing.assert_allclose(coords, np.column_stack([20 + 2 * np.arange(24), np.full(24, 50)]), atol=1e-3)
    assert (tmp_path / "coords.png").is_file()


def test_a_dataset_becomes_coordinates_of_its_test_side(tmp_path):
    for number in (0, 1, 2):
        np.save(tmp_path / f"video_{number}.npy", video(number))
    (tmp_path / "video_test.csv").write_text(",path\n1,video_1.pt\n")
    for words, names in (((), {"video_1"}), (("data.split=all",), {"video_0", "video_1", "video_2"})):
        out = tmp_path / f"out{len(names)}"
        carla("--model", 1, "--data", "CARLA", "--data_path", tmp_path, "--out", out, *words)
        assert {p.stem for p in (out / "coords").iterdir()} == names
    assert np.load(out / "coords/video_2.npy")[3, 0] == pytest.approx(26, abs=1e-3)


def test_what_is_there_is_kept_unless_its_video_is_newer(tmp_path):
    put(tmp_path, 1, 2)
    carla("--model", 1, "--input", tmp_path)
    for number in (0, 1):
        np.save(tmp_path / f"coords/{number:05d}_00.npy", np.full((24, 2), 7.0))
    after = (tmp_path / "coords/00000_00.npy").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "samples/00001_00.npy", ns=(after, after))
    carla("--model", 1, "--input", tmp_path)
    assert (np.load(tmp_path / "coords/00000_00.npy") == 7).all()
    assert np.load(tmp_path / "coords/00001_00.npy")[1, 0] == pytest.approx(22, abs=1e-3)


def test_coordinates_of_other_weights_are_not_mixed(tmp_path, capsys):
    put(tmp_path, 1)
    carla("--model", 1, "--input", tmp_path)
    assert "holds coordinates of another command: weights_hash" in refused(capsys, "--model", 2, "--input", tmp_path)
    carla("--model", 2, "--input", tmp_path, "--out", tmp_path / "other")
    assert np.load(tmp_path / "other/coords/00000_00.npy")[0, 0] == pytest.approx(40, abs=1e-3)


def test_a_folder_may_be_moved_with_its_coordinates(tmp_path):
    carla("--model", 1, "--input", put(tmp_path / "a", 1))
    (tmp_path / "a").rename(tmp_path / "b")
    carla("--model", 1, "--input", tmp_path / "b")


def test_frames_of_another_size_need_resize(tmp_path, capsys):
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples/a.npy", video(1, size=16))
    assert "a is 16x16, the networks take 8x8" in refused(capsys, "--model", 1, "--input", tmp_path)
    carla("--model", 1, "--input", tmp_path, "--resize", "--out", tmp_path / "out")
    assert len(np.load(tmp_path / "out/coords/a.npy")) == 24


def test_weights_are_asked_for_only_if_said(tmp_path, readable):
    put(tmp_path, 1)
    carla("--model", 1, "--input", tmp_path)
    carla("--model", 1, "--input", tmp_path, "--weights", "raw")
    assert readable == [None, "raw"]


# --- WD and PO -----------------------------------------------------------------------------------------------

def compared(tmp_path, *words):
    out = tmp_path / "result.json"
    carla("--real", tmp_path / "real", "--fake", tmp_path / "fake", "--out", out, *words)
    return json.loads(out.read_text())


def put_coords(folder, **speeds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, ways in speeds.items():  # metres from each frame to the next
        np.save(folder / f"{name}.npy", np.column_stack([np.cumsum([5.0, *ways]), np.zeros(len(ways) + 1)]))


def test_wd_is_the_difference_of_the_speeds_of_the_videos(tmp_path):
    for name, speeds in (("real", (0, 1)), ("fake", (1, 2))):  # pixels hold whole metres: 0, 10 and 20 m/s
        carla("--model", 0.1, "--input", put(tmp_path / name, *speeds))
    result = compared(tmp_path)
    assert result["metrics"]["wd"]["mean"] == pytest.approx(1, abs=1e-3)
    assert result["metrics"]["po"]["mean"] == 0 and (result["n_real"], result["n_fake"]) == (2, 2)
    assert result["protocol"]["settings"]["fake"]["model"] == "0.1"
    slower = compared(tmp_path, "speed.fps=5", "speed.limit=0.9")
    assert slower["metrics"]["po"]["mean"] == 50 and slower["metrics"]["wd_all"]["mean"] == pytest.approx(0.5, abs=1e-3)


def test_carlas_own_files_are_the_truth(tmp_path):
    put_coords(tmp_path / "real", coords_3=[0.3] * 20, coords_4=[0.3] * 20)
    (tmp_path / "real/video_3.npy").write_bytes(b"no coordinates")
    put_coords(tmp_path / "fake/coords", video_3=[0.5] * 20)
    assert compared(tmp_path)["metrics"]["wd"]["mean"] == pytest.approx(2)


@pytest.mark.parametrize("rule, speed, points", [("exclude", 8.0, 20), ("include", (8 * 20 + 2 * 10) / 30, 30)])
def test_speeds_between_given_frames_count_only_if_asked_for(tmp_path, rule, speed, points):
    put_coords(tmp_path / "real/coords", b=[0.0] * 29)
    still_and_fast = [0.2] * 19 + [0.8] * 20  # of twenty given frames and twenty made ones, those of the border faster too
    put_coords(tmp_path / "fake/coords", a=still_and_fast)
    (tmp_path / "fake/coords.json").write_text(json.dumps({"known_frames": list(range(20))}))
    expected = [10 * sum(still_and_fast[i:i + 10]) / 10 for i in range(30)]
    kept = expected[10:] if rule == "exclude" else expected
    assert len(kept) == points
    result = compared(tmp_path, "--known_frames", rule)
    assert result["metrics"]["wd"]["mean"] == pytest.approx(np.mean(kept))


def test_true_videos_that_pair_are_cut_alike_so_that_equal_sets_are_no_distance_apart(tmp_path):
    ways = [0.2] * 15 + [0.7] * 20
    put_coords(tmp_path / "real/coords", **{"00000": ways})
    put_coords(tmp_path / "fake/coords", **{"00000_00": ways, "00000_01": ways})
    (tmp_path / "fake/coords.json").write_text(json.dumps({"known_frames": list(range(15))}))
    assert compared(tmp_path)["metrics"]["wd"]["mean"] == pytest.approx(0, abs=1e-12)


def test_the_given_frames_of_samples_go_with_their_coordinates(tmp_path):
    put(tmp_path / "made", 1, known_frames=[0, 1, 2], scheme="autoreg")
    carla("--model", 1, "--input", tmp_path / "made", "--out", tmp_path / "fake")
    put_coords(tmp_path / "real", coords_0=[0.3] * 20)
    assert compared(tmp_path, "speed.limit=100")["protocol"]["known"] == [0, 1, 2]


def test_without_out_the_result_is_printed(tmp_path, capsys):
    put_coords(tmp_path / "a", coords_0=[0.3] * 20)
    carla("--real", tmp_path / "a", "--fake", tmp_path / "a")
    assert json.loads(capsys.readouterr().out)["metrics"]["wd"]["mean"] == 0


# --- what is refused -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, error", [
    (["--real", "a", "--fake", "b", "--steps", "3"], "compares --real with --fake here, which does not read --steps"),
    (["--model", "1", "--input", "x", "--id", "3"], "maps videos with --model here, which does not read --id"),
    (["--steps", "3", "--resize"], "trains here, which does not read --resize"),
    (["--model", "1", "--data", "CARLA", "--out", "x", "loop.steps=3"], 'unknown key "loop.steps"'),
    (["--real", "a"], "got no --fake"), (["--fake", "a"], "got no --real"),
    (["--input", "x"], "with --model RUN, or released"), (["--model", "1"], "maps --input DIR, or --data CARLA"),
    (["--model", "1", "--input", "x", "--data", "CARLA", "--out", "y"], "--input x, --data CARLA"),
    (["--model", "1", "--input", "x"], "needs --out DIR"),
    (["--real", "nowhere", "--fake", "b"], "--real nowhere: no such folder"),
    (["--model", "1", "--input", "x", "--batch_size", "0"], "--batch_size must be at least 1"),
    (["--real", "a", "--fake", "b", "--known_frames", "maybe"], "--known_frames must be exclude or include"),
])
def test_what_cannot_be_meant_is_one_line(capsys, monkeypatch, tmp_path, words, error):
    monkeypatch.chdir(tmp_path)
    assert error in refused(capsys, *words)


@pytest.mark.parametrize("ways, error", [([0.1] * 5, "a has only 6 frames, and a point-speed needs frames 10 apart"),
                                         ([0.1] * 12, "a has only speeds between frames that were given")])
def test_videos_without_a_speed_are_told(capsys, tmp_path, ways, error):
    put_coords(tmp_path / "real", coords_0=[0.3] * 20)
    put_coords(tmp_path / "fake/coords", a=ways)
    (tmp_path / "fake/coords.json").write_text(json.dumps({"known_frames": list(range(13))}))
    assert error in refused(capsys, "--real", tmp_path / "real", "--fake", tmp_path / "fake")


@pytest.mark.parametrize("text, error", [("{", "damaged JSON"), ("[]", "holds a list"),
                                         ('{"known_frames": ["a"]}', "known_frames is")])
def test_a_broken_record_is_told(capsys, tmp_path, text, error):
    put_coords(tmp_path / "real", coords_0=[0.3] * 20)
    put_coords(tmp_path / "fake/coords", a=[0.3] * 20)
    (tmp_path / "fake/coords.json").write_text(text)
    assert error in refused(capsys, "--real", tmp_path / "real", "--fake", tmp_path / "fake")


def test_a_folder_without_coordinates_is_told(capsys, tmp_path):
    put_coords(tmp_path / "real", coords_0=[0.3] * 20)
    (tmp_path / "none").mkdir()
    assert "holds no coordinates (an empty folder)" in refused(capsys, "--real", tmp_path / "real", "--fake", tmp_path / "none")
