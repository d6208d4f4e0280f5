"""The comparison of architectures: operations, equal training, and how its numbers are read."""

import json

import numpy as np
import pytest
from fakes import video

from autoencoder import bench
from autoencoder.bench import MODELS, REFERENCE, best, main, measure, operations, plot, settings, table
from autoencoder.flops import published_flops
from autoencoder.model import AutoencoderConfig, build_autoencoder
from configs.schema import FOLDER, SCHEMAS, load_config
from tools.clips import DataConfig
from tools.feed import open_feed

TINY = AutoencoderConfig(arch="separable", channels=8, frames=8, resolution=64, depth=1, heads=1, tanh=False)


def row(model="pvdm 128", rate=1e-3, updates=240, seed=42, end=20.0, gflop=4.0):
    return {"model": model, "rate": rate, "updates": updates, "seed": seed, "gflop": gflop, "parameters": 10**6,
            "psnr": [end - 1, end], "processor_seconds": 1.0}


@pytest.fixture
def data(tmp_path):
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
        for i in range(2):
            np.save(tmp_path / side / f"v{i}.npy", video(1, 12, (64, 64), seed=i)[0].numpy())
    return DataConfig(name="VIDEOS", path=str(tmp_path), resolution=64, frames=8, workers=0)


@pytest.mark.parametrize("depth, encoder_depth, expand, kernel", [(1, 1, 2, 3), (7, 2, 3, 5)])
def test_operations_of_a_separable_autoencoder_are_those_of_its_layers(depth, encoder_depth, expand, kernel):
    config = AutoencoderConfig(arch="separable", channels=24, frames=4, resolution=[16, 24], patch=4, depth=depth, heads=2,
                               options={"expand": expand, "kernel": kernel})
    tokens, packed, dim, heads = 4 * 4 * 6, 4 * 6 + 4 * 6 + 4 * 4, 24, 2
    block = tokens * dim * (kernel**2 + 3 + 2 * expand * dim)
    pools = 3 * tokens * dim * 2 * heads + packed * dim**2  # scores and means of every group, then the values
    latent = 2 * packed * dim * 4                           # shared weights and each position's own
    products = 2 * tokens * dim * 48 + (encoder_depth + depth) * block + pools + 2 * latent + 2 * packed * dim**2
    assert operations(config) == 2 * products


def test_operations_of_the_published_architecture_are_the_published_ones():
    config = MODELS[REFERENCE]
    assert operations(config) == sum(published_flops(config, **config.options)) == pytest.approx(3.57e9, rel=0.01)


def test_the_fast_autoencoder_makes_the_published_latent_for_a_quarter():
    files = (FOLDER / "autoencoder" / name for name in ("base.yaml", "fast.yaml"))
    base, fast = (load_config(SCHEMAS["first_stage"], file).model for file in files)
    assert (fast.clip_shape, fast.latent_channels, fast.tanh, fast.grid) == \
        (base.clip_shape, base.latent_channels, base.tanh, base.grid)
    assert operations(fast) < operations(base) / 4


def test_models_differ_in_nothing_but_the_architecture():
    same = [settings(model, DataConfig(), rate=1e-3, updates=240, seed=1) for model in MODELS.values()]
    assert len({str((cfg.loss, cfg.optim, cfg.ema, cfg.loop, cfg.train, cfg.data)) for cfg in same}) == 1
    latents = {(cfg.model.clip_shape, cfg.model.latent_channels, cfg.model.patch, cfg.model.tanh) for cfg in same}
    assert len(latents) == 1


def test_every_model_sees_the_clips_of_the_feed(data):
    cfg = settings(TINY, data, rate=1e-3, updates=12, seed=3)
    feed = open_feed(data, cfg.loop, frames=8, seed=3, validation_clips=32)
    kept = bench._read(cfg)
    for _ in range(2):  # not used up by the first model
        for (a,), (b,) in zip(feed.batches(0, 12), kept.batches(0, 12), strict=True):
            assert a["frames"].equal(b["frames"]) and a["index"].equal(b["index"])


def test_a_model_learns_and_is_measured_on_the_test_side(data):
    found, = measure(data, models={"tiny": TINY}, rates=[1e-2], updates=24)
    psnr = found["psnr"]
    assert len(psnr) == 4 and psnr[-1] > psnr[0] + 1
    assert found["parameters"] == sum(p.numel() for p in build_autoencoder(TINY).parameters())


def test_rows_that_are_there_are_not_measured_again(tmp_path, monkeypatch):
    out, asked = tmp_path / "rows.json", []
    out.write_text(json.dumps([row("a"), row("a", updates=480)]))
    monkeypatch.setattr(bench, "_read", lambda cfg: None)
    monkeypatch.setattr(bench, "train", lambda cfg, feed: asked.append((cfg.optim.lr, cfg.train.seed)) or
                        {"psnr": [1.0], "gflop": 1.0, "parameters": 1, "processor_seconds": 1.0})
    rows = measure(DataConfig(), models={"a": TINY}, rates=[1e-3, 2e-3], seeds=[42, 43], out=out)
    assert asked == [(2e-3, 42), (1e-3, 43), (2e-3, 43)]
    assert json.loads(out.read_text()) == rows and len(rows) == 5


def test_the_best_rate_is_that_of_the_best_mean_over_seeds():
    rows = [row(rate=1e-3, seed=1, end=20.0), row(rate=1e-3, seed=2, end=26.0),
            row(rate=2e-3, seed=1, end=22.0), row(rate=2e-3, seed=2, end=22.5), row(updates=480, end=30.0), row("x", gflop=1.0)]
    other, found, longer = best(rows)
    assert (found["rate"], found["psnr"], found["spread"], found["seeds"]) == (1e-3, 23.0, 6.0, 2)
    assert found["tried"] == {1e-3: 23.0, 2e-3: 22.25}
    assert other["model"] == "x" and longer["updates"] == 480
    assert "0.002: 22.25" in table(rows)


def test_curves_are_drawn_for_each_number_of_updates(tmp_path):
    import matplotlib.image
    once = [row(), row("separable 64", gflop=1.0)]
    plot(once, tmp_path / "one.png")
    plot([*once, row(updates=480)], tmp_path / "two.png")
    one, two = (matplotlib.image.imread(tmp_path / name) for name in ("one.png", "two.png"))
    assert two.shape[1] == 2 * one.shape[1] and one.std() > 0


@pytest.mark.parametrize("words, said", [
    (["--models", "pvdm 127"], "unknown pvdm 127"), (["--updates", "3"], "12 updates at least, got 3"),
    (["--data_path", "nowhere"], "nowhere")])
def test_impossible_demands_are_told(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
