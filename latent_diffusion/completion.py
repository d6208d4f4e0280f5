"""Completing one batch of videos with the same known frames: slots, scheme, sampler, decoding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoencoder.border import paste_known
from latent_diffusion.condition import Context
from latent_diffusion.denoiser import make_denoise
from latent_diffusion.guidance import clamp_x0
from latent_diffusion.modelfile import DiffusionModel
from latent_diffusion.samplers import SAMPLERS, evaluations
from latent_diffusion.schedule import sampling_levels
from latent_diffusion.schemes import plan
from latent_diffusion.slots import make_grid
from tools.rng import randn
from tools.video import to_clip, to_frames


@dataclass(frozen=True)
class Settings:
    """How videos are completed; see VideoDiffusion.complete."""
    sampler: str | Mapping[str, Any] = "ddim"
    steps: str = "50"
    seed: int = 0
    guidance: float = 0.0
    scheme: str = "autoreg"
    window: int = 2
    stride: int = 1
    overlap: int | None = None
    spacing: str = "uniform"
    border: bool = True
    autocast: bool = False

    def step_counts(self) -> tuple[str, str]:
        """Sampler steps of a clip that nothing precedes, and of every other."""
        counts = self.steps.split("/")
        if len(counts) > 2 or not all(counts):
            raise ValueError(f"steps={self.steps!r} is no number of steps; use 50, or 400/20 (first clip / each other)")
        return counts[0], counts[-1]


class Edge(NamedTuple):
    """The last frame of a finished clip, b c 1 h w each."""
    plain: Tensor  # as decoded
    shown: Tensor  # as it is in the video, but not rounded: a change smaller than a grey level a clip must not stop


class SlotNoise:
    """Noise of one slot of each video: f(seed, video, sample, slot, evaluation), whatever the batch."""

    def __init__(self, seed: int, ids: Sequence[tuple[int, int]], slot: int):
        self.seed, self.ids, self.slot, self.evaluation = seed, ids, slot, 0

    def __call__(self, like: Tensor) -> Tensor:
        drawn = [randn(like.shape[1:], self.seed, "sample", video, sample, self.slot, self.evaluation)
                 for video, sample in self.ids]
        self.evaluation += 1
        return torch.stack(drawn).to(like)


class Completion:
    """Makes the unknown frames of a batch of videos that share their known frames.

    Args:
        model: networks, on the device where they run.
        known: bool t.
        ids: (video, sample) of each row.
        progress: called with evaluations x videos after each network call.
    """

    def __init__(self, model: DiffusionModel, settings: Settings, known: Tensor, ids: Sequence[tuple[int, int]],
                 progress: Callable[[int], None] | None = None):
        self.model, self.codec, self.settings, self.ids, self.progress = model, model.codec, settings, ids, progress
        self.frames, self.clip = len(known), model.codec.frames
        if self.frames and bool(known.all()):
            raise ValueError(f"all {self.frames} frames are known, so there is nothing to make; give fewer with --known")
        self._check_condition(known)
        self.grid = make_grid(self.frames, self.clip, settings.overlap or 0, whole="self" not in model.net.condition.sees)
        self.known = torch.cat([known, known.new_zeros(self.grid.frames - self.frames)])
        self.sampler = SAMPLERS.bind(settings.sampler)
        self.order = list(self._targets())
        self.levels = [sampling_levels(model.schedule, count, settings.spacing) for count in settings.step_counts()]
        self.latents: dict[int, Tensor] = {}    # of finished slots: sampled ones, or the encoded given ones
        self.edges: dict[int, Edge] = {}        # of last frames, where the next slot meets them

    def _check_condition(self, known: Tensor) -> None:
        """Refuse what the model cannot look at: it sees the whole clip before the one that it makes, or nothing."""
        t, sees = self.clip, self.model.net.condition.sees
        if sees not in ((), ("past",)):
            raise ValueError(f"this model looks at {', '.join(sees)} of a clip; videos are made only with models that look at "
                             "the clip before (condition.sees=[past]) or at nothing")
        if self.settings.overlap:
            raise ValueError(f"--overlap {self.settings.overlap} needs a model that sees which frames of a clip are finished; "
                             "this one would make them again, differently: leave --overlap out")
        given = known.nonzero().flatten().tolist()
        if not sees and given:
            raise ValueError("this model was trained without a condition, it can only generate; use --task generate")
        if not sees and self.frames > t:
            raise ValueError(f"this model was trained without a condition, it cannot continue its clips of {t} frames, "
                             f"got --frames {self.frames}; give --frames {t} or fewer")
        prefix = given == list(range(len(given)))
        if not prefix or len(given) % t:
            shown = f"{given[0]}-{given[-1]}" if prefix else ",".join(map(str, given[:8]))
            raise ValueError(f"this model looks at the whole clip before, so the known frames must be the first {t}, {2 * t}, "
                             f"... of the video, got {shown}; give --known 0-{t - 1}, or a model whose condition sees more")

    def _targets(self) -> Iterator[int]:
        """Slots in the order in which they are made; all but the first see the one before."""
        done = [slot for slot in range(self.grid.count) if all(self.known[i] for i in self.grid.span(slot))]
        for window in plan(self.settings.scheme, self.grid.count, done, window=self.settings.window,
                           stride=self.settings.stride):
            seen = set(window.observed)
            for slot in window.target:  # the condition takes one at a time; those made before it are seen by it
                if slot and slot - 1 not in seen:
                    raise ValueError(f"scheme {self.settings.scheme!r} with window={self.settings.window} makes clip {slot} "
                                     "without the one before it, which is all that this model looks at; use autoreg with "
                                     "a window of 2 or more")
                yield slot
                seen.add(slot)

    def evaluations(self) -> int:
        """Network evaluations for one video, guidance not counted twice."""
        sampler = self.settings.sampler
        options = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
        return sum(evaluations(steps=len(self.levels[slot > 0]) - 1, **options) for slot in self.order)

    @torch.no_grad()
    def run(self, video: Tensor) -> Tensor:
        """Return uint8 b t h w c with every frame made (`video`: the same, looked at where known)."""
        device = self.codec.device
        out = torch.zeros(len(video), self.grid.frames, *video.shape[2:], dtype=torch.uint8)
        out[:, :self.frames] = video
        done = self.known.clone()
        for slot in self.order:
            span = self.grid.span(slot)
            context = self._context(slot, out) if slot else None
            latent = self._sample(slot, context, len(video), device)
            clip = self._decode(slot, latent, out, done)
            new = [i for i in span if not done[i]]
            out[:, new] = to_frames(clip[:, :, [i - span.start for i in new]]).cpu()
            if not done[list(span)].any():  # else the slot's frames are not all its own
                self.latents[slot] = latent
            done[list(span)] = True
        return out[:, :self.frames]

    def _context(self, slot: int, out: Tensor) -> Context:
        """The clip before, finished; a slot on the grid is not decoded and encoded again."""
        latent = self._latent_at(self.grid.starts[slot] - self.clip, out)
        known = torch.ones(len(out), 1, self.clip, dtype=torch.bool, device=latent.device)
        return Context(latent[:, None], known)

    def _latent_at(self, start: int, out: Tensor) -> Tensor:
        slot = self.grid.starts.index(start) if start in self.grid.starts else None
        if slot in self.latents:
            return self.latents[slot]
        clip = to_clip(out[:, start:start + self.clip].to(self.codec.device))
        latent = self.codec.encode(clip)
        if slot is not None:
            self.latents[slot] = latent
        return latent

    def _sample(self, slot: int, context: Context | None, batch: int, device: torch.device) -> Tensor:
        noise = SlotNoise(self.settings.seed, self.ids, slot)
        like = torch.empty(batch, self.codec.channels, self.codec.shape.total, device=device)
        levels = self.levels[context is not None]
        denoise = make_denoise(self.model.net, self.model.process.parametrisation, context, self.settings.guidance,
                               self.settings.autocast)
        if self.codec.limits is not None:
            denoise = clamp_x0(denoise, *self.codec.limits)
        start = levels[0].sigma * noise(like)
        return self.sampler(self._counted(denoise, batch), start, levels, noise)

    def _counted(self, denoise, batch: int):
        def counted(x, level):
            result = denoise(x, level)
            if self.progress:
                self.progress(batch)
            return result
        return counted

    def _decode(self, slot: int, latent: Tensor, out: Tensor, done: Tensor) -> Tensor:
        """Decode a slot and give it the detail of the finished frame before it and of the finished ones within it."""
        span = self.grid.span(slot)
        plain = self.codec.decode(latent)  # b c t h w
        if not self.settings.border:
            return plain
        known, before = done[list(span)], span.start - 1
        stretch, given = plain, to_clip(out[:, span.start:span.stop].to(plain.device))
        if before >= 0 and done[before]:
            edge = self._edge(before, out)
            stretch, given = torch.cat([edge.plain, stretch], 2), torch.cat([edge.shown, given], 2)
            known = torch.cat([known.new_ones(1), known])
        shown = plain
        if known.any():
            shown = paste_known(stretch, given, known.expand(len(plain), -1).to(plain.device))[:, :, -self.clip:]
        self.edges[span.stop - 1] = Edge(plain[:, :, -1:], shown[:, :, -1:].clamp(-1, 1))
        return shown

    def _edge(self, frame: int, out: Tensor) -> Edge:
        if frame not in self.edges:  # of a given clip
            plain = self.codec.decode(self._latent_at(frame + 1 - self.clip, out))
            self.edges[frame] = Edge(plain[:, :, -1:], to_clip(out[:, frame:frame + 1].to(plain.device)))
        return self.edges[frame]
