"""What a training window becomes: the latent to be made, and what is observed around it."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from autoencoder.augment import augment
from autoencoder.border import at_frames
from autoencoder.fill import fill_missing
from autoencoder.planes import PlaneShape
from latent_diffusion.condition import OFFSETS, Condition, Context
from latent_diffusion.config import DiffusionTrainConfig
from latent_diffusion.denoiser import AnyContext
from latent_diffusion.masks import MASKS, chosen, samplers_of
from latent_diffusion.window import WindowContext
from latent_diffusion.window_example import encode_window, lay_out, place_draws
from tools.rng import batch_rand, rand
from tools.video import to_clip

MASK_ATTEMPTS = 16


class Example(NamedTuple):
    latent: Tensor        # b c n: of the whole true target clip; b s c n of a window of slots
    context: AnyContext   # what the condition sees around it
    keep: Tensor | None = None  # b s: slots that bear loss


class Encoder(Protocol):
    """What examples ask of a codec."""
    frames: int
    channels: int
    shape: PlaneShape

    def encode(self, clip: Tensor) -> Tensor:
        """Map clips b c t h w to latents b c n."""


def window_frames(condition: Condition, mask: Mapping[str, Any]) -> int:
    """Frames of a training window: the target clip and the neighbours that the condition looks at, or all of its clips."""
    never = mask.get("name") == "none" or mask.get("rate") == 0
    return condition.frames if never and not condition.observes else condition.stretch


class ExampleMaker:
    """Encodes windows, and draws what of them is known.

    Args:
        codec: the frozen autoencoder.
        condition: says which clips of a window are looked at.
        mask: sampler of the known frames, name and options.
        cfg: the seed of all randomness, and how windows are changed while training.
    """

    def __init__(self, codec: Encoder, condition: Condition, mask: Mapping[str, Any], cfg: DiffusionTrainConfig):
        samplers_of(mask)  # a wrong one is told at once
        self.codec, self.condition, self.mask, self.cfg = codec, condition, mask, cfg

    @torch.no_grad()
    def make(self, frames: Tensor, index: Tensor, stream: str) -> Example:
        """Encode windows, and choose what of them is known.

        Args:
            frames: uint8 b t h w c, on the codec's device.
            index: global sample indices b, on which (with the seed and the stream) all randomness depends.
            stream: "train", of which windows are augmented, or another.
        """
        clip = to_clip(frames)
        if stream == "train":
            clip = augment(clip, index, self.cfg.seed, flip=self.cfg.flip, shift=self.cfg.shift)
        t, condition, device = self.codec.frames, self.condition, clip.device
        if condition.observes:
            return self._window(clip, index, stream)
        context = condition.nothing(len(clip), device)
        if clip.shape[2] < condition.span * t:  # a window without neighbours: nothing is ever known
            return Example(self.codec.encode(clip), context)
        known = self.draw_masks(clip.shape[2], index, stream)  # b t, on the CPU: which rows to encode must not wait
        clip = self._place_unconditional(clip, known, index, stream)
        begin = condition.target * t
        for place, name in enumerate(condition.sees):
            span = slice(begin + OFFSETS[name] * t, begin + (OFFSETS[name] + 1) * t)
            context.known[:, place] = known[:, span].to(device)
            source = slice(None) if name == "self" else span  # of the frames that fill the missing ones
            rows = known[:, source].any(1).nonzero()[:, 0]    # clips of which nothing is known are not worth encoding
            if len(rows):
                some = rows.to(device)
                filled = fill_missing(clip[some, :, source], known[rows, source].to(device))
                context.latents[some, place] = self.codec.encode(filled[:, :, span] if name == "self" else filled)
        return Example(self.codec.encode(clip[:, :, begin:begin + t]), context)

    def _window(self, clip: Tensor, index: Tensor, stream: str) -> Example:
        """Clips of a stretch: those known as a whole are given, each other is a target."""
        condition, t, starts, masks = self.condition, self.codec.frames, [], []
        frames = min(clip.shape[2], condition.stretch)
        for i in index.tolist():
            draws = place_draws(self.cfg.seed, stream, i, frames)
            laid = condition.lay(frames, draws.__next__)
            starts.append(laid.starts)
            masks.append(self._draw_mask(frames, [slice(s, s + t) for s in laid.starts], i, stream, laid.observed))
        latent, context = encode_window(self.codec, clip, lay_out(condition, starts, masks))
        return Example(latent, context, context.targets)

    def draw_masks(self, frames: int, index: Tensor, stream: str) -> Tensor:
        """Which frames of each window are known, never all of the target's: bool b t."""
        begin = self.condition.target * self.codec.frames
        own = slice(begin, begin + self.codec.frames)
        return torch.stack([self._draw_mask(frames, [own], i, stream) for i in index.tolist()])

    def _draw_mask(self, frames: int, own: list[slice], index: int, stream: str, observed: Tensor | None = None) -> Tensor:
        """Known frames, bool t; of these clips at least one is not known as a whole.

        Args:
            observed: bool t, what mask=fdm knows: it was drawn when the clips were laid.
        """
        for attempt in range(MASK_ATTEMPTS):
            key = (self.cfg.seed, stream, "mask", index, *([attempt] if attempt else []))
            draw = iter(rand((4 * frames + 64,), *key).tolist()).__next__
            mask = chosen(self.mask, draw)
            known = observed if observed is not None and mask["name"] == "fdm" else MASKS.bind(mask)(frames, draw)
            if not all(known[clip].all() for clip in own):
                return known
        known[own[-1]] = False  # a sampler that nearly always knows the target
        return known

    def _place_unconditional(self, clip: Tensor, known: Tensor, index: Tensor, stream: str) -> Tensor:
        """Where nothing is known any clip of the window can be the target, so that a video's first frames are, too."""
        room = clip.shape[2] - self.codec.frames
        moves = (batch_rand((), index, self.cfg.seed, stream, "place") * (room + 1)).long().clamp(max=room)
        begin = self.condition.target * self.codec.frames
        moves = torch.where(known.any(1), 0, moves - begin).to(clip.device)
        frame = torch.arange(clip.shape[2], device=clip.device)
        frame = (frame + moves[:, None]) % clip.shape[2]  # only the target's frames are looked at then
        return at_frames(clip, frame)


def from_latents(batch: Mapping[str, Tensor], device: torch.device) -> Example:
    """An example of latents that were encoded beforehand.

    Args:
        batch: `latent` b c n, `seen` b k c n and `known` b k f of a clip and what is around it; with b s of all and
            `start`, `there` (b s) of a window of slots.
    """
    latent, seen, known = (batch[name].to(device, non_blocking=True) for name in ("latent", "seen", "known"))
    if "start" not in batch:
        return Example(latent, Context(seen, known))
    start, there = (batch[name].to(device, non_blocking=True) for name in ("start", "there"))
    context = WindowContext(seen, known, start.float(), there)
    return Example(latent, context, context.targets)
