"""Completing one batch of videos with the same known frames: slots, scheme, sampler, decoding."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autoencoder.border import paste_known
from autoencoder.fill import fill_nearest
from latent_diffusion.condition import OFFSETS, Context
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


class Job(NamedTuple):
    """One clip to be made."""
    slot: int
    informed: bool  # something that is finished by then is looked at


class Edge(NamedTuple):
    """Finished frames beside those that are made, b c t h w each."""
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
        self.condition = model.net.condition
        self.general = "self" in self.condition.sees  # sees which frames of a clip are finished
        self._check_condition(known)
        overlap = min(int(self.general), self.clip - 1) if settings.overlap is None else settings.overlap
        self.grid = make_grid(self.frames, self.clip, overlap, whole=not self.general)
        self.known = torch.cat([known, known.new_zeros(self.grid.frames - self.frames)])
        self.sampler = SAMPLERS.bind(settings.sampler)
        self.jobs = list(self._plan())
        self.levels = [sampling_levels(model.schedule, count, settings.spacing) for count in settings.step_counts()]
        self.latents: dict[int, Tensor] = {}    # by first frame, of finished clips: sampled ones, or the encoded given ones
        self.edges: dict[int, Edge] = {}        # of first and last frames of made clips, where the next ones meet them

    def _check_condition(self, known: Tensor) -> None:
        """Refuse what the model cannot look at: the whole clip before the one that it makes, or nothing at all."""
        t, sees = self.clip, self.condition.sees
        if self.general:
            return
        if sees not in ((), ("past",)):
            raise ValueError(f"this model looks at {', '.join(sees)} of a clip; videos are made only with models that look at "
                             "nothing (condition.sees=[]), the clip before (past) or at the clip itself, too (self)")
        if self.settings.overlap:
            raise ValueError(f"--overlap {self.settings.overlap} needs a model that sees which frames of a clip are finished "
                             "(condition.sees with self); this one would make them again, differently: leave --overlap out")
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

    def _plan(self) -> Iterator[Job]:
        """Clips in the order in which they are made."""
        done = self.known.clone()
        finished = [slot for slot in range(self.grid.count) if done[list(self.grid.span(slot))].all()]
        for window in plan(self.settings.scheme, self.grid.count, finished, window=self.settings.window,
                           stride=self.settings.stride):
            seen = set(window.observed)
            for slot in window.target:  # the condition takes one at a time; those made before it are seen by it
                if not self.general and slot and slot - 1 not in seen:
                    raise ValueError(f"scheme {self.settings.scheme!r} with window={self.settings.window} makes clip {slot} "
                                     "without the one before it, which is all that this model looks at; use autoreg with "
                                     "a window of 2 or more")
                span = list(self.grid.span(slot))
                if not done[span].all():  # clips that overlap it may have made all of its frames
                    yield Job(slot, bool(self._seen(slot, done).any()))
                    done[span] = True
                seen.add(slot)

    def evaluations(self) -> int:
        """Network evaluations for one video, guidance not counted twice."""
        sampler = self.settings.sampler
        options = {"name": sampler} if isinstance(sampler, str) else dict(sampler)
        return sum(evaluations(steps=len(self.levels[job.informed]) - 1, **options) for job in self.jobs)

    @torch.no_grad()
    def run(self, video: Tensor) -> Tensor:
        """Return uint8 b t h w c with every frame made (`video`: the same, looked at where known)."""
        device = self.codec.device
        out = torch.zeros(len(video), self.grid.frames, *video.shape[2:], dtype=torch.uint8)
        out[:, :self.frames] = video
        done = self.known.clone()
        for slot, informed in self.jobs:
            span = self.grid.span(slot)
            context = self._context(slot, out, done) if informed else None
            latent = self._sample(slot, context, len(video), device)
            clip = self._decode(slot, latent, out, done)
            new = [i for i in span if not done[i]]
            out[:, new] = to_frames(clip[:, :, [i - span.start for i in new]]).cpu()
            if not done[list(span)].any():  # else the slot's frames are not all its own
                self.latents[span.start] = latent
            done[list(span)] = True
        return out[:, :self.frames]

    def _seen(self, slot: int, done: Tensor) -> Tensor:
        """Which frames the condition is shown around a slot, bool k t: what is finished there."""
        starts = [self.grid.starts[slot] + OFFSETS[place] * self.clip for place in self.condition.sees]
        frames = torch.tensor(starts, dtype=torch.long)[:, None] + torch.arange(self.clip)
        return self._finished(frames, done)

    @staticmethod
    def _finished(frame: Tensor, done: Tensor) -> Tensor:
        """Which of these frames are finished; what lies outside of the video is not."""
        return done[frame.clamp(0, len(done) - 1)] & (frame >= 0) & (frame < len(done))

    def _context(self, slot: int, out: Tensor, done: Tensor) -> Context:
        """What is finished around a slot; zeros in place of clips of which nothing is."""
        context = self.condition.nothing(len(out), self.codec.device)
        context.known[:] = self._seen(slot, done).to(context.known.device)
        for k, place in enumerate(self.condition.sees):
            start = self.grid.starts[slot] + OFFSETS[place] * self.clip
            around = self.condition.around if place == "self" else range(1)
            latent = self._observed(start, out, done, around)
            context.latents[:, k] = 0.0 if latent is None else latent
        return context

    def _observed(self, start: int, out: Tensor, done: Tensor, around: range = range(1)) -> Tensor | None:
        """Latent of the clip at `start`, its unfinished frames filled from the clips `around` it; None without any.

        A clip that was sampled keeps its own latent.
        """
        if start in self.latents:
            return self.latents[start]
        frame = torch.arange(start + around.start * self.clip, start + around.stop * self.clip)
        known = self._finished(frame, done)
        if not known.any():
            return None
        stretch = to_clip(out[:, frame.clamp(0, out.shape[1] - 1)].to(self.codec.device))
        filled = fill_nearest(stretch, known.expand(len(out), -1).to(stretch.device))
        first = -around.start * self.clip
        latent = self.codec.encode(filled[:, :, first:first + self.clip])
        if known.all():
            self.latents[start] = latent
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
        """Decode a slot and give it the detail of the finished frames within it, or else of those on either side."""
        span = self.grid.span(slot)
        plain = self.codec.decode(latent)  # b c t h w
        if not self.settings.border:
            return plain
        before, after = self._edge(span.start - 1, span.start, out, done), self._edge(span.stop, span.stop - 1, out, done)
        inside = Edge(plain, to_clip(out[:, span.start:span.stop].to(plain.device)))
        parts = [part for part in (before, inside, after) if part]
        first, end = int(before is not None), int(after is not None)
        known = torch.cat([done.new_ones(first), done[list(span)], done.new_ones(end)])
        shown = plain
        if known.any():
            stretch, given = (torch.cat(frames, 2) for frames in zip(*parts))
            shown = paste_known(stretch, given, known.expand(len(plain), -1).to(plain.device))[:, :, first:first + self.clip]
        for frame, i in ((span.start, 0), (span.stop - 1, self.clip - 1)):
            self.edges[frame] = Edge(plain[:, :, i:i + 1], shown[:, :, i:i + 1].clamp(-1, 1))
        return shown

    def _edge(self, frame: int, beside: int, out: Tensor, done: Tensor) -> Edge | None:
        """The finished frame before or after a slot, whose frame `beside` it is not finished yet."""
        if not 0 <= frame < len(done) or not done[frame] or done[beside]:
            return None
        if frame not in self.edges:  # of a given clip
            start = frame + 1 - self.clip if frame < beside else frame
            plain = self.codec.decode(self._observed(start, out, done))
            i = frame - start
            self.edges[frame] = Edge(plain[:, :, i:i + 1], to_clip(out[:, frame:frame + 1].to(plain.device)))
        return self.edges[frame]
