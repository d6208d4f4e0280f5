"""Examples: how long a training window is, and the same example from pixels and from latents."""

import json

import pytest
import torch
from fakes import diffusion_config, diffusion_stage, video

from latent_diffusion.example import from_latents, window_frames
from tools.video import to_clip

T = 4
INDEX = torch.arange(6)


def make_stage(condition, mask, *overrides):
    settings = ("unet.mult=[1]", "unet.attention=[1]", f"condition={json.dumps(condition)}", f"mask={json.dumps(mask)}")
    return diffusion_stage(diffusion_config(*settings, *overrides))


def tensors(value):
    """All tensors of an example, in order."""
    return [value] if isinstance(value, torch.Tensor) else [t for part in value if isinstance(part, tuple | torch.Tensor)
                                                            for t in tensors(part)]


@pytest.mark.parametrize("condition, mask, frames", [
    ({"name": "concat", "sees": ["past"]}, {"name": "pvdm", "rate": 0.5}, 2 * T),
    ({"name": "concat", "sees": ["past"]}, {"name": "pvdm", "rate": 0}, T),
    ({"name": "concat", "sees": ["past"]}, {"name": "none"}, T),
    ({"name": "concat", "sees": ["past", "self", "future"], "mask": True}, {"name": "both"}, 3 * T),
    ({"name": "window", "slots": 3, "overlap": 1}, {"name": "none"}, 3 * (T - 1) + 1),
])
def test_a_window_holds_what_is_looked_at(condition, mask, frames):
    stage = make_stage(condition, mask)
    assert window_frames(stage.net.condition, stage.cfg.mask) == frames


@pytest.mark.parametrize("condition", [{"name": "concat", "sees": ["past", "self", "future"], "mask": True},
                                       {"name": "window", "slots": 3, "fewer": 0.5}], ids=["concat", "window"])
def test_latents_make_the_example_that_pixels_make(condition):
    stage = make_stage(condition, {"name": "both"})
    example = stage.prepare(video(6, stage.net.condition.stretch, (2, 2), 1), INDEX)
    context = example.context
    batch = {"latent": example.latent, "seen": context.latents, "known": context.known}
    if example.keep is not None:
        batch |= {"start": context.start.int(), "there": context.there}
    again = from_latents(batch, torch.device("cpu"))
    assert type(again.context) is type(context)
    assert all(torch.equal(a, b) for a, b in zip(tensors(again), tensors(example), strict=True))


def test_only_training_windows_are_flipped():
    stage = make_stage({"name": "concat", "sees": []}, {"name": "none"}, "train.flip=1.0")
    frames = video(6, T, (2, 2), 1)
    for stream, shown in (("train", frames.flip(3)), ("encode", frames), ("validate", frames)):
        assert torch.equal(stage.examples.make(frames, INDEX, stream).latent, stage.codec.encode(to_clip(shown)))


def test_recalled_history_is_as_noisy_as_a_prepared_one():
    condition = {"name": "concat", "sees": ["past"], "mask": True, "history": True}
    stage = make_stage(condition, {"name": "pvdm", "rate": 1.0}, "train.history_noise={sigma: 0.6, rate: 1.0}")
    frames = video(6, 2 * T, (2, 2), 1)
    clean = stage.examples.make(frames, INDEX, "train")
    batch = {"latent": clean.latent, "seen": clean.context.latents, "known": clean.context.known, "index": INDEX}
    noisy = stage.prepare(frames, INDEX)
    assert noisy.context.level.all() and not torch.equal(noisy.context.latents, clean.context.latents)
    assert all(torch.equal(a, b) for a, b in zip(tensors(stage.recall(batch)), tensors(noisy), strict=True))
