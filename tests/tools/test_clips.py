"""A batch is a function of (seed, stream, global index): not of workers, processes, micro-batch or resume."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from numbered import Counted, clips, frame_of, run, same, video_of
from omegaconf import OmegaConf

from tools.clips import Clips, DataConfig, open_source
from tools.fit import turn_hue
from tools.mixture import Mixture
from tools.sources import SOURCES

# --- samples -------------------------------------------------------------------------------------------------

def test_each_epoch_visits_each_video_once_in_a_new_order():
    data = clips(Counted([20] * 7))
    epochs = [[video_of(data[g]["frames"]) for g in range(7 * e, 7 * e + 7)] for e in range(3)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_a_clip_is_consecutive_frames_at_the_stride():
    data = clips(Counted([20, 30]), stride=3)
    for g in range(40):
        frame = data[g]["frames"][:, 0, 0, 1].tolist()
        assert frame == list(range(frame[0], frame[0] + 10, 3))


def test_every_start_occurs():
    data = clips(Counted([7]))
    assert {frame_of(data[g]["frames"]) for g in range(60)} == {0, 1, 2, 3}


def test_seed_and_stream_change_the_clips():
    source = Counted([200] * 5)
    runs = [run(clips(source, **o))[0] for o in ({}, {"seed": 4}, {"stream": "validation"})]
    assert not same(runs[0], runs[1]) and not same(runs[0], runs[2]) and same(runs[0], run(clips(source))[0])


def test_a_clip_draws_one_of_several_strides_at_which_the_video_is_long_enough():
    data = clips(Counted([40, 8]), stride=[5, 1, 2])
    seen = {0: Counter(), 1: Counter()}
    for g in range(300):
        frames = data[g]["frames"]
        steps = set(np.diff([frame_of(frames, t) for t in range(4)]).tolist())
        assert len(steps) == 1
        seen[video_of(frames)].update(steps)
    assert set(seen[0]) == {1, 2, 5} and set(seen[1]) == {1, 2}  # 4 frames at a stride of 5 need 16
    assert min(seen[0].values()) > 30


def test_the_window_in_the_middle():
    data = clips(Counted([11, 4]), windows="centre")
    assert {video_of(f): frame_of(f) for f in (data[g]["frames"] for g in range(6))} == {0: 3, 1: 0}


@pytest.mark.parametrize("hop, starts", [(3, {0: [0, 3, 6, 7], 1: [0], 2: [0, 3, 5]}),
                                         (None, {0: [0, 4, 7], 1: [0], 2: [0, 4, 5]})])
def test_strided_windows_are_each_visited_once_an_epoch_the_last_one_too(hop, starts):
    data = clips(Counted([11, 4, 9]), windows="strided", hop=hop)
    wanted = sorted((video, start) for video, row in starts.items() for start in row)
    assert len(data) == len(wanted)
    orders = []
    for epoch in range(2):
        samples = [data[g]["frames"] for g in range(epoch * len(data), (epoch + 1) * len(data))]
        orders.append([(video_of(f), frame_of(f)) for f in samples])
        assert sorted(orders[-1]) == wanted
    assert orders[0] != orders[1]


def test_strided_windows_leave_out_bad_videos_only_if_asked():
    source = Counted([11, 2, 9], broken=[2])
    with pytest.raises(ValueError, match="video1 has 2 frames"):
        clips(source, windows="strided")
    data = clips(source, windows="strided", on_error="skip")
    assert {video_of(data[g]["frames"]) for g in range(len(data))} == {0} and set(data.skipped) == {"video1", "video2"}
    with pytest.raises(ValueError, match=r"one stride"):
        clips(source, windows="strided", stride=[1, 2])


def test_the_hue_of_a_clip_is_turned_alike_in_all_frames_and_by_the_sample_alone():
    rng = np.random.default_rng(0)

    class Coloured(Counted):
        pixels = rng.integers(0, 256, (1, 6, 8, 3), dtype=np.uint8).repeat(4, 0)

        def read(self, *span):
            return self.pixels

    data = clips(Coloured([4]), hue=0.3)
    made = [data[g]["frames"] for g in range(8)]
    assert all((clip == clip[0]).all() for clip in made)
    turns = np.linspace(-0.3, 0.3, 601)
    near = [min(np.abs(turn_hue(Coloured.pixels, t).astype(int) - clip.numpy()).max() for t in turns) for clip in made]
    assert max(near) <= 2 and len({clip.numpy().tobytes() for clip in made}) == 8
    assert same(run(data)[0], run(data, micro_batch=1, workers=1)[0])
    assert not torch.equal(made[0], clips(Coloured([4]), hue=0.3, seed=4)[0]["frames"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_clips_of_any_rectangle_and_colour(channels, resize):
    frames = clips(Counted([9]), size=(12, 5), channels=channels, resize=resize)[0]["frames"]
    assert frames.shape == (4, 12, 5, channels) and frames.dtype == torch.uint8
    assert bool((frames[:, 0] == 0).all()) == (resize == "pad")  # 6x8 in 12x5: bars above and below


# --- mixtures ------------------------------------------------------------------------------------------------

class Shifted(Counted):
    """Counted, its videos from number 100 on."""

    def read(self, i, *span):
        return super().read(i, *span) + np.array([100, 0, 0], np.uint8)


def mixed(weights=(1, 3), strides=((), ()), lengths=([20] * 5, [30] * 7)):
    return Mixture([("a", Counted(lengths[0])), ("b", Shifted(lengths[1]))], weights, strides)


def test_a_mixture_keeps_its_weights_and_the_epochs_of_each_dataset():
    data = clips(mixed())
    drawn = [video_of(data[g]["frames"]) for g in range(1024)]
    assert sum(video < 100 for video in drawn) == 256
    for first, count in ((0, 5), (100, 7)):  # of each dataset, every video as often as any other
        seen = Counter(video for video in drawn if first <= video < first + count)
        assert len(seen) == count and max(seen.values()) - min(seen.values()) <= 1


def test_each_process_gets_of_all_datasets_and_content_is_the_same_for_any_number():
    data = clips(mixed(weights=(1, 1)))
    one, _ = run(data, stop=16)
    assert same(one, run(data, stop=16, world=2)[0]) and same(one, run(data, stop=16, world=4, workers=1)[0])
    for rank in range(2):  # without a shuffle, a weight of a half would be all of one rank
        mine = [video_of(one[g]) < 100 for g in one if g % 2 == rank]
        assert 0.2 < np.mean(mine) < 0.8


def test_a_dataset_of_a_mixture_may_have_its_own_stride():
    data = clips(mixed(strides=((3,), ())), stride=2)
    steps = {(video_of(f) < 100, frame_of(f, 1) - frame_of(f)) for f in (data[g]["frames"] for g in range(64))}
    assert steps == {(True, 3), (False, 2)}


def test_what_a_mixture_skips_is_replaced_by_the_same_dataset():
    data = clips(mixed(lengths=([20, 2], [30] * 7)), on_error="skip")
    drawn = [video_of(data[g]["frames"]) for g in range(1024)]
    assert drawn.count(0) == 256 and set(data.skipped) == {"a_video1"}


def test_a_mixture_through_the_configuration(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "v.npy", np.zeros((9, 8, 8, 3), np.uint8))
    cfg = DataConfig(resolution=8, frames=4, stride=2, split="all", mixture=[
        {"name": "VIDEOS", "path": str(tmp_path / "x")},
        {"name": "VIDEOS", "path": str(tmp_path / "y"), "weight": 3, "stride": 1},
        {"name": "SHAPES", "weight": 0.5, "options": {"size": 8, "count": 2}}])
    assert cfg.name == "VIDEOS+VIDEOS+SHAPES" and DataConfig(**dataclasses.asdict(cfg)) == cfg
    source = open_source(cfg)
    assert [source.name(i) for i in range(3)] == ["VIDEOS1_v", "VIDEOS2_v", "SHAPES_shapes_train_00000"]
    assert [(p.count, float(p.weight), p.strides) for p in source.parts] == [(1, 1, ()), (1, 3, (1,)), (4, 0.5, ())]
    assert "66.7%" in source.notes[1] and run(Clips.from_config(source, cfg, seed=0), stop=1)[0]


@pytest.mark.parametrize("settings, words", [
    ({"mixture": [{"weight": 1}]}, [r"mixture\[0\] must name a dataset"]),
    ({"mixture": [{"name": "SKY"}, {"name": "SKY", "wieght": 1}]}, [r"mixture\[1\]", "wieght", 'mean "weight"']),
    ({"mixture": [{"name": "SKY", "weight": 0}]}, ["weight must be above 0"]),
    ({"mixture": [{"name": "SKYY"}]}, [r"mixture\[0\]", "SKYY", "SKY"]),
    ({"mixture": [{"name": "SKY", "stride": 0}]}, [r"mixture\[0\]", "stride must be"]),
    ({"mixture": [{"name": "SKY"}], "name": "VIDEOS"}, ["data.name=VIDEOS", "SKY", "leave one"]),
    ({"mixture": [{"name": "SHAPES"}], "options": {"size": 8}}, ["data.options", "entries"]),
])
def test_a_mixture_that_makes_no_sense_is_refused(settings, words):
    for word in words:
        with pytest.raises(ValueError, match=word):
            DataConfig(**settings)


# --- what cannot be used -------------------------------------------------------------------------------------

@pytest.mark.parametrize("workers", [0, 1])
def test_a_short_video_is_one_line_that_says_what_to_do(workers):
    with pytest.raises(ValueError, match=r"^video video1 has 3 frames, but a clip of 4 frames needs 4; .*"
                                         r"data.frames.*data.on_error=skip$"):
        run(clips(Counted([9, 3])), workers=workers)


def test_the_stride_counts_for_the_length():
    with pytest.raises(ValueError, match=r"4 frames at data.stride=3 needs 10"):
        run(clips(Counted([9]), stride=3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_is_told_with_the_video(workers):
    class Lost(Counted):
        def read(self, i, *span):
            if i == 1:
                raise OSError(116, "Stale file handle")
            return super().read(i, *span)

    with pytest.raises(ValueError, match=r"^video video1 cannot be read \(.*Stale file handle"):
        run(clips(Lost([9, 9, 9])), workers=workers)
    data = clips(Lost([9, 9, 9]), on_error="skip")
    assert {video_of(f) for f in run(data, workers=workers)[0].values()} == {0, 2} and "Stale" in data.skipped["video1"]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipping_lists_what_is_left_out_and_stays_deterministic(workers):
    source = Counted([9, 3, 9, 9], broken=[2])
    data = clips(source, on_error="skip")
    out, _ = run(data, stop=6, workers=workers)
    assert {video_of(f) for f in out.values()} == {0, 3}
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
    ("stride", 0), ("stride", []), ("stride", [1, 0]), ("stride", "2"), ("stride", 1.5), ("windows", "all"),
    ("resize", "fill"), ("hue", 0.6), ("hue", -0.1), ("workers", -1), ("channels", 2), ("on_error", "ignore"), ("split", "val"),
])
def test_nonsense_is_refused_with_its_key(key, value):
    with pytest.raises(ValueError, match=f"data.{key} must be"):
        DataConfig(**{key: value})


def test_a_hop_without_strided_windows_and_hue_without_colour_are_refused():
    with pytest.raises(ValueError, match=r"data.hop=4 is for data.windows=strided"):
        DataConfig(hop=4)
    with pytest.raises(ValueError, match=r"data.hop must be at least 1"):
        DataConfig(hop=0, windows="strided")
    with pytest.raises(ValueError, match=r"data.hue=0.1 turns colours"):
        DataConfig(hue=0.1, channels=1)


def test_strides_and_mixtures_come_through_yaml():
    text = "{stride: [1, 2], mixture: [{name: SHAPES, weight: 2}, {name: SKY, path: x}]}"
    cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), OmegaConf.create(text)))
    assert cfg.strides == (1, 2) and cfg.labels == ["SHAPES", "SKY"] and cfg.part(1).path == "x"
    with pytest.raises(ValueError, match=r"data.stride=\[1, 2\]"):
        _ = cfg.one_stride


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


def test_shapes_through_the_whole_path():
    source = SOURCES.bind({"name": "SHAPES", "length": 12})()
    out, _ = run(clips(source, size=(32, 32), frames=8), stop=1)
    assert all(f.shape == (8, 32, 32, 3) for f in out.values())
