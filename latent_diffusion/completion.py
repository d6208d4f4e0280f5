"""Completing one batch of videos with the same known frames: slots, scheme, sampler, decoding."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoencoder.border import paste_known
from autoencoder.fill import fill_missing
from latent_diffusion.condition import OFFSETS, Context
from latent_diffusion.denoiser import AnyContext, make_denoise
from latent_diffusion.distance import Observers, choose_distance, embedding
from latent_diffusion.film import Film
from latent_diffusion.gamma import shaped_draw, shaped_noise
from latent_diffusion.guidance import Views, clamp_x0, steered
from latent_diffusion.jobs import Job, finished, fit_settings, frames_around, make_jobs, windowed
from latent_diffusion.masks import thinned
from latent_diffusion.modelfile import DiffusionModel
from latent_diffusion.process import Denoised
from latent_diffusion.samplers import SAMPLERS, Denoiser
from latent_diffusion.schedule import Level
from latent_diffusion.schemes import is_adaptive
from latent_diffusion.settings import Settings
from latent_diffusion.slot_noise import SlotNoise, WindowNoise
from latent_diffusion.window import WindowContext
from latent_diffusion.window_view import window_context
from tools.rng import numpy_rng, randn
from tools.video import to_clip, to_frames


class Edge(NamedTuple):
    """Finished frames beside those that are made, b c t h w each."""
    plain: Tensor  # as decoded
    shown: Tensor  # as it is in the video, but not rounded: a change smaller than a grey level a clip must not stop


class Completion:
    """Makes the unknown frames of a batch of videos that share their known frames.

    It holds what a later clip may look at and nothing else, so that a scheme that goes forward takes the same memory for
    a video of any length.

    Args:
        model: networks, on the device where they run.
        known: bool t.
        ids: (video, sample) of each row.
        progress: called with evaluations x videos after each call of the (guided) network.
    """

    def __init__(self, model: DiffusionModel, settings: Settings, known: Tensor, ids: Sequence[tuple[int, int]],
                 progress: Callable[[int], None] | None = None):
        self.model, self.codec, self.ids, self.progress = model, model.codec, ids, progress
        self.frames, self.clip = len(known), model.codec.frames
        if self.frames and bool(known.all()):
            raise ValueError(f"all {self.frames} frames are known, so there is nothing to make; give fewer with --known")
        self.condition = model.net.condition
        self.settings = settings = fit_settings(self.condition, settings).suited(model.schedule)
        check_guide(model, settings)
        self.grid, self.known, self.windows, self.jobs, self.last = make_jobs(self.condition, self.clip, known, settings)
        check_content(model, settings, self.jobs)
        self.sampler = SAMPLERS.bind(settings.sampler)
        makers = settings.content or model, model  # of a clip around which nothing is known, and of the others
        full = [settings.levels(maker.schedule, count) for maker, count in zip(makers, settings.step_counts())]
        self.levels = {(informed, False): full[informed] for informed in (False, True)}
        for job in self.jobs:
            if job.follows:
                self.levels[job.seen > 0, True] = settings.last_steps(full[job.seen > 0])
        adaptive = settings.schedule is None and is_adaptive(settings.scheme)
        self.distance = choose_distance(self.codec.size) if adaptive else None  # what an adaptive scheme compares clips by
        nothing = torch.zeros(0, int(known.sum()), *self.codec.size, self.codec.config.in_channels, dtype=torch.uint8)
        self._begin(nothing)

    def _begin(self, given: Tensor) -> None:
        self.film, self.done = Film(given, self.known[:self.frames]), self.known.clone()
        self.latents: dict[int, Tensor] = {}    # by first frame, of finished clips: sampled ones, or the encoded given ones
        self.edges: dict[int, Edge] = {}        # of first and last frames of made clips, where the next ones meet them
        self.before: Tensor | None = None       # the latent sampled last
        self.observers: Observers | None = None
        self.observed: list[list[int]] = []     # what the window in progress observes, of each video
        self._window = -1
        if self.distance and len(given):
            done = [slot for slot in range(self.grid.count) if self.known[list(self.grid.span(slot))].all()]
            self.observers = Observers(self.settings, self.grid.count, done, len(given), self._middle,
                                       embedding(self.distance, self.codec.device))

    def _middle(self, slot: int, row: int) -> Tensor:
        return self.film.frames[self.grid.starts[slot] + self.clip // 2][row]

    # --- counting --------------------------------------------------------------------------------------------

    def evaluations(self) -> int:
        """Calls of the denoiser for one video, guidance not counted twice."""
        return self._count()[0]

    def network_evaluations(self) -> int:
        """Forward passes of a network for one video, those of guidance counted where it is in force."""
        return self._count()[1]

    def _count(self) -> tuple[int, int]:
        """Run the sampler on nothing, with networks that only count; jobs that are alike once."""
        found: dict[tuple, tuple[int, int]] = {}
        total = [0, 0]
        for job in self.jobs:
            key = (job.seen > 0, job.follows, self._hides(job))
            if key not in found:
                calls = [0, 0]

                def counter(which: int, calls: list[int] = calls) -> Denoiser:
                    def denoise(x: Tensor, level: Level) -> Denoised:
                        calls[which] += 1
                        return Denoised(x, x)
                    return denoise

                nets = {name: counter(1) for name in ("full", "nothing", "part", "weak")}
                steer = self._steered(job, nets.__getitem__)
                whole = counter(0)
                self.sampler(lambda x, level, steer=steer, whole=whole: (whole(x, level), steer(x, level))[1],
                             torch.zeros(()), self.levels[job.seen > 0, job.follows], torch.zeros_like)
                found[key] = (calls[0], calls[1])
            total = [sum(pair) for pair in zip(total, found[key])]
        return total[0], total[1]

    # --- making ----------------------------------------------------------------------------------------------

    def run(self, video: Tensor) -> Tensor:
        """Return uint8 b t h w c with every frame made (`video`: the same, looked at where known)."""
        out, at = torch.empty_like(video), 0
        for piece in self.pieces(video[:, self.known[:self.frames]]):
            out[:, at:at + piece.shape[1]] = piece
            at += piece.shape[1]
        return out

    @torch.no_grad()
    def pieces(self, given: Tensor) -> Iterator[Tensor]:
        """Yield finished frames in their order, uint8 b t h w c of up to a clip, as soon as those before them are.

        Args:
            given: uint8 b k h w c, the known frames alone.
        """
        self._begin(given)
        told = 0
        for number in range(-1, len(self.jobs)):
            if number >= 0:
                self._make(self.jobs[number])
            while told < self.frames and self.done[told]:
                left = self.done[told:min(told + self.clip, self.frames)].tolist()
                count = left.index(False) if False in left else len(left)
                yield self.film.stretch(range(told, told + count))
                told += count
            self._forget(number, told)

    def _forget(self, number: int, told: int) -> None:
        """Drop what no job after this one looks at, frames only once they are told."""
        alive = self.last > number
        self.latents = {start: latent for start, latent in self.latents.items() if alive[start]}
        self.edges = {frame: edge for frame, edge in self.edges.items() if alive[frame]}
        self.film.drop(lambda frame: not alive[frame] and not told <= frame < self.frames)

    def _make(self, job: Job) -> None:
        if self.observers and job.window != self._window:
            for window in self.windows[self._window + 1:job.window + 1]:
                self.observed = self.observers.next(window)
            self._window = job.window
        made = self._sample(job)
        for slot, latent in zip(job.slots, made.unbind(1) if windowed(self.condition) else [made]):
            span = self.grid.span(slot)
            new = [frame for frame in span if not self.done[frame]][:job.keep]
            if not new:  # the clips beside it have made all of them
                continue
            clip = self._decode(slot, latent, new)
            self.film.put(new, to_frames(clip[:, :, [frame - span.start for frame in new]]).cpu())
            if self.settings.carry and len(new) == self.clip:  # else the slot's frames are not all its own
                self.latents[span.start] = latent
            self.done[new] = True
        self.before = made if self.settings.init_prev_t is not None else None

    def _shown_window(self, job: Job, hidden: int = 0) -> WindowContext:
        """What a window shows: the finished clips that it observes, and what is finished of those that it makes.

        Args:
            hidden: how many of its finished clips a weaker view leaves out, drawn once for each window.
        """
        extra = [slot for slot in job.observed if slot not in self.windows[job.window].observed]
        rows = [[*seen, *extra] for seen in self.observed] or [list(job.observed)] * len(self.film)
        if hidden:
            rng = numpy_rng(self.settings.seed, "history", job.slot)
            left = thinned(torch.ones(len(job.observed), dtype=torch.bool), hidden / len(job.observed), rng.random)
            rows = [[slot for slot, kept in zip(row, left) if kept] for row in rows]
        return window_context(self.condition, self.grid, rows, job.slots, self.done, self._observed, self.codec.device)

    def _context(self, slot: int, done: Tensor) -> Context:
        """What is finished around a slot; zeros in place of clips of which nothing is."""
        context = self.condition.nothing(len(self.film), self.codec.device)
        first = self.grid.starts[slot]
        context.known[:] = finished(frames_around(self.condition, first, self.clip), done).to(context.known.device)
        for k, place in enumerate(self.condition.sees):
            around = self.condition.around if place == "self" else range(1)
            beside = torch.arange(first + around.start * self.clip, first + around.stop * self.clip)
            latent = self._observed(first + OFFSETS[place] * self.clip, done, beside if place == "self" else None)
            context.latents[:, k] = 0.0 if latent is None else latent
        return context

    def _observed(self, start: int, done: Tensor, beside: Tensor | None = None) -> Tensor | None:
        """Latent of the clip at `start` with its unfinished frames filled in; None if there is nothing to fill them from.

        A clip that was sampled keeps its own latent.

        Args:
            beside: frames that may fill them as well, wherever they are; unfinished ones do not count.
        """
        if start in self.latents and bool(done[start:start + self.clip].all()):
            return self.latents[start]
        own = torch.arange(start, start + self.clip)
        others = torch.empty(0, dtype=torch.long) if beside is None else beside[finished(beside, done)]
        before, after = others[others < start], others[others >= start + self.clip]
        frame = torch.cat([before.sort().values[-1:], own, after.sort().values[:1]])  # no others are nearest to any
        known = finished(frame, done)
        if not known.any():
            return None
        stretch = to_clip(self.film.stretch(frame.tolist()).to(self.codec.device))
        filled = fill_missing(stretch, known.expand(len(stretch), -1).to(stretch.device), frame)
        first = len(before[:1])
        latent = self.codec.encode(filled[:, :, first:first + self.clip])
        if known[first:first + self.clip].all():
            self.latents[start] = latent
        return latent

    def _hides(self, job: Job) -> int:
        """How many of the finished frames that a clip is shown its weaker view hides; of a window's, whole clips."""
        if not self.settings.history_guidance:
            return 0
        if windowed(self.condition):
            return round((1 - self.settings.fraction) * len(job.observed)) * self.clip
        return round((1 - self.settings.fraction) * job.seen)

    def _thinned(self, job: Job) -> Tensor:
        """What is finished but for the hidden part of a slot's history, the same for all videos."""
        frame = frames_around(self.condition, self.grid.starts[job.slot], self.clip)
        rng = numpy_rng(self.settings.seed, "history", job.slot)
        shown = finished(frame, self.done)
        left = thinned(shown.flatten(), 1 - self.settings.fraction, rng.random).view_as(shown)
        done = self.done.clone()
        done[frame[shown & ~left]] = False
        return done

    def _steered(self, job: Job, view: Callable[[str], Denoiser]) -> Denoiser:
        """The guided denoiser of a clip from its views by name, of which it takes those that it needs."""
        settings, hidden = self.settings, self._hides(job)
        nothing = view("nothing")
        full = view("full") if job.seen else nothing
        blurred = settings.history_sigma and job.seen and settings.history_guidance
        part = nothing if hidden == job.seen else view("part") if hidden or blurred else full
        weak = view("weak") if settings.guide is not None and self._maker(job) is self.model else nothing
        low, high = settings.interval or (0.0, None)
        return steered(Views(full, nothing, part, weak), settings.guidance, settings.history_guidance, low,
                       float("inf") if high is None else high)

    def _view(self, job: Job, name: str, shown: Context | None) -> Denoiser:
        """The network as it sees the clip: all that is finished around it, nothing of it, a part, or a weaker network."""
        model = self.settings.guide if name == "weak" else self._maker(job)
        hidden = self._hides(job) if name == "part" else 0
        if name == "nothing" or not model.net.condition.sees:
            shown = model.net.condition.unseen(shown)
        elif hidden and windowed(self.condition):
            shown = self._shown_window(job, hidden // self.clip)
        elif hidden:
            shown = self._context(job.slot, self._thinned(job))
        if name == "part" and self.settings.history_sigma:
            shown = self._noised(shown, job, self.settings.history_sigma)
        elif name != "nothing" and shown is not None and self.settings.history_noise:
            shown = self._noised(shown, job, self.settings.history_noise * self._made_places(job, shown))
        return make_denoise(model.net, model.process.parametrisation, shown, autocast=self.settings.autocast)

    def _maker(self, job: Job) -> DiffusionModel:
        """The model that makes a clip."""
        return self.settings.content if self.settings.content is not None and not job.seen else self.model

    def _noised(self, shown: AnyContext, job: Job, level: Tensor | float) -> AnyContext:
        """A context with noise in what it shows, drawn once for a clip."""
        noise = [randn(shown.latents.shape[1:], self.settings.seed, "sample", *row, job.slot, "history") for row in self.ids]
        return self.condition.noised(shown, level, torch.stack(noise).to(shown.latents))

    def _made_places(self, job: Job, shown: AnyContext) -> Tensor:
        """Places of a context that show anything but given frames, b k of 0 and 1."""
        if windowed(self.condition):
            frame = shown.start.long().cpu()[:, :, None] + torch.arange(self.clip)
            made = finished(frame, self.done & ~self.known) & shown.there.cpu()[:, :, None]
        else:
            frame = frames_around(self.condition, self.grid.starts[job.slot], self.clip)
            made = finished(frame, self.done & ~self.known).expand(len(self.film), -1, -1)
        own = shown.known.cpu().all(-1)  # other clips are filled from all that is shown
        return torch.where(own, made.any(-1), made.flatten(1).any(1)[:, None]).float().to(self.codec.device)

    def _sample(self, job: Job) -> Tensor:
        settings, batch, process = self.settings, len(self.film), self._maker(job).process
        together = windowed(self.condition)
        shown = self._shown_window(job) if together else self._context(job.slot, self.done) if job.seen else None
        denoise = self._steered(job, lambda name: self._view(job, name, shown))
        if self.codec.limits is not None:
            denoise = clamp_x0(denoise, *self.codec.limits)
        noise = WindowNoise(settings.seed, self.ids, job.slots) if together else SlotNoise(settings.seed, self.ids, job.slot)
        like = torch.empty(batch, *([len(job.slots)] if together else []), self.codec.channels, self.codec.shape.total,
                           device=self.codec.device)
        levels = self.levels[job.seen > 0, job.follows]
        drawn = shaped_noise(noise.start(like, settings.temperature, settings.shared_noise), levels[0], process)
        start = levels[0].sigma * drawn
        if job.follows:
            start = start + levels[0].alpha * self.before
        return self.sampler(self._counted(denoise, batch), start, levels, shaped_draw(noise, levels, process))

    def _counted(self, denoise: Denoiser, batch: int) -> Denoiser:
        def counted(x: Tensor, level: Level) -> Denoised:
            result = denoise(x, level)
            if self.progress:
                self.progress(batch)
            return result
        return counted

    # --- decoding --------------------------------------------------------------------------------------------

    def _decode(self, slot: int, latent: Tensor, new: Sequence[int]) -> Tensor:
        """Decode a slot and give it the detail of the finished frames within it, or else of those on either side."""
        span, done = self.grid.span(slot), self.done
        plain = self.codec.decode(latent)  # b c t h w
        if not self.settings.border:
            return plain
        before, after = self._edge(span.start - 1, span.start), self._edge(span.stop, span.stop - 1)
        inside = Edge(plain, to_clip(self.film.stretch(span).to(plain.device)))
        parts = [part for part in (before, inside, after) if part]
        first, end = int(before is not None), int(after is not None)
        known = torch.cat([done.new_ones(first), done[list(span)], done.new_ones(end)])
        shown = plain
        if known.any():
            stretch, given = (torch.cat(frames, 2) for frames in zip(*parts))
            shown = paste_known(stretch, given, known.expand(len(plain), -1).to(plain.device))[:, :, first:first + self.clip]
        for frame, i in ((span.start, 0), (span.stop - 1, self.clip - 1)):
            if done[frame] or frame in new:
                self.edges[frame] = _edge_at(plain, shown.clamp(-1, 1), i)
        return shown

    def _edge(self, frame: int, beside: int) -> Edge | None:
        """The finished frame before or after a slot, whose frame `beside` it is not finished yet."""
        if not 0 <= frame < len(self.done) or not self.done[frame] or self.done[beside]:
            return None
        if frame not in self.edges:  # of a given clip
            start = frame + 1 - self.clip if frame < beside else frame
            plain = self.codec.decode(self._observed(start, self.done))
            i = frame - start
            shown = to_clip(self.film.stretch([frame]).to(plain.device))
            self.edges[frame] = Edge(plain[:, :, i:i + 1].clone(), shown)
        return self.edges[frame]


def _edge_at(plain: Tensor, shown: Tensor, i: int) -> Edge:
    return Edge(*(clip[:, :, i:i + 1].clone() for clip in (plain, shown)))  # not views, which would keep whole clips


def check_content(model: DiffusionModel, settings: Settings, jobs: Sequence[Job]) -> None:
    """A content model makes a first clip in the latents of the model that goes on from it."""
    content = settings.content
    if content is None:
        return
    if windowed(model.net.condition) or windowed(content.net.condition):
        raise ValueError("--content is for models that make one clip at a time, not for condition.name=window; leave it out")
    if all(job.seen for job in jobs):
        raise ValueError("--content makes a clip around which nothing is known, but here every clip has known frames beside "
                         "it; leave it out, or use --task generate")
    if settings.init_prev_t is not None and content.schedule != model.schedule:
        raise ValueError("init_prev_t needs a --content model with the schedule of the model; leave init_prev_t out")
    if model.codec.weights_hash != content.codec.weights_hash:
        raise ValueError(f"--content {content.file} was trained on the autoencoder {content.codec.weights_hash}, the model on "
                         f"{model.codec.weights_hash}; give one of the same autoencoder")


def check_guide(model: DiffusionModel, settings: Settings) -> None:
    """A weaker model guides in the same latents, at the same levels and from the same view."""
    guide = settings.guide
    if guide is None:
        return
    if settings.history_noise and guide.net.condition.sees and not guide.net.condition.history:
        raise ValueError(f"--guide {guide.file} is not told how noisy what it looks at is; leave rollout.history_noise out")
    for what, mine, other in (("autoencoder", model.codec.weights_hash, guide.codec.weights_hash),
                              ("latent", (model.codec.shape, model.codec.channels), (guide.codec.shape, guide.codec.channels)),
                              ("frames of a clip", model.codec.frames, guide.codec.frames),
                              ("kind of condition", *("window" if windowed(one.net.condition) else "one clip at a time"
                                                      for one in (model, guide))),
                              ("schedule", model.schedule, guide.schedule)):
        if mine != other:
            raise ValueError(f"--guide {guide.file} is no weaker version of the model: its {what} is {other}, the model's "
                             f"{mine}; give an earlier or smaller model that was trained on the same autoencoder and schedule")
    if guide.net.condition.sees not in ((), model.net.condition.sees):
        raise ValueError(f"--guide {guide.file} looks at {', '.join(guide.net.condition.sees)} of a clip, the model at "
                         f"{', '.join(model.net.condition.sees) or 'nothing'}; give a guide that looks at the same, or at "
                         "nothing")

