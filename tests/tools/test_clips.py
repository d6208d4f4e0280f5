"""A batch is a function of (seed, stream, global index): not of workers, processes, micro-batch or resume."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tools.clips import Clips, DataConfig, check_batch, fit, loader, open_source, read_windows, windows
from tools.sources import SOURCES


class Counted:
    """Videos whose pixels tell their number and frame: red = video, green = frame."""

    def __init__(self, lengths, broken=()):
        self.lengths, self.broken, self.notes = list(lengths), broken, []

    def __len__(self):
        return len(self.lengths)

    def num_frames(self, i):
        if i in self.broken:
            raise ValueError(f"video{i}.mp4: damaged")
        return self.lengths[i]

    def read(self, i, start=0, stop=None, step=1):
        frames = np.zeros((self.lengths[i], 6, 8, 3), np.uint8)
        frames[..., 0] = i
        frames[..., 1] = np.arange(self.lengths[i])[:, None, None]
        return frames[start:stop:step]

    def name(self, i):
        return f"video{i}"


def clips(source, **options):
    return Clips(source, **{"frames": 4, "size": (6, 8), "seed": 3, **options})


def run(source, stop=4, **options):
    """All batches of all ranks as {global index: frames}, and the shape of the iteration."""
    given = {"batch_size": 4, "start_step": 0, "stop_step": stop, **options}
    out, shape = {}, []
    for rank in range(given.get("world", 1)):
        for micro_batches in loader(source, rank=rank, **given):
            shape.append([len(m["index"]) for m in micro_batches])
            for m in micro_batches:
                assert m["frames"].dtype == torch.uint8 and m["index"].dtype == torch.int64
                assert m["index"].tolist() == sorted(m["index"].tolist())
                out.update(zip(m["index"].tolist(), m["frames"]))
    return out, shape


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[g], b[g]) for g in a)


# --- samples -------------------------------------------------------------------------------------------------

def test_each_epoch_visits_each_video_once_in_a_new_order():
    data = clips(Counted([20] * 7))
    epochs = [[int(data[g]["frames"][0, 0, 0, 0]) for g in range(7 * e, 7 * e + 7)] for e in range(3)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_a_clip_is_consecutive_frames_at_the_stride():
    data = clips(Counted([20, 30]), stride=3)
    for g in range(40):
        frame = data[g]["frames"][:, 0, 0, 1].tolist()
        assert frame == list(range(frame[0], frame[0] + 10, 3))


def test_every_start_occurs():
    data = clips(Counted([7]))
    assert {int(data[g]["frames"][0, 0, 0, 1]) for g in range(60)} == {0, 1, 2, 3}


def test_seed_and_stream_change_the_clips():
    source = Counted([200] * 5)
    runs = [run(clips(source, **o))[0] for o in ({}, {"seed": 4}, {"stream": "validation"})]
    assert not same(runs[0], runs[1]) and not same(runs[0], runs[2]) and same(runs[0], run(clips(source))[0])


def test_grey_and_resizing():
    frames = np.zeros((2, 12, 16, 3), np.uint8)
    frames[..., 1] = 100
    assert fit(frames, (6, 6)).shape == (2, 6, 6, 3)
    grey = fit(frames, (12, 16), channels=1)
    assert grey.shape == (2, 12, 16, 1) and (grey == 59).all()  # 0.587 * 100
    assert np.array_equal(fit(grey, (12, 16), channels=3), np.repeat(grey, 3, -1))


# --- the loader ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {"workers": 2}, {"micro_batch": 2}, {"micro_batch": 1, "workers": 1}, {"world": 2},
    {"world": 2, "micro_batch": 1}, {"world": 4}, {"workers": 2, "micro_batch": 2, "world": 2},
])
def test_content_does_not_depend_on_how_it_is_loaded(options):
    source = clips(Counted([30, 40, 50]))
    assert same(run(source)[0], run(source, **options)[0])


def test_resuming_reads_nothing_before():
    source = clips(Counted([30, 40, 50]))
    full, _ = run(source, stop=5)
    late, _ = run(source, stop=5, start_step=3)
    assert sorted(late) == list(range(12, 20)) and all(torch.equal(full[g], late[g]) for g in late)
    assert run(source, stop=3, start_step=3)[0] == {}


def test_ranks_and_micro_batches_share_a_step():
    source = clips(Counted([30]))
    steps = list(loader(source, batch_size=8, start_step=2, stop_step=3, rank=1, world=2, micro_batch=2))
    assert [m["index"].tolist() for m in steps[0]] == [[17, 19], [21, 23]]
    assert run(source, stop=2, batch_size=8, micro_batch=2)[1] == [[2, 2, 2, 2]] * 2


@pytest.mark.parametrize("batch, world, micro", [(6, 4, None), (8, 1, 3), (8, 2, 8), (2, 4, None), (0, 1, None)])
def test_uneven_batches_are_refused(batch, world, micro):
    with pytest.raises(ValueError, match=rf"--batch_size {batch} cannot be split evenly over {world} processes"):
        check_batch(batch, world, micro)


def test_rounds_of_even_batches():
    assert [check_batch(*a) for a in ((8, 1, None), (8, 2, None), (8, 2, 1), (64, 8, 4))] == [1, 1, 4, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_run_its_randomness(workers):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run(clips(Counted([30])), workers=workers)
    assert torch.equal(torch.rand(3), wanted)


# --- what cannot be used -------------------------------------------------------------------------------------

@pytest.mark.parametrize("workers", [0, 1])
def test_a_short_video_is_one_line_that_says_what_to_do(workers):
    with pytest.raises(ValueError, match=r"^video video1 has 3 frames, but a clip of 4 frames needs 4; .*"
                                         r"data.frames.*data.on_error=skip$"):
        run(clips(Counted([9, 3])), workers=workers)


def test_the_stride_counts_for_the_length():
    with pytest.raises(ValueError, match=r"4 frames at data.stride=3 needs 10"):
        run(clips(Counted([9]), stride=3))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_lists_what_is_left_out_and_stays_deterministic(workers):
    source = Counted([9, 3, 9, 9], broken=[2])
    data = clips(source, on_error="skip")
    out, _ = run(data, stop=6, workers=workers)
    assert {int(f[0, 0, 0, 0]) for f in out.values()} == {0, 3}
    assert set(data.skipped) == {"video1", "video2"} and "damaged" in data.skipped["video2"]
    assert same(out, run(clips(source, on_error="skip"), stop=6, micro_batch=1)[0])


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="left none of the 2 videos"):
        run(clips(Counted([3, 2]), on_error="skip"))


def test_real_damaged_files(video_data):
    cfg = DataConfig(name="VIDEOS", path=str(video_data / "damaged"), split="all", resolution=[16, 24], frames=3)
    source = open_source(cfg)
    with pytest.raises(ValueError, match=r"data.on_error=skip"):
        run(Clips.from_config(source, cfg, seed=0), stop=8)
    data = Clips.from_config(source, dataclasses.replace(cfg, on_error="skip"), seed=0)
    out, _ = run(data, stop=8)
    assert len(out) == 32 and {"moviepy_empty_result", "imageio_issue245"} <= set(data.skipped)


@pytest.mark.parametrize("name, place", [("UCF101", "ucf101"), ("SKY", ""), ("VIDEOS", "metaworld")])
def test_real_datasets_make_batches(video_data, name, place):
    cfg = DataConfig(name=name, path=str(video_data / place), split="all", resolution=[32, 48], frames=8)
    out, _ = run(Clips.from_config(open_source(cfg), cfg, seed=0), stop=2)
    assert all(f.shape == (8, 32, 48, 3) and f.float().std() > 1 for f in out.values())


# --- configuration -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("key, value", [
    ("resolution", "big"), ("resolution", [1, 2, 3]), ("resolution", 0), ("resolution", [4.5, 3]), ("frames", 0),
    ("stride", 0), ("workers", -1), ("channels", 2), ("on_error", "ignore"), ("split", "val"),
])
def test_nonsense_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=f"data.{key} must be"):
        DataConfig(**{key: value})


def test_resolution_is_a_number_or_a_pair_also_from_yaml():
    base = OmegaConf.structured(DataConfig)
    for text, size in (("resolution: 64", (64, 64)), ("resolution: [48, 64]", (48, 64))):
        cfg = OmegaConf.to_object(OmegaConf.merge(base, OmegaConf.create(text)))
        assert cfg.size == size


def test_open_source_passes_split_fold_and_options(tmp_path, monkeypatch):
    cfg = DataConfig(name="SHAPES", options={"count": 3, "length": 5})
    assert len(open_source(cfg)) == 3 and open_source(cfg, split="all").num_frames(5) == 5
    with pytest.raises(ValueError, match=r'has no option "lenght".*length'):
        open_source(dataclasses.replace(cfg, options={"lenght": 5}))
    with pytest.raises(ValueError, match=r"data.fold"):
        open_source(DataConfig(name="UCF101", fold=7))
    monkeypatch.setenv("VIDEO_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="elsewhere"):
        open_source(DataConfig(name="VIDEOS"))


CRASH = """
from tools.clips import Clips, loader
from tools.sources import SOURCES
source = SOURCES.bind({"name": "SHAPES", "size": 16, "length": 8, "count": 4})("")
steps = loader(Clips(source, frames=4, size=(16, 16), seed=0), batch_size=2, start_step=0, stop_step=99, workers=1)
next(steps)
raise RuntimeError("crash")
"""


def test_a_crash_does_not_wait_for_the_workers():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", CRASH], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: crash\n"), done.stderr


# --- windows -------------------------------------------------------------------------------------------------

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


def test_shapes_through_the_whole_path():
    source = SOURCES.bind({"name": "SHAPES", "length": 12})()
    out, _ = run(clips(source, size=(32, 32), frames=8), stop=1)
    assert all(f.shape == (8, 32, 32, 3) for f in out.values())
