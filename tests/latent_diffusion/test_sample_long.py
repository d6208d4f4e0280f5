"""The command sample on long videos and with the lesser settings: what is read, written and recorded."""

import json
import zipfile

import numpy as np
import pytest
import torch
from fakes import autoencoder, diffusion_config, diffusion_stage, first_config, video

from autoencoder.border import border_jump
from autoencoder.codec import Codec
from latent_diffusion import sample_files, truth
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample_options import OPTIONS, split_overrides
from main import main
from tools.video import read_video
from tools.writers import write_mp4

T = 4


def make_model(folder, *settings):
    cfg = diffusion_config("unet.mult=[1]", "unet.attention=[1]", *settings)
    stage = diffusion_stage(cfg, Codec(autoencoder(first_config())))
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)
    stage.export(5, folder, "last")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that sees the clip itself, the one before and the one after."""
    return make_model(tmp_path_factory.mktemp("run"), "condition.sees=[past,self,future]", "condition.mask=true")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of 30 and 25 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for i, length in enumerate((30, 25)):
        np.save(folder / f"v{i}.npy", video(1, length, seed=i)[0].numpy())
    return folder


def sample(out, *words):
    """Run the command; return sample.json and the samples by name."""
    weights = ("--weights", "raw") if "--model" in words else ()  # averaged ones still know nothing
    assert main(["--exp", "sample", "--steps", "2", "--out", str(out), *map(str, words), *weights]) == 0
    made = {p.stem: torch.from_numpy(np.load(p)) for p in sorted((out / "samples").glob("*.npy"))}
    return json.loads((out / "sample.json").read_text()), made


def refused(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main(["--exp", *map(str, words)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def data(videos, *words):
    return ("--data", "VIDEOS", "--data_path", videos, "data.split=all", "--starts", "0", *words)


# --- frames as they come -------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [64, 3, 1])
def test_the_truth_is_read_a_few_frames_at_a_time(monkeypatch, model, videos, tmp_path, chunk):
    monkeypatch.setattr(truth, "CHUNK", chunk)
    sizes, bring = [], truth.Fitted.__call__
    monkeypatch.setattr(truth.Fitted, "__call__", lambda *args: sizes.append(len(args[-1])) or bring(*args))
    record, made = sample(tmp_path, "--model", model, *data(videos, "--frames", 12, "--known", "1-5,-2", "--task", "infill",
                                                            "data.stride=2"))
    assert max(sizes) == min(chunk, 12) and record["border_jump"] is not None
    mask = torch.zeros(12, dtype=torch.bool)
    mask[[1, 2, 3, 4, 5, 10]] = True
    for index in range(2):
        wanted = np.load(videos / f"v{index}.npy")[:23:2]
        assert np.array_equal(np.load(tmp_path / "real" / f"{index:05d}.npy"), wanted)
        assert torch.equal(made[f"{index:05d}_00"][mask], torch.from_numpy(wanted)[mask])


def test_only_frames_of_one_batch_are_held(monkeypatch, model, videos, tmp_path):
    asked, made = [], []
    read, stream = truth.Truth.read, VideoDiffusion.stream
    monkeypatch.setattr(truth.Truth, "read", lambda self, index, wanted=None: asked.append(index) or read(self, index, wanted))

    def watched(self, given, *rest, **options):
        made.append((list(asked), tuple(given.shape[:2])))
        return stream(self, given, *rest, **options)

    monkeypatch.setattr(VideoDiffusion, "stream", watched)
    sample(tmp_path, "--model", model, *data(videos, "--batch_size", 1, "--frames", 20, "--known", "0-2"))
    assert made == [([0], (1, 3)), ([0, 1], (1, 3))]  # and of those, only the given ones


def test_samples_are_written_as_their_frames_come(model, videos, tmp_path, monkeypatch):
    there = []
    stream = VideoDiffusion.stream

    def watched(self, *args, **options):
        for piece in stream(self, *args, **options):
            part = tmp_path / "samples" / "00000_00.npy.part"
            there.append(int(np.load(part, mmap_mode="r").any((1, 2, 3)).sum()) if part.exists() else None)
            yield piece
        assert not (tmp_path / "samples" / "00000_00.npy").exists()

    monkeypatch.setattr(VideoDiffusion, "stream", watched)
    _, made = sample(tmp_path, "--model", model, *data(videos, "--num_videos", 1, "--frames", 20))
    assert there[0] is None and there[1:] == sorted(there[1:]) and there[1] < there[-1] <= 20
    assert not list(tmp_path.rglob("*.part")) and made["00000_00"].shape == (20, 16, 16, 3)
    write_mp4(tmp_path / "whole.mp4", made["00000_00"].numpy())
    assert (tmp_path / "videos" / "00000_00.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_what_was_begun_by_an_older_run_is_cleared(model, tmp_path):
    for name in ("samples/00009_00.npy.part", "videos/00009_00.mp4.part"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    sample(tmp_path, "--model", model, "--num_videos", 1)
    assert not list(tmp_path.rglob("*.part"))


def test_a_long_video_is_shown_by_every_nth_frame(monkeypatch, model, tmp_path):
    monkeypatch.setattr(sample_files, "SHOWN", 5)
    _, made = sample(tmp_path, "--model", model, "--num_videos", 1, "--frames", 12, "--npz")
    assert len(read_video(tmp_path / "grid.gif")) == 4
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.namelist() == ["arr_0.npy"]
    stacked = np.load(tmp_path / "samples.npz")["arr_0"]
    assert stacked.dtype == np.uint8 and np.array_equal(stacked[0], made["00000_00"])


def test_the_jump_at_the_borders_is_that_of_whole_videos(model, videos, tmp_path):
    record, made = sample(tmp_path, "--model", model, *data(videos, "--frames", 14, "--known", "2-4,9", "--task", "infill"))
    known = torch.tensor([f in (2, 3, 4, 9) for f in range(14)])
    real = [torch.from_numpy(np.load(tmp_path / "real" / f"{i:05d}.npy")) for i in range(2)]
    for name, frames in (("made", made.values()), ("true", real)):
        wanted = np.mean([float(border_jump(one[None], known[None])) for one in frames])
        assert record["border_jump"][name] == pytest.approx(wanted, abs=1e-3)


def test_videos_of_two_sizes_and_damaged_ones_are_told_before_anything_is_made(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, size in (("a", (16, 16)), ("b", (16, 18))):
        np.save(folder / f"{name}.npy", video(1, 8, size)[0].numpy())
    words = ("sample", "--baseline", "nearest", "--input", folder, "--frames", 8, "--known", 0, "--out", tmp_path / "out")
    assert "16x16" in (line := refused(capsys, *words)) and "16x18" in line
    (folder / "b.npy").write_bytes((folder / "b.npy").read_bytes()[:300])
    assert "b.npy" in refused(capsys, *words) and not (tmp_path / "out").exists()
    assert main(["--exp", *map(str, words), "data.on_error=skip"]) == 0
    record = json.loads((tmp_path / "out" / "sample.json").read_text())
    assert [v["name"] for v in record["videos"]] == ["a"] and any("b" in note for note in record["notes"])


# --- settings ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, options", [
    (["guidance.history=0.5", "guidance.fraction=0.3", "--guidance", 1],
     {"history_guidance": 0.5, "history_fraction": 0.3, "guidance": 1.0}),
    (["guidance.low=0.5", "--guidance", 1], {"interval": (0.5, None), "guidance": 1.0}),
    (["guidance.high=2", "guidance.low=0", "--guidance", 1], {"interval": (0.0, 2.0), "guidance": 1.0}),
    (["noise.temperature=0.8", "noise.shared=0.25"], {"temperature": 0.8, "shared_noise": 0.25}),
    (["rollout.one_frame=true"], {"one_frame": True}), (["rollout.carry=false"], {"carry": False}),
    (["rollout.init_prev_t=0.5"], {"init_prev_t": 0.5}),
    (["--scheme", "shift", "--window", 3], {"scheme": "shift", "window": 3}),
])
def test_settings_are_options_of_the_python_interface(model, videos, tmp_path, words, options):
    record, made = sample(tmp_path, "--model", model, *data(videos, "--batch_size", 1, "--frames", 11, "--seed", 3), *words)
    pipeline, options = VideoDiffusion.load(model, weights="raw"), {"steps": "2", "seed": 3} | options
    for index in range(2):
        frames = torch.from_numpy(np.load(tmp_path / "real" / f"{index:05d}.npy"))
        wanted = pipeline.complete(frames, torch.arange(11) < T, ids=[(index, 0)], **options)
        assert torch.equal(made[f"{index:05d}_00"], wanted[0])
    for name, value in options.items():
        assert record[name] == (list(value) if isinstance(value, tuple) else value)
    assert record["adaptive_distance"] is None


def test_each_lesser_setting_has_an_effect(model, videos, tmp_path):
    words = ("--model", model, *data(videos, "--num_videos", 1, "--frames", 11))
    plain = sample(tmp_path / "plain", *words)[1]["00000_00"]
    for i, more in enumerate((["guidance.history=0.5"], ["noise.temperature=0.8"], ["noise.shared=0.5"], ["--guidance", 1],
                              ["rollout.one_frame=true"], ["rollout.init_prev_t=0.5"])):
        assert not torch.equal(sample(tmp_path / str(i), *words, *more)[1]["00000_00"], plain), more


def test_a_guide_is_recorded_and_counted(model, tmp_path, tmp_path_factory):
    weak = make_model(tmp_path_factory.mktemp("weak"), "condition.sees=[]", "mask.name=none")
    stated = ("--model", model, "--frames", 3 * T, "--num_videos", 1, "--overlap", 0)
    record, made = sample(tmp_path / "a", *stated, "--guidance", 1, "--guide", weak)
    assert record["network_evaluations_per_video"] == 2 * 3 * 2 and record["guidance"] == 1.0
    pipeline, guide = VideoDiffusion.load(model, weights="raw"), VideoDiffusion.load(weak, weights="raw")
    assert record["guide"] == str(guide.model.file) and record["guide_hash"] == guide.model.weights_hash
    wanted = pipeline.generate(1, frames=3 * T, steps=2, seed=42, guidance=1.0, guide=guide, overlap=0)
    assert torch.equal(made["00000_00"], wanted[0])
    assert sample(tmp_path / "b", *stated)[0]["guide"] is None


def test_a_schedule_counts_in_clips(model, tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([{"observed": [], "target": [2]}, {"observed": [2], "target": [0, 1]}]))
    words = ("--model", model, "--frames", 3 * T, "--num_videos", 1, "--overlap", 0, "--schedule", path)
    record, made = sample(tmp_path / "out", *words)
    assert record["schedule"] == str(path) and record["window"] is None
    wanted = VideoDiffusion.load(model, weights="raw").generate(1, frames=3 * T, steps=2, seed=42, overlap=0, schedule=path)
    assert torch.equal(made["00000_00"], wanted[0])
    line = refused(capsys, "sample", *words, "--window", 2)
    assert f"--schedule {path}: window 1 holds 1 observed and 2 made clips, more than --window 2" in line


@pytest.mark.parametrize("words, parts", [
    (["optim.lr=3"], ["data.* settings", 'got "optim.lr=3"']), (["guidance.hihg=3"], ["guidance.hihg=3", "guidance.high"]),
    (["guidance.low="], ["guidance.low=", "lacks a value"]),
    (["guidance.low=x", "--guidance", "1"], ["must be a number, got x"]),
    (["noise.shared=true"], ["must be a number, got true"]), (["rollout.carry=1"], ["must be true or false, got 1"]),
    (["guidance.high=[1"], ["no YAML"]), (["guidance.low=1"], ["no effect without guidance"]),
    (["data.stride=2"], ["data.stride=2", "--data NAME"]), (["--resolution", "16"], ["data.resolution=16", "--data NAME"]),
    (["--resolution", "0"], ["--resolution must be at least 1, got 0"]), (["--window", "0"], ["window=0"]),
    (["--stride", "0"], ["stride=0"]), (["--batch_size", "0"], ["--batch_size must be at least 1, got 0"]),
    (["--steps", "0"], ["steps"]), (["--steps", ""], ["steps=''"]), (["--frames", "0"], ["--frames 0"]),
    (["--scheme", "adaptive-autoreg"], ["neighbours", "--scheme autoreg"]),
    (["--guide", "nowhere"], ["no model at", "nowhere"]),
    (["rollout.one_frame=true", "--stride", "1"], ["rollout.one_frame", "--stride 1"]),
])
def test_what_would_be_ignored_is_refused(model, tmp_path, capsys, words, parts):
    line = refused(capsys, "sample", "--model", model, "--out", tmp_path / "out", *words)
    assert all(part in line for part in parts), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["--batch_size", "0"], ["--resolution", "0"]])
@pytest.mark.parametrize("what", [["--real", "x", "--fake", "x"], ["--model", "x", "--data", "SHAPES"]])
def test_evaluation_takes_no_zero_for_not_given(capsys, what, words):
    assert f"{words[0]} must be at least 1, got 0" in refused(capsys, "evaluate", *what, *words)


def test_a_bound_may_be_infinite_and_zero_is_a_value():
    assert split_overrides(["guidance.high=.inf"])[0] == {"interval": (0.0, None)}
    assert split_overrides(["guidance.low=0", "data.stride=2"]) == ({"interval": (0.0, None)}, ["data.stride=2"])
    assert split_overrides(["noise.temperature=0"])[0] == {"temperature": 0.0}
    assert {name for name, _ in OPTIONS.values()} <= set(VideoDiffusion.settings().__dataclass_fields__)
