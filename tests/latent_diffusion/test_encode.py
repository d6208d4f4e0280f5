"""The command encode: what it writes, that it goes on where it was killed, and that ddpm trains from it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from fakes import PixelNet, autoencoder, autoencoder_payload, diffusion_config, first_config, video

from autoencoder.codec import Codec
from latent_diffusion import encode as command
from latent_diffusion.encode import EncodeConfig, encode
from latent_diffusion.latent_cache import Draw, LatentCache
from latent_diffusion.train import fit_data
from main import main
from tests.tiny import DDPM, SHAPES, model_states, run
from tools import checkpoint, dist
from tools.log import read_metrics

FILES = ("index.safetensors", "manifest.json", "plan.json", "shard-00000.safetensors")
KNOWN = ("mask={name: fixed, known: '0-5,-3--1'}",)
DATA = ("--data", "SHAPES", "data.options={size: 16, length: 14, count: 3}", "data.workers=0")


def setting(*overrides):
    codec = Codec(PixelNet())
    options = ("data.options.length=11", "data.options.count=3", "mask={name: ramvid}")
    return fit_data(diffusion_config(*options, *overrides), codec), codec


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_shards(monkeypatch):
    """Two windows of two clips and three draws in a shard: six shards of the twelve windows."""
    monkeypatch.setattr(command, "SHARD_BYTES", 2 * 2 * 3 * 4 * Codec(PixelNet()).shape.total)


def test_it_writes_what_it_says(tmp_path, capsys):
    cfg, codec = setting()
    cache = encode(cfg, codec, EncodeConfig(draws=3), model=str(tmp_path), out=str(tmp_path / "lat"))
    assert sorted(contents(tmp_path / "lat")) == sorted(FILES)
    assert cache.describe() in capsys.readouterr().out
    assert (cache.manifest["videos"], cache.manifest["windows"], cache.frames) == (3, 12, 8)


def test_nothing_is_lost_when_it_is_killed(tmp_path, monkeypatch, small_shards):
    cfg, codec = setting()
    how = EncodeConfig(draws=3)
    encode(cfg, codec, how, model="m", out=str(tmp_path / "whole"))
    assert sum(name.startswith("shard") for name in contents(tmp_path / "whole")) == 6
    save, left = command.Shard.save, iter(range(2))

    def killed(self, path, dtype):
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(self, path, dtype)
    monkeypatch.setattr(command.Shard, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        encode(cfg, codec, how, model="m", out=str(tmp_path / "killed"))
    monkeypatch.setattr(command.Shard, "save", save)
    assert sorted(contents(tmp_path / "killed")) == ["plan.json", "shard-00000.safetensors", "shard-00001.safetensors"]
    with pytest.raises(ValueError, match="encode again"):
        LatentCache(tmp_path / "killed")
    before = (tmp_path / "killed" / "shard-00001.safetensors").stat()
    encode(cfg, codec, how, model="m", out=str(tmp_path / "killed"))
    after = (tmp_path / "killed" / "shard-00001.safetensors").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino), "it was made again"
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    calls = codec.net.encoded
    encode(cfg, codec, how, model="m", out=str(tmp_path / "killed"))
    assert codec.net.encoded == calls, "what is complete stays"


def test_the_size_of_shards_and_batches_does_not_matter(tmp_path, monkeypatch):
    cfg, codec = setting("train.flip=0.5")
    one = encode(cfg, codec, EncodeConfig(draws=3), model="m", out=str(tmp_path / "one"))
    monkeypatch.setattr(command, "SHARD_BYTES", 1)
    many = encode(cfg, codec, EncodeConfig(draws=3, batch_size=1), model="m", out=str(tmp_path / "many"))
    draws = [Draw(entry, draw) for entry in range(24) for draw in range(3)]
    assert len(many.manifest["files"]) == 13
    assert all(torch.equal(value, many.read(draws)[name]) for name, value in one.read(draws).items())


def test_two_processes_write_what_one_writes(tmp_path, monkeypatch, small_shards):
    cfg, codec = setting()

    def write(name, rank=0, world=1):
        monkeypatch.setattr(dist, "rank", lambda: rank)
        monkeypatch.setattr(dist, "world", lambda: world)
        encode(cfg, codec, EncodeConfig(draws=3), model="m", out=str(tmp_path / name))
    write("one")
    with pytest.raises(FileNotFoundError, match="shard-00001"):  # it would wait here for the other
        write("two", rank=0, world=2)
    assert [name for name in sorted(contents(tmp_path / "two")) if "shard" in name] == \
        [f"shard-0000{n}.safetensors" for n in (0, 2, 4)]
    with pytest.raises(ValueError, match="manifest"):
        write("two", rank=1, world=2)
    write("two", rank=0, world=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_another_cache_in_the_place_is_refused(tmp_path):
    cfg, codec = setting()
    place = {"model": "m", "out": str(tmp_path / "lat")}
    encode(cfg, codec, EncodeConfig(draws=1), **place)
    with pytest.raises(ValueError, match=r"settings\.draws 1 there, 2 here, .*give another --out"):
        encode(cfg, codec, EncodeConfig(draws=2), **place)
    with pytest.raises(ValueError, match=r"mask\.name ramvid there, prefix here"):
        encode(*setting("mask={name: prefix}"), EncodeConfig(draws=1), **place)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ValueError, match="exists and holds no latents"):
        encode(cfg, codec, EncodeConfig(), model="m", out=str(tmp_path / "other"))
    assert (tmp_path / "other" / "file").exists()


@pytest.mark.parametrize("options, words", [
    ({"draws": 0}, "--draws"), ({"stride": 0}, "--stride"), ({"dtype": "bfloat16"}, "--dtype"),
    ({"stride": 2, "windows_per_video": 3}, "exclude"), ({"batch_size": 0}, "--batch_size")])
def test_nonsense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        EncodeConfig(**options)


@pytest.mark.parametrize("section, changes", [("train", {"shift": 1}), ("data", {"hue": 0.1, "channels": 3})])
def test_what_is_drawn_anew_each_time_cannot_be_encoded(tmp_path, section, changes):
    cfg, codec = setting()
    key = f"{section}.{next(iter(changes))}"
    with pytest.raises(ValueError, match=rf"got {key}=.*; set {key}=0"):
        encode(replace(cfg, **{section: replace(getattr(cfg, section), **changes)}), codec, EncodeConfig(), model="m",
               out=str(tmp_path / "lat"))


def test_damaged_videos_are_left_out_and_named(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"v{i}.npy", video(1, 11, seed=i)[0].numpy())
    (tmp_path / "v1.npy").write_bytes((tmp_path / "v1.npy").read_bytes()[:300])
    codec = Codec(PixelNet())
    cfg = fit_data(diffusion_config("mask={name: ramvid}"), codec)
    cfg = replace(cfg, data=replace(cfg.data, name="VIDEOS", path=str(tmp_path), split="all", options={}))
    with pytest.raises(ValueError, match=r"v1\.npy"):
        encode(cfg, codec, EncodeConfig(), model="m", out=str(tmp_path / "lat"))
    skip = replace(cfg, data=replace(cfg.data, on_error="skip"))
    cache = encode(skip, codec, EncodeConfig(), model="m", out=str(tmp_path / "skipped"))
    assert (cache.manifest["videos"], cache.manifest["windows"]) == (2, 8)
    assert len(cache.manifest["left_out"]) == 1 and "v1" in cache.manifest["left_out"][0]
    assert {int(g) for step in cache.batches(skip)(0, 2) for batch in step for g in batch["index"]} == set(range(16))
    with pytest.raises(ValueError, match=r"leave out 1 videos or windows, .*on_error=skip"):
        cache.batches(cfg)


# --- with ddpm ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A model file of an autoencoder, and a cache of all windows of a dataset beside it."""
    folder = tmp_path_factory.mktemp("first")
    checkpoint.save(folder / "first.pth", autoencoder_payload(autoencoder(first_config())))
    run("--exp", "encode", "--first_model", folder / "first.pth", *DDPM[2:], *DATA, *KNOWN, "--draws", "2")
    return folder / "first.pth"


def train(first, results, *words, known=KNOWN):
    """A short run of ddpm, and its log."""
    run(*DDPM, "--first_model", first, *DATA, *known, "train.validation_clips=2", "loop.log_every=1", "loop.save_every=2",
        "loop.validate_every=4", "loop.batch_size=4", "--results", results, *words)
    (folder,) = (path for path in results.iterdir() if path.name.startswith("ddpm"))
    return folder, (folder / "log.txt").read_text()


def test_ddpm_trains_from_what_encode_left_as_it_trains_without(first, tmp_path):
    (place,) = (first.parent / "latents").iterdir()
    live, log = train(first, tmp_path / "live", "--steps", "4", "--latents", "none")
    assert str(place) not in log
    cached, log = train(first, tmp_path / "cached", "--steps", "4")
    assert LatentCache(place).describe() in log
    losses = [[line["value"] for line in read_metrics(folder / "metrics.jsonl") if line["name"] == "train/loss"]
              for folder in (live, cached)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_fdms_task_is_encoded_and_trained_from(first, tmp_path):
    gaps = ("condition={name: window, slots: 3, spacing: gaps, reach: 5, overlap: 0}", "mask={name: fdm}",
            "data.options.length=22")
    run("--exp", "encode", "--first_model", first, *DDPM[2:], *DATA, *gaps, "--draws", "8", "--out", tmp_path / "lat")
    cache = LatentCache(tmp_path / "lat")
    assert cache.frames == 20 and cache.manifest["windows"] == 9
    batch = cache.read([Draw(entry, draw) for entry in range(9) for draw in range(8)])
    whole, there = batch["known"].all(-1), batch["there"]
    assert whole.any() and torch.equal(whole, batch["known"].any(-1)) and (there & ~whole).any(1).all()
    folder, log = train(first, tmp_path / "run", "--steps", "2", "--latents", tmp_path / "lat", known=gaps)
    assert cache.describe() in log
    losses = [line["value"] for line in read_metrics(folder / "metrics.jsonl") if line["name"] == "train/loss"]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_a_cached_run_that_is_interrupted_ends_in_the_same_bits(first, tmp_path):
    whole, _ = train(first, tmp_path / "whole", "--steps", "4")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / whole.name / "checkpoints" / "step-00000004.pt").unlink()
    for path in (tmp_path / "cut" / whole.name).glob("*model_last.pth"):
        path.unlink()
    cut, log = train(first, tmp_path / "cut", "--steps", "4")
    assert "continuing after step 2" in log
    torch.testing.assert_close(model_states(cut), model_states(whole), rtol=0, atol=0)


def test_a_run_goes_on_as_it_was_begun(first, tmp_path, capsys):
    train(first, tmp_path, "--steps", "2", "--latents", "none")
    _, log = train(first, tmp_path, "--steps", "4")  # now that they are there, too
    assert str(first.parent / "latents") not in log
    assert main([str(w) for w in (*DDPM, "--first_model", first, *DATA, *KNOWN, "--results", tmp_path, "--latents",
                                  next((first.parent / "latents").iterdir()))]) == 2
    assert "run.latents" in capsys.readouterr().err


@pytest.mark.parametrize("words, parts", [
    (["--exp", "encode", "--data", "SHAPES"], ["--first_model"]),
    (["--exp", "encode", "--dtype", "int8"], ["--dtype", "int8", "float16"]),
    ([*DDPM, "--first_model", "{first}", *SHAPES, "--latents", "{tmp}"], ["--latents", "no cache", "--exp encode"]),
    ([*DDPM, "--first_model", "{first}", *DATA, "--latents", "{lat}"], ["mask.name", "encode again", "--latents none"])])
def test_a_mistake_is_one_line(first, tmp_path, capsys, words, parts):
    places = {"first": first, "tmp": tmp_path, "lat": next((first.parent / "latents").iterdir())}
    assert main([str(word).format(**places) if word.startswith("{") else str(word) for word in words]
                + (["--results", str(tmp_path)] if "ddpm" in words else [])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts), error


def test_the_dry_run_says_what_would_be_encoded(capsys):
    assert main(["--exp", "encode", *DATA, "--draws", "7", "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["data"]["name"] == "SHAPES"
    assert settings["encode"] == {"stride": None, "windows_per_video": 0, "draws": 7, "dtype": "float32", "batch_size": 4}
