"""A shard: each clip once, and out of it the very examples that the codec makes."""

import json

import pytest
import torch
from fakes import PixelNet, diffusion_config, video
from safetensors.torch import load_file

from autoencoder.codec import Codec
from latent_diffusion.condition import CONDITIONS
from latent_diffusion.encode_shard import STREAM, Ledger, Shard
from latent_diffusion.example import ExampleMaker
from tools.video import to_clip

T, R = 4, 3
CONDITIONED = {"past": {"name": "concat", "sees": ["past"]},
               "around": {"name": "concat", "sees": ["past", "self", "future"], "mask": True},
               "nothing": {"name": "concat", "sees": []},
               "motion": {"name": "implicit", "sees": ["anchor", "past", "self"]},
               "window": {"name": "window", "slots": 3, "fewer": 0.5, "overlap": 1},
               "gaps": {"name": "window", "slots": 3, "spacing": "gaps", "reach": 5}}


def clips(count, seed=0):
    return to_clip(video(count, T, (2, 2), 1, seed=seed))


def setting(condition, mask):
    cfg, codec = diffusion_config(f"condition={json.dumps(condition)}", f"mask={json.dumps(mask)}"), Codec(PixelNet())
    return cfg, codec, CONDITIONS.bind(cfg.condition)(codec.shape, codec.channels, codec.frames)


def encoded(cfg, codec, condition, frames, path, flips=1, first=0, dtype=torch.float32):
    """A shard of windows (uint8 w t h w c), the first of which has the number `first`, as it is written."""
    shard = Shard(cfg, codec, condition, range(first, first + len(frames)), draws=R, flips=flips, batch_size=2)
    for number, part in enumerate(frames.split(2)):
        shard.add(first + 2 * number, part)
    shard.save(path, dtype)
    return load_file(path)


# --- the ledger -----------------------------------------------------------------------------------------------

def test_clips_that_are_alike_are_encoded_once():
    ledger, batch = Ledger(Codec(PixelNet()), 2), clips(5)
    numbers = [ledger.encode(part)[:, 0, 0].tolist() for part in (batch, batch.flip(0), batch[[2, 2]])]
    assert numbers == [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 3]]
    assert torch.equal(ledger.latents(), ledger.codec.encode(batch)) and ledger.codec.net.encoded == 4  # 2 + 2 + 1, and here


def test_the_least_change_of_any_value_makes_another_clip():
    ledger, clip = Ledger(Codec(PixelNet()), 4), clips(1)
    changed = clip.repeat(clip.numel(), 1, 1, 1, 1).flatten(1)
    place = torch.arange(clip.numel())
    changed[place, place] = torch.nextafter(changed[place, place], torch.tensor(2.0))
    numbers = ledger.encode(torch.cat([clip, changed.view(-1, *clip.shape[1:])]))
    assert numbers.unique().numel() == 1 + clip.numel()


def test_the_same_values_elsewhere_are_another_clip():
    ledger, clip = Ledger(Codec(PixelNet()), 4), clips(1)
    moved = torch.cat([clip, clip.flip(2), clip.flip(3), clip.flip(4), clip.roll(1, 2)])
    assert ledger.encode(moved).unique().numel() == 5


# --- the shard ------------------------------------------------------------------------------------------------

def looked_up(shard, name):
    """Latents of every entry and draw by their numbers, zeros for number 0."""
    rows = torch.cat([torch.zeros_like(shard["latents"][:1]), shard["latents"]])
    return rows[shard[name].long()]


@pytest.mark.parametrize("mask", ["both", "none", "ramvid", "fdm"])
@pytest.mark.parametrize("name", CONDITIONED)
def test_out_of_it_come_the_examples_that_the_codec_makes(tmp_path, name, mask):
    cfg, codec, condition = setting(CONDITIONED[name], {"name": mask})
    frames = video(5, condition.stretch, codec.size, 1)
    shard = encoded(cfg, codec, condition, frames, tmp_path / "s", first=7)
    index = torch.arange(7 * R, 12 * R)
    example = ExampleMaker(codec, condition, cfg.mask, cfg.train).make(frames.repeat_interleave(R, 0), index, STREAM)
    latent = looked_up(shard, "target")
    assert torch.equal((latent if condition.observes else latent[:, :, 0]).flatten(0, 1), example.latent)
    assert torch.equal(looked_up(shard, "seen").flatten(0, 1), example.context.latents)
    assert torch.equal(shard["known"].flatten(0, 1), example.context.known)
    assert shard["ok"].all() and ("start" in shard) == condition.observes
    if condition.observes:
        assert torch.equal(shard["start"].flatten(0, 1), example.context.start)
        assert torch.equal(shard["there"].flatten(0, 1), example.context.there)


@pytest.mark.parametrize("name, mask, count", [
    ("past", {"name": "fixed", "known": "0-3"}, 2), ("around", {"name": "fixed", "known": "0-3,-4--1"}, 4),
    ("window", {"name": "fixed", "known": "0-3"}, 4)])
def test_known_as_a_whole_a_clip_needs_no_other_latent(tmp_path, name, mask, count):
    # Past and target; past, target, future, and the target filled from what is around it; three clips, and the last known
    # frame held still, which fills two of them. No draw of a mask adds any.
    cfg, codec, condition = setting(CONDITIONED[name] | ({"fewer": 0.0} if name == "window" else {}), mask)
    shard = encoded(cfg, codec, condition, video(1, condition.stretch, codec.size, 1), tmp_path / "s")
    assert len(shard["latents"]) == count


def test_a_cache_gives_the_clips_that_fdm_observes_as_a_whole(tmp_path):
    cfg, codec, condition = setting(CONDITIONED["gaps"] | {"overlap": 0}, {"name": "fdm"})
    shard = encoded(cfg, codec, condition, video(40, condition.stretch, codec.size, 1), tmp_path / "s")
    known, there = shard["known"].flatten(0, 1), shard["there"].flatten(0, 1)
    assert torch.equal(known.all(-1), known.any(-1)) and not (known.all(-1) | ~there).all(1).any()
    assert 0.1 < known.flatten(1).any(1).float().mean() < 0.4  # 0.25 of the masks of these windows


def test_neighbouring_windows_share_their_clips(tmp_path):
    cfg, codec, condition = setting(CONDITIONED["past"], {"name": "fixed", "known": "0-3"})
    whole = video(1, 4 * T, codec.size, 1)[0]
    shard = encoded(cfg, codec, condition, torch.stack([whole[s:s + 2 * T] for s in (0, T, 2 * T)]), tmp_path / "s")
    parts = codec.encode(to_clip(whole.view(4, T, 2, 2, 1)))
    assert sorted(shard["latents"].flatten(1).tolist()) == sorted(parts.flatten(1).tolist())


def test_a_flipped_window_follows_its_original_with_masks_of_its_own(tmp_path):
    cfg, codec, condition = setting(CONDITIONED["around"], {"name": "ramvid"})
    frames = video(4, condition.stretch, codec.size, 1)
    shard = encoded(cfg, codec, condition, frames, tmp_path / "s", flips=2, first=3)
    index = torch.arange(6 * R, 14 * R)
    both = torch.stack([frames, frames.flip(3)], 1).flatten(0, 1)
    example = ExampleMaker(codec, condition, cfg.mask, cfg.train).make(both.repeat_interleave(R, 0), index, STREAM)
    assert torch.equal(looked_up(shard, "target").flatten(0, 2), example.latent)
    assert torch.equal(looked_up(shard, "seen").flatten(0, 1), example.context.latents)
    assert not torch.equal(shard["known"][0::2], shard["known"][1::2])


def test_the_error_of_a_shorter_type_is_measured(tmp_path):
    cfg, codec, condition = setting(CONDITIONED["past"], {"name": "fixed", "known": "0-3"})
    frames = video(3, condition.stretch, codec.size, 1)
    exact, half = (encoded(cfg, codec, condition, frames, tmp_path / str(dtype), dtype=dtype)
                   for dtype in (torch.float32, torch.float16))
    assert half["latents"].dtype == torch.float16 and exact["error"][[0, 2]].tolist() == [0, 0]
    error = half["latents"].double() - exact["latents"].double()
    wanted = torch.stack([error.square().sum(), exact["latents"].double().square().sum(), error.abs().max()])
    torch.testing.assert_close(half["error"], wanted)
    assert 0 < (half["error"][0] / half["error"][1]).sqrt() < 2**-11


def test_a_latent_that_does_not_fit_the_type_is_refused(tmp_path):
    cfg, codec, condition = setting(CONDITIONED["nothing"], {"name": "none"})
    codec.mean -= 1e5
    with pytest.raises(ValueError, match=r"does not fit float16; give --dtype float32"):
        encoded(cfg, codec, condition, video(1, T, codec.size, 1), tmp_path / "s", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
