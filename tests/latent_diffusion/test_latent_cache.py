"""Training from a cache is training without one; a cache of something else is refused."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from fakes import PixelNet, diffusion_config, diffusion_stage

from autoencoder.codec import Codec, LatentStats
from latent_diffusion.encode import EncodeConfig, encode
from latent_diffusion.example import window_frames
from latent_diffusion.latent_cache import (
    Choice,
    LatentCache,
    default_folder,
    find_latents,
    fingerprint,
    identity_of,
)
from latent_diffusion.train import fit_data
from tools import dist
from tools.clips import open_source
from tools.feed import open_feed
from tools.tree import FileSource

AROUND = {"name": "concat", "sees": ["past", "self", "future"], "mask": True}
WINDOW = {"name": "window", "slots": 3, "fewer": 0.0}
LENGTH = 16


def setting(*overrides, condition=AROUND, mask="{name: fixed, known: '0-4,-3--1'}", codec=None):
    codec = codec or Codec(PixelNet())
    small = ("unet.mult=[1]", "unet.attention=[1]", "loop.batch_size=4")
    cfg = diffusion_config(*small, f"data.options.length={LENGTH}", "data.options.count=3",
                           f"condition={json.dumps(condition)}", f"mask={mask}", *overrides)
    return fit_data(cfg, codec), codec


def written(folder, cfg, codec, **how):
    return encode(cfg, codec, EncodeConfig(**how), model=str(folder), out=str(folder / "lat"))


def stage_of(cfg, codec):
    stage = diffusion_stage(cfg, codec)
    torch.nn.init.normal_(stage.net.unet.conv_out.weight, std=0.1)  # zero at first
    return stage


def live(cfg, stage):
    """What a run without a cache trains on."""
    return open_feed(cfg.data, cfg.loop, frames=window_frames(stage.net.condition, cfg.mask), seed=cfg.train.seed,
                     validation_clips=1).batches


def loss_and_gradients(stage, micro_batches):
    """Of one step, before it is taken."""
    stage.net.zero_grad()
    for batch in micro_batches:
        example = stage.prepare(batch["frames"], batch["index"]) if "frames" in batch else stage.recall(batch)
        loss = stage.losses(stage.net, example, batch["index"], "train").sum() / stage.cfg.loop.batch_size
        loss.backward()
    return loss.detach(), [p.grad.clone() for p in stage.net.parameters() if p.grad is not None]


@pytest.mark.parametrize("condition", [AROUND, WINDOW], ids=["concat", "window"])
@pytest.mark.parametrize("overrides", [
    (), ("train.flip=0.5", "loop.micro_batch=2"), ("data.windows=strided", "data.hop=3", "data.options.length=19"),
    ("data.stride=2", "data.windows=centre", "data.options.length=30")], ids=["random", "flipped", "strided", "centre"])
def test_with_the_masks_of_a_live_run_a_step_has_its_loss_and_gradients(tmp_path, condition, overrides):
    # The mask is fixed, and all windows are there: so a live run and a cached one draw the same windows and masks.
    cfg, codec = setting(*overrides, condition=condition)
    stage, cache = stage_of(cfg, codec), written(tmp_path, cfg, codec, draws=2)
    steps = list(zip(live(cfg, stage)(5, 8), cache.batches(cfg)(5, 8), strict=True))
    assert len(steps) == 3
    for pixels, latents in steps:
        assert [batch["index"].tolist() for batch in pixels] == [batch["index"].tolist() for batch in latents]
        one, other = loss_and_gradients(stage, pixels), loss_and_gradients(stage, latents)
        assert len(one[1]) > 10 and one[0] > 0
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_step_from_latents_leaves_the_encoder_alone(tmp_path):
    cfg, codec = setting()
    stage, cache = stage_of(cfg, codec), written(tmp_path, cfg, codec)
    before = codec.net.encoded
    for step, batch in enumerate(cache.batches(cfg)(0, 2)):
        stage.train_step(step, batch, 4)
    assert codec.net.encoded == before


def test_drawn_masks_are_those_of_the_sampler_and_all_are_used(tmp_path):
    cfg, codec = setting("data.options.count=1", mask="{name: prefix}")
    cache = written(tmp_path, cfg, codec, draws=5)
    choose = Choice(cache, cfg)
    draws = [choose(g) for g in range(400)]
    assert {d.entry for d in draws} == set(range(LENGTH - 12 + 1)) and {d.draw for d in draws} == set(range(5))
    counts = torch.bincount(torch.tensor([d.draw for d in draws]))
    assert counts.min() > 50  # of 80
    known = cache.read([(entry, draw) for entry in range(5) for draw in range(5)])["known"].flatten(1)
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in known) and known.sum(1).unique().numel() > 5


@pytest.mark.parametrize("how", [{"stride": 4}, {"windows_per_video": 3}], ids=["every-4", "three"])
def test_where_not_all_windows_are_there_each_is_drawn_alike(tmp_path, how):
    cfg, codec = setting("data.options.length=30", "data.options.count=1")
    cache = written(tmp_path, cfg, codec, **how)
    choose = Choice(cache, cfg)
    counts = torch.bincount(torch.tensor([choose(g).entry for g in range(600)]))
    assert len(counts) == cache.manifest["windows"] and counts.min() > 0.5 * 600 / len(counts)


def test_two_processes_read_what_one_reads(tmp_path, monkeypatch):
    cfg, codec = setting("loop.micro_batch=1", mask="{name: mixture}")
    cache = written(tmp_path, cfg, codec)
    whole = {int(b["index"]): b for step in cache.batches(cfg)(3, 5) for b in step}
    monkeypatch.setattr(dist, "world", lambda: 2)
    parts = {}
    for rank in range(2):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        for step in cache.batches(cfg)(3, 5):
            parts |= {int(b["index"]): b for b in step}
    assert sorted(parts) == sorted(whole) == list(range(12, 20))
    assert all(torch.equal(parts[g][name], whole[g][name]) for g in whole for name in whole[g])


def test_half_precision_is_close_and_said(tmp_path):
    cfg, codec = setting()
    exact = written(tmp_path / "a", cfg, codec)
    half = written(tmp_path / "b", cfg, codec, dtype="float16")
    for one, other in zip(exact.batches(cfg)(0, 2), half.batches(cfg)(0, 2)):
        assert other[0]["latent"].dtype == torch.float32
        torch.testing.assert_close(one[0]["latent"], other[0]["latent"], rtol=2**-11, atol=1e-7)
        assert not torch.equal(one[0]["latent"], other[0]["latent"])
    assert 0 < half.manifest["error"]["rms_relative"] < 2**-11 and exact.manifest["error"]["rms_relative"] == 0
    assert "float16 (error" in half.describe() and exact.id != half.id


# --- whose it is ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cached")
    cfg, codec = setting()
    return written(folder, cfg, codec)


@pytest.mark.parametrize("overrides, words", [
    ({"mask": "{name: prefix}"}, "mask.name fixed there, prefix here"),
    ({"mask": "{name: fixed, known: '0'}"}, "mask.known 0-4,-3--1 there, 0 here"),
    ({"condition": AROUND | {"sees": ["past", "self"]}}, "condition.sees"),
    ({"condition": WINDOW}, "condition.slots absent there, 3 here"),
    ({"codec": Codec(PixelNet(), LatentStats(torch.ones(3, 1), torch.ones(3, 1)))}, "autoencoder.statistics"),
    ({"codec": Codec(PixelNet(), weights_hash="other")}, "autoencoder.weights"),
    ({"data": "data.options.count=5"}, "data.options.count 3 there, 5 here"),
    ({"data": "data.stride=2"}, "data.stride 1 there, 2 here"),
    ({"data": "data.resize=stretch"}, "data.resize crop there, stretch here"),
])
def test_latents_of_something_else_are_refused(cached, overrides, words):
    overrides = dict(overrides)
    data = overrides.pop("data", None)
    with pytest.raises(ValueError, match="are of something else") as refused:
        cached.check(identity_of(*setting(*([data] if data else []), **overrides)))
    assert words in str(refused.value) and "encode again" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("overrides", [
    {"condition": AROUND | {"name": "spade", "null_token": True}},
    {"condition": AROUND | {"residual": True, "history": True}}])
def test_what_a_network_makes_of_the_latents_does_not_matter(cached, overrides):
    settings = ["train.history_noise.sigma=0.1", "process.parametrisation=x0"] if "residual" in overrides["condition"] else []
    cached.check(identity_of(*setting("train.seed=5", "optim.lr=1", "data.workers=1", "data.path=elsewhere", *settings,
                                      **overrides)))


def test_the_number_of_slots_and_their_places_decide_what_is_encoded():
    windows = [WINDOW, WINDOW | {"overlap": 0}, WINDOW | {"slots": 4}, WINDOW | {"fewer": 0.5}, WINDOW | {"spacing": "gaps"}]
    folders = {default_folder("m", identity_of(*setting(condition=condition))) for condition in windows}
    assert len(folders) == len(windows)


def test_files_tell_datasets_apart_by_name_and_size(tmp_path):
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for path in paths:
        path.write_bytes(b"12345")
    before = fingerprint(FileSource(paths, tmp_path))
    assert fingerprint(FileSource(paths, tmp_path)) == before
    assert fingerprint(FileSource(paths[:1], tmp_path)) != before != fingerprint(FileSource(paths[::-1], tmp_path))
    paths[1].write_bytes(b"123456")
    assert fingerprint(FileSource(paths, tmp_path)) != before


def test_mixtures_are_cached_wherever_they_lie(tmp_path):
    parts = [{"name": "SHAPES", "weight": 3, "options": {"size": 16, "length": 13, "count": 1}},
             {"name": "SHAPES", "options": {"size": 16, "length": 14, "count": 2, "seed": 1}}]
    cfg, codec = setting()
    cfg = replace(cfg, data=replace(cfg.data, name="SHAPES+SHAPES", options={}, mixture=parts))
    stage, cache = stage_of(cfg, codec), written(tmp_path, cfg, codec)
    for pixels, latents in zip(live(cfg, stage)(0, 3), cache.batches(cfg)(0, 3)):
        torch.testing.assert_close(latents[0]["latent"], stage.prepare(pixels[0]["frames"], pixels[0]["index"]).latent)
    moved = replace(cfg, data=replace(cfg.data, mixture=[part | {"path": "elsewhere"} for part in parts]))
    cache.check(identity_of(moved, codec))
    assert len(open_source(cfg.data)) == 3


def test_augmentation_that_is_not_in_it_is_refused(cached):
    for override, words in (("train.shift=2", "set train.shift=0"), ("train.flip=0.5", "encode with the same train.flip")):
        with pytest.raises(ValueError, match=re.escape(words)):
            cached.batches(setting(override)[0])


# --- where it is ----------------------------------------------------------------------------------------------

def wanted():
    return identity_of(*setting())


def put(cached, model):
    folder = default_folder(model, wanted())
    shutil.copytree(cached.folder, folder)
    return folder


def test_it_is_found_beside_the_autoencoder(cached, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model_last.pth").touch()
    assert find_latents("auto", run, lambda: 1 / 0) is None  # no look at the data where there is nothing
    folder = put(cached, run)
    assert folder.parent == run / "latents" and folder.name.startswith("SHAPES-")
    for model in (run, run / "model_last.pth"):
        assert find_latents("auto", model, wanted) == folder
        assert find_latents("none", model, wanted) is None
    assert find_latents("auto", run, lambda: identity_of(*setting("data.stride=2"))) is None


def test_a_run_stays_with_what_it_was_begun_with(cached, tmp_path):
    with pytest.raises(ValueError, match="begun on the latents abc"):
        find_latents("auto", tmp_path, wanted, ("abc",))
    folder = put(cached, tmp_path)
    assert find_latents("auto", tmp_path, wanted, (None,)) is None
    assert find_latents("auto", tmp_path, wanted, (cached.id,)) == folder


def test_a_folder_that_is_named_must_hold_them(cached, tmp_path):
    assert find_latents(str(cached.folder), tmp_path, wanted) == cached.folder
    with pytest.raises(ValueError, match="holds no cache of latents"):
        find_latents(str(tmp_path), tmp_path, wanted)
    with pytest.raises(ValueError, match=r"data\.stride 1 there, 2 here"):
        find_latents(str(cached.folder), tmp_path, lambda: identity_of(*setting("data.stride=2")))
    folder = put(cached, tmp_path)
    (folder / "manifest.json").unlink()
    assert find_latents("auto", tmp_path, wanted) is None
    with pytest.raises(ValueError, match="did not finish"):
        find_latents(str(folder), tmp_path, wanted)


@pytest.mark.parametrize("harm, word", [(lambda file: file.unlink(), "missing"),
                                        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "damaged")])
def test_a_harmed_file_is_named(cached, tmp_path, harm, word):
    folder = put(cached, tmp_path)
    harm(folder / "shard-00000.safetensors")
    with pytest.raises(ValueError, match=rf"shard-00000.safetensors is {word}; remove it and manifest.json"):
        LatentCache(folder)
