"""What the command sample writes: whole files under their names, and nothing of older runs."""

import zipfile

import numpy as np
import pytest
import torch
from fakes import video
from sampling import data, raw, refused, sample

from autoencoder.border import border_jump
from latent_diffusion import sample_files
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.sample_files import NpyWriter, clear, jumps, real_path, sample_path, write_real, write_samples
from tools.video import read_video
from tools.writers import write_mp4


@pytest.fixture
def folder(tmp_path):
    """The folder of a run, with its folders."""
    for name in sample_files.FOLDERS:
        (tmp_path / name).mkdir()
    return tmp_path


# --- in the command ------------------------------------------------------------------------------------------

def test_samples_are_written_as_their_frames_come(seeing_model, long_videos, tmp_path, monkeypatch):
    there = []
    stream = VideoDiffusion.stream

    def watched(self, *args, **options):
        for piece in stream(self, *args, **options):
            part = tmp_path / "samples" / "00000_00.npy.part"
            there.append(int(np.load(part, mmap_mode="r").any((1, 2, 3)).sum()) if part.exists() else None)
            yield piece
        assert not (tmp_path / "samples" / "00000_00.npy").exists()

    monkeypatch.setattr(VideoDiffusion, "stream", watched)
    _, made = sample(tmp_path, *raw(seeing_model), *data(long_videos, "--num_videos", 1, "--frames", 20))
    assert there[0] is None and there[1:] == sorted(there[1:]) and there[1] < there[-1] <= 20
    assert not list(tmp_path.rglob("*.part")) and made["00000_00"].shape == (20, 16, 16, 3)
    write_mp4(tmp_path / "whole.mp4", made["00000_00"].numpy())
    assert (tmp_path / "videos" / "00000_00.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_what_was_begun_by_an_older_run_is_cleared(seeing_model, tmp_path):
    for name in ("samples/00009_00.npy.part", "videos/00009_00.mp4.part"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    sample(tmp_path, *raw(seeing_model), "--num_videos", 1)
    assert not list(tmp_path.rglob("*.part"))


def test_a_long_video_is_shown_by_every_nth_frame(monkeypatch, seeing_model, tmp_path):
    monkeypatch.setattr(sample_files, "SHOWN", 5)
    _, made = sample(tmp_path, *raw(seeing_model), "--num_videos", 1, "--frames", 12, "--npz")
    assert len(read_video(tmp_path / "grid.gif")) == 4
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.namelist() == ["arr_0.npy"]
    stacked = np.load(tmp_path / "samples.npz")["arr_0"]
    assert stacked.dtype == np.uint8 and np.array_equal(stacked[0], made["00000_00"])


def test_the_jump_at_the_borders_is_that_of_whole_videos(seeing_model, long_videos, tmp_path):
    words = data(long_videos, "--frames", 14, "--known", "2-4,9", "--task", "infill")
    record, made = sample(tmp_path, *raw(seeing_model), *words)
    known = torch.tensor([f in (2, 3, 4, 9) for f in range(14)])
    real = [torch.from_numpy(np.load(tmp_path / "real" / f"{i:05d}.npy")) for i in range(2)]
    for name, frames in (("made", made.values()), ("true", real)):
        wanted = np.mean([float(border_jump(one[None], known[None])) for one in frames])
        assert record["border_jump"][name] == pytest.approx(wanted, abs=1e-3)


def test_older_samples_are_gone_and_other_files_stay(videos, tmp_path):
    words = ("--baseline", "nearest", "--data", "VIDEOS", "--data_path", videos[0], "data.split=all", "--known", 0)
    sample(tmp_path, *words, "--frames", 5, "--num_videos", 3, "--samples_per_video", 2)
    (tmp_path / "samples" / "notes.txt").touch()
    _, made = sample(tmp_path, *words, "--frames", 4, "--num_videos", 1)
    assert (tmp_path / "samples" / "notes.txt").is_file()
    assert list(made) == ["00000_00"] and len(made["00000_00"]) == 4
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["00000.npy"]
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["00000_00.mp4"]


def test_real_videos_are_never_cleared_away(videos, tmp_path, capsys):
    (tmp_path / "real").mkdir()
    np.save(tmp_path / "real" / "00000.npy", videos[1]["v0"])
    line = refused(capsys, "sample", "--baseline", "nearest", "--input", tmp_path / "real", "--frames", 5, "--known", 0,
                   "--out", tmp_path)
    assert "00000.npy" in line and "--out" in line and (tmp_path / "real" / "00000.npy").is_file()


# --- by themselves -------------------------------------------------------------------------------------------

def test_a_video_has_its_name_only_when_it_is_whole(tmp_path):
    frames, path = video(1, 5, (4, 6))[0].numpy(), tmp_path / "v.npy"
    writer = NpyWriter(path, frames.shape)
    for piece in (frames[:2], frames[2:3]):
        writer.write(piece)
        assert not path.exists()
    with pytest.raises(AssertionError, match="3 of 5 frames"):
        writer.close()
    assert not path.exists()
    writer.write(frames[3:])
    writer.close()
    assert np.array_equal(np.load(path), frames) and list(tmp_path.iterdir()) == [path]


def test_pieces_of_a_batch_go_to_the_video_that_they_are_of(folder):
    frames = video(2, 7, (16, 16))
    write_samples(folder, [(3, 0), (5, 12)], frames.split([4, 1, 2], dim=1), 7)
    for row, job in enumerate([(3, 0), (5, 12)]):
        assert np.array_equal(np.load(sample_path(folder, *job)), frames[row])
    assert sorted(p.name for p in (folder / "videos").iterdir()) == ["00003_00.mp4", "00005_12.mp4"]


def test_a_batch_that_breaks_off_leaves_nothing_under_a_name(folder):
    def pieces():
        yield video(1, 3)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_samples(folder, [(0, 0)], pieces(), 6)
    assert not [*folder.rglob("*.npy"), *folder.rglob("*.mp4")]
    clear(folder, set())
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["samples/00000_00.npy", "samples/123456_100.npy.part", "real/00007.npy",
                                  "videos/00000_00.mp4", "sample.json"])
def test_what_a_run_writes_is_cleared(folder, name):
    (folder / name).touch()
    clear(folder, set())
    assert not (folder / name).exists()


@pytest.mark.parametrize("name", ["samples/mine.npy", "samples/0001.npy", "real/00007.mp4.txt", "00000_00.npy", "result.json"])
def test_what_no_run_writes_is_kept(folder, name):
    (folder / name).touch()
    clear(folder, set())
    assert (folder / name).exists()


def test_nothing_is_cleared_if_a_real_video_would_be(folder):
    for path in (real_path(folder, 0), sample_path(folder, 0, 0), folder / "sample.json"):
        path.touch()
    with pytest.raises(ValueError, match=r"00000\.npy is one of the real videos"):
        clear(folder, {real_path(folder, 0).resolve()})
    assert sum(path.is_file() for path in folder.rglob("*")) == 3


def test_a_true_video_is_put_together_from_its_pieces(folder):
    frames = video(3, 5).numpy()
    paths = [real_path(folder, i) for i in range(3)]
    for path, clip in zip(paths, frames):
        write_real(path, iter(np.split(clip, [2, 3])), 5)
    assert all(np.array_equal(np.load(path), clip) for path, clip in zip(paths, frames, strict=True))


def test_a_jump_is_the_change_at_the_borders_of_what_is_given(folder):
    # Grey levels 0 0 | 4 4 4 | 10: changes of 4 and 6 where known turns to made and back; the truth stays still.
    known = torch.tensor([True, True, False, False, False, True])
    made = np.array([0, 0, 4, 4, 4, 10], dtype=np.uint8)[:, None, None, None].repeat(3, -1)
    for path, frames in ((sample_path(folder, 0, 0), made), (sample_path(folder, 0, 1), 0 * made),
                         (real_path(folder, 0), 0 * made)):
        np.save(path, frames)
    assert jumps(folder, 1, 2, known) == {"made": 2.5, "true": 0.0}
