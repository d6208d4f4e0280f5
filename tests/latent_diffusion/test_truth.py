"""The real videos of the command sample: which windows, which frames of them, and what is refused at once."""

import json

import numpy as np
import pytest
import torch
from fakes import video
from sampling import data, raw, refused, sample

from latent_diffusion import truth
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.truth import BadSize, Fitted, Truth, Window, known_frames_of, open_truth
from main import main
from tools.fit import fit

PLAIN = {"data": None, "data_path": None, "input": None, "resize": False, "starts": None, "num_videos": None, "seed": 0,
         "overrides": []}


def opened(frames, *known, task="predict", **options):
    """Open the truth of a command with so many frames, some of them known."""
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(known)] = True
    return open_truth(task, mask, None, **PLAIN | options)


class Numbered:
    """One video whose frame i is of grey level i; it remembers how many frames were read at once."""
    notes, paths = (), ()

    def __init__(self):
        self.sizes = []

    def read(self, i, start, stop, step):
        frames = np.arange(start, stop, step, dtype=np.uint8)
        self.sizes.append(len(frames))
        return frames[:, None, None, None].repeat(3, -1)


# --- in the command ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [64, 3, 1])
def test_the_truth_is_read_a_few_frames_at_a_time(monkeypatch, seeing_model, long_videos, tmp_path, chunk):
    monkeypatch.setattr(truth, "CHUNK", chunk)
    sizes, bring = [], truth.Fitted.__call__
    monkeypatch.setattr(truth.Fitted, "__call__", lambda *args: sizes.append(len(args[-1])) or bring(*args))
    words = data(long_videos, "--frames", 12, "--known", "1-5,-2", "--task", "infill", "data.stride=2")
    record, made = sample(tmp_path, *raw(seeing_model), *words)
    assert max(sizes) == min(chunk, 12) and record["border_jump"] is not None
    mask = torch.zeros(12, dtype=torch.bool)
    mask[[1, 2, 3, 4, 5, 10]] = True
    for index in range(2):
        wanted = np.load(long_videos / f"v{index}.npy")[:23:2]
        assert np.array_equal(np.load(tmp_path / "real" / f"{index:05d}.npy"), wanted)
        assert torch.equal(made[f"{index:05d}_00"][mask], torch.from_numpy(wanted)[mask])


def test_only_frames_of_one_batch_are_held(monkeypatch, seeing_model, long_videos, tmp_path):
    asked, made = [], []
    read, stream = truth.Truth.read, VideoDiffusion.stream
    monkeypatch.setattr(truth.Truth, "read", lambda self, index, wanted=None: asked.append(index) or read(self, index, wanted))

    def watched(self, given, *rest, **options):
        made.append((list(asked), tuple(given.shape[:2])))
        return stream(self, given, *rest, **options)

    monkeypatch.setattr(VideoDiffusion, "stream", watched)
    sample(tmp_path, *raw(seeing_model), *data(long_videos, "--batch_size", 1, "--frames", 20, "--known", "0-2"))
    assert made == [([0], (1, 3)), ([0, 1], (1, 3))]  # and of those, only the given ones


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


def test_drawn_windows_follow_from_the_seed(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "--frames", 5,
             "--known", "0-1", "--num_videos", 5)
    drawn = [sample(tmp_path / str(i), *words, "--seed", seed)[0]["videos"] for i, seed in enumerate((0, 0, 1))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5 and {v["name"] for v in drawn[0]} == {"v0", "v1", "v2"}


def test_a_stride_between_frames(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "data.stride=3",
             "--frames", 4, "--known", "0-1", "--starts", "0,2")
    record, _ = sample(tmp_path, *words)
    assert [(v["name"], v["start"]) for v in record["videos"]] == [("v0", 0), ("v0", 2)]  # 10 frames, which only v0 has
    assert np.array_equal(np.load(tmp_path / "real" / "00001.npy"), videos[1]["v0"][2:12:3])
    wanted = {"data": "VIDEOS", "data_path": str(videos[0]), "input": None, "resize": False, "starts": "0,2",
              "num_videos": None, "batch_size": 4, "overrides": ["data.split=all", "data.stride=3"], "data_stride": 3}
    assert {key: record[key] for key in wanted} == wanted


# --- the same windows again ----------------------------------------------------------------------------------

def nearest(folder, out, *words):
    """Run the baseline on windows of the videos of a folder."""
    return sample(out, "--baseline", "nearest", "--data", "VIDEOS", "--data_path", folder, "data.split=all", "--frames", 4,
                  "--known", "0", *words)


def truths(out):
    return {path.name: np.load(path) for path in sorted((out / "real").iterdir())}


def test_windows_of_one_comparison_are_those_of_another(videos, tmp_path):
    record, _ = nearest(videos[0], tmp_path / "a", "--num_videos", 4, "--seed", 7, "data.stride=2")
    again, _ = nearest(videos[0], tmp_path / "b", "--windows", tmp_path / "a" / "windows.json", "--seed", 8)
    assert record["videos"] == again["videos"] and again["data_stride"] == 2 and again["windows"].endswith("a/windows.json")
    first, second = truths(tmp_path / "a"), truths(tmp_path / "b")
    assert len(first) == 4 and first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)
    assert (tmp_path / "a" / "windows.json").read_text() == (tmp_path / "b" / "windows.json").read_text()
    fewer, _ = nearest(videos[0], tmp_path / "b", "--windows", tmp_path / "b" / "windows.json", "--num_videos", 2)
    assert fewer["videos"] == record["videos"][:2]  # read before it is replaced


def test_windows_of_other_videos_are_refused(videos, long_videos, tmp_path, capsys):
    nearest(videos[0], tmp_path / "a", "--num_videos", 3)
    words = ("sample", "--baseline", "nearest", "--data", "VIDEOS", "data.split=all", "--known", "0", "--windows",
             tmp_path / "a" / "windows.json", "--frames", 4)
    line = refused(capsys, *words, "--data_path", long_videos)  # its v0 and v1 are other videos, and it has no v2
    assert "it is another video" in line or "v2, which this one of 2 videos lacks" in line
    here = (*words, "--data_path", videos[0])
    assert "both choose" in refused(capsys, *here, "--starts", "0")
    assert "stride 1, got data.stride=2" in refused(capsys, *here, "data.stride=2")
    assert "from frame" in refused(capsys, *here, "--frames", 15)
    with pytest.raises(ValueError, match="--windows x is of real videos, of which there are none"):
        opened(4, task="generate", manifest="x")


def test_an_older_list_of_windows_does_not_stay_beside_new_videos(videos, tmp_path):
    nearest(videos[0], tmp_path, "--num_videos", 2)
    kept = (tmp_path / "windows.json").read_text()
    nearest(videos[0], tmp_path, "--num_videos", 3)
    assert (tmp_path / "windows.json").read_text() != kept


def test_windows_at_a_hop_and_in_the_middle(videos, tmp_path):
    record, _ = nearest(videos[0], tmp_path, "--starts", "every-3")
    starts = [v["start"] for v in record["videos"] if v["name"] == "v0"]
    assert starts == [*range(0, len(videos[1]["v0"]) - 4, 3), len(videos[1]["v0"]) - 4]
    record, _ = nearest(videos[0], tmp_path, "--starts", "centre")
    assert {v["name"]: v["start"] for v in record["videos"]}["v0"] == (len(videos[1]["v0"]) - 4) // 2


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_the_truth_is_brought_to_the_size_as_asked(videos, tmp_path, mode):
    nearest(videos[0], tmp_path, "--starts", "0", "data.resolution=[8, 24]", f"data.resize={mode}")
    wanted = fit(videos[1]["v0"][:4], (8, 24), 3, mode)
    assert np.array_equal(np.load(tmp_path / "real" / "00000.npy"), wanted)


# --- windows -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("stride", [1, 3])
def test_frames_of_a_window_are_those_of_the_video_a_few_at_a_time(monkeypatch, chunk, stride):
    monkeypatch.setattr(truth, "CHUNK", chunk)
    source = Numbered()
    real = Truth(12, stride, source, lambda name, frames: frames, (Window("a", 0, 0), Window("a", 0, 7)))
    wanted = [7 + stride * i for i in range(12)]
    assert real.read(1)[:, 0, 0, 0].tolist() == wanted
    mask = torch.tensor([i in (0, 4, 5, 11) for i in range(12)])
    assert real.read(1, mask)[:, 0, 0, 0].tolist() == [wanted[i] for i in (0, 4, 5, 11)]
    assert max(source.sizes) <= chunk


@pytest.mark.parametrize("room, kept", [(2 * 12 * 3, 2), (2 * 12 * 3 - 1, 1), (12 * 3 - 1, 0)])
def test_what_the_first_look_read_is_not_read_again_while_there_is_room(monkeypatch, room, kept):
    monkeypatch.setattr(truth, "CHUNK", 5)
    monkeypatch.setattr(truth, "KEEP", room)
    source = Numbered()
    real = Truth(12, 1, source, lambda name, frames: frames, tuple(Window("a", 0, start) for start in (0, 7)))
    assert [real.look(window) for window in real.windows] == [(1, 1)] * 2 and sum(source.sizes) == 24
    for index, start in enumerate((0, 7)):
        assert real.read(index)[:, 0, 0, 0].tolist() == list(range(start, start + 12))
    assert sum(source.sizes) == 24 + 12 * (2 - kept) and len(real.kept) == kept


def test_each_frame_of_the_real_videos_is_read_once(monkeypatch, seeing_model, long_videos, tmp_path):
    seen, fitted = [], truth.Fitted.__call__
    monkeypatch.setattr(truth.Fitted, "__call__", lambda *args: seen.append(len(args[-1])) or fitted(*args))
    words = data(long_videos, "--frames", 10, "--known", "0-3", "--samples_per_video", 3, "--batch_size", 2)
    sample(tmp_path, *raw(seeing_model), *words)
    assert sum(seen) == 2 * 10
    assert np.array_equal(np.load(tmp_path / "real" / "00001.npy"), np.load(long_videos / "v1.npy")[:10])


def test_given_frames_are_taken_alone():
    real = Truth(6, 1, Numbered(), lambda name, frames: frames, tuple(Window("a", 0, start) for start in (0, 10, 20)))
    mask = torch.tensor([True, False, False, True, False, False])
    frames = known_frames_of(real, [2, 0], mask, (1, 1, 3))
    assert frames.shape == (2, 2, 1, 1, 3) and frames[..., 0, 0, 0].tolist() == [[20, 23], [0, 3]]
    assert known_frames_of(real, [2, 0], torch.zeros(6, dtype=torch.bool), (4, 5, 3)).shape == (2, 0, 4, 5, 3)


def test_without_videos_there_is_nothing_to_read():
    real = opened(9, task="generate")
    assert (real.length, real.windows, real.notes, real.files) == (9, (), [], set())


def test_every_window_of_an_input_is_read_from_its_begin(videos):
    folder, frames = videos
    real = opened(5, 0, input=str(folder))
    assert [(window.name, window.start) for window in real.windows] == [("v0", 0), ("v1", 0), ("v2", 0)]
    assert all(np.array_equal(real.read(i), frames[f"v{i}"][:5]) for i in range(3))
    assert real.files == {path.resolve() for path in folder.iterdir()}


def test_what_follows_the_given_frames_of_an_input_need_not_exist(videos):
    folder = videos[0]
    assert opened(20, 0, 1, 2, input=str(folder / "v2.npy")).length == 3
    assert opened(5, 0, 1, 2, input=str(folder / "v2.npy")).length == 5  # there is all of it


# --- sizes ---------------------------------------------------------------------------------------------------

def test_another_size_is_refused_unless_it_may_be_brought_to_the_models():
    frames = video(1, 3, (12, 20))[0].numpy()
    with pytest.raises(BadSize, match=r"video v is 12x20, the model makes 8x8 .*--resize"):
        Fitted((8, 8), 3, False)("v", frames)
    assert Fitted((8, 8), 3, True)("v", frames).shape == (3, 8, 8, 3)
    assert np.array_equal(Fitted((12, 20), 3, False)("v", frames), frames)
    assert np.array_equal(Fitted(None, 3, False)("v", frames), frames)  # a baseline takes any size


@pytest.mark.parametrize("known, options, message", [
    ([0], {}, "--task predict needs real frames: --data NAME"),
    ([], {"overrides": ["data.stride=2"]}, "data.stride=2 is a setting of real videos, of which there are none"),
    ([0], {"data": "SHAPES", "input": "x"}, "two ways to name the videos"),
    ([0], {"data": "SHAPES", "starts": "0,x"}, "--starts 0,x is no list of frames; write it like 0,8,16"),
    ([0], {"data": "SHAPES", "starts": "0,-3"}, "--starts 0,-3 is no list"),
])
def test_nonsense_is_refused(known, options, message):
    with pytest.raises(ValueError, match=message):
        opened(8, *known, **options)
