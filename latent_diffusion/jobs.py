"""What is made of a video and in which order: clips, from a scheme, a schedule or one frame at a time (pure integers)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latent_diffusion.condition import OFFSETS
from latent_diffusion.schedule_file import check_windows, read_schedule
from latent_diffusion.schemes import Window, is_adaptive, windows
from latent_diffusion.settings import Settings
from latent_diffusion.slots import Grid, make_grid
from latent_diffusion.window import Window as WindowCondition


class Job(NamedTuple):
    """One clip to be made, or several at once."""
    slot: int       # the first of them
    window: int     # of the plan, that it is a target of
    seen: int       # finished frames that its condition is shown; 0: it is made from nothing
    keep: int       # how many of its new frames are kept, the first ones
    follows: bool   # starts from the clip made before it
    mates: tuple[int, ...] = ()     # clips that are made together with it
    observed: tuple[int, ...] = ()  # finished clips that a window shows, where that is all that is seen

    @property
    def slots(self) -> tuple[int, ...]:
        return self.slot, *self.mates


class Jobs(NamedTuple):
    """The work on one video."""
    grid: Grid
    known: Tensor         # bool t, as long as the grid
    windows: list[Window]
    jobs: list[Job]
    last: Tensor          # int t: the last job that may look at a frame, -1 where none does


def sees_itself(condition: nn.Module) -> bool:
    """Whether a condition is told which frames of the clip itself are finished."""
    return "self" in condition.sees


def observes(condition: nn.Module) -> bool:
    """Whether a condition looks at the clips that a window observes, wherever they are, and not at neighbours."""
    return getattr(condition, "observes", False)


def windowed(condition: nn.Module) -> bool:
    """Whether a condition takes all clips of a window at once."""
    return isinstance(condition, WindowCondition)


def fit_settings(condition: nn.Module, settings: Settings) -> Settings:
    """Let a model that takes windows have those that it was trained for.

    Raises:
        ValueError: options that need one clip at a time, or a window that is too large.
    """
    if not windowed(condition):
        return settings
    for name, value in (("rollout.one_frame", settings.one_frame), ("init_prev_t", settings.init_prev_t)):
        if value:
            raise ValueError(f"{name} is for models that make one clip at a time, but this one makes all of a window together "
                             "(condition.name=window); leave it out")
    most = condition.slots
    if settings.window is not None and settings.window > most:
        raise ValueError(f"this model was trained on windows of up to {most} clips, got --window {settings.window}; use "
                         f"--window {most} or less, or another --scheme")
    window = most if settings.window is None else settings.window
    given = settings.schedule is not None or settings.stride is not None
    stride = settings.stride if given else max(1, window // 2)
    return replace(settings, window=window, stride=stride)


def frames_around(condition: nn.Module, start: int, clip: int) -> Tensor:
    """Frames of the places that a condition looks at around a clip, int k t; they may lie outside of the video."""
    starts = torch.tensor([start + OFFSETS[place] * clip for place in condition.sees], dtype=torch.long)
    return starts[:, None] + torch.arange(clip)


def finished(frame: Tensor, done: Tensor) -> Tensor:
    """Which of these frames are finished; what lies outside of the video is not."""
    return done[frame.clamp(0, len(done) - 1)] & (frame >= 0) & (frame < len(done))


def make_jobs(condition: nn.Module, clip: int, known: Tensor, settings: Settings) -> Jobs:
    """Lay out the work.

    Args:
        clip: frames of a clip, T.
        known: bool t.

    Raises:
        ValueError: known frames that the model cannot look at, or a scheme or schedule that does not fit it.
    """
    check_condition(condition, clip, known, settings)
    grid = _frame_grid(condition, clip, known) if settings.one_frame else _clip_grid(condition, clip, len(known), settings)
    known = torch.cat([known, known.new_zeros(grid.frames - len(known))])
    plan = list(_plan(condition, grid, known, settings))
    jobs = list((_window_jobs if windowed(condition) else _jobs)(condition, grid, known, plan, settings))
    by_content = settings.schedule is None and is_adaptive(settings.scheme)
    return Jobs(grid, known, plan, jobs, _last(condition, grid, jobs, by_content))


def check_condition(condition: nn.Module, clip: int, known: Tensor, settings: Settings) -> None:
    """Refuse what the model cannot look at: the whole clip before the one that it makes, or nothing at all."""
    sees, name = condition.sees, settings.scheme
    if settings.schedule is None and is_adaptive(name) and not observes(condition):
        raise ValueError(f"--scheme {name} chooses which clips are looked at, but this model always looks at the neighbours of "
                         f"the clip that it makes; use --scheme {name.removeprefix('adaptive-')}, which makes the same videos")
    if (settings.history_noise or settings.history_sigma) and not condition.history:
        raise ValueError("this model is not told how noisy what it looks at is, which rollout.history_noise and guidance.sigma "
                         "need; leave them out, or train one with condition.history=true and train.history_noise")
    if settings.history_guidance and settings.fraction < 1 and sees and not condition.mask:
        raise ValueError("this model is not told which frames are known, so it cannot be guided by a share of its history; "
                         "give guidance.fraction=1, or a model with condition.mask=true")
    if not sees and (settings.history_guidance or (settings.guidance and settings.guide is None)):
        raise ValueError("this model was trained without a condition, which leaves nothing to guide by; give a weaker model "
                         "with --guide MODEL, or leave --guidance and guidance.history out")
    if sees_itself(condition):
        return
    if sees not in ((), ("past",)):
        raise ValueError(f"this model looks at {', '.join(sees)} of a clip; videos are made only with models that look at "
                         "nothing (condition.sees=[]), the clip before (past) or at the clip itself, too (self)")
    if settings.overlap:
        raise ValueError(f"--overlap {settings.overlap} needs a model that sees which frames of a clip are finished "
                         "(condition.sees with self); this one would make them again, differently: leave --overlap out")
    given = known.nonzero().flatten().tolist()
    if not sees and given:
        raise ValueError("this model was trained without a condition, it can only generate; use --task generate")
    if not sees and len(known) > clip:
        raise ValueError(f"this model was trained without a condition, it cannot continue its clips of {clip} frames, "
                         f"got --frames {len(known)}; give --frames {clip} or fewer")
    _check_whole_clips(given, clip, settings.one_frame)


def _check_whole_clips(given: list[int], clip: int, one_frame: bool) -> None:
    prefix = given == list(range(len(given)))
    if prefix and (len(given) % clip == 0 or (one_frame and len(given) > clip)):
        return
    shown = f"{given[0]}-{given[-1]}" if prefix else ",".join(map(str, given[:8]))
    wanted = f"{clip} or more" if one_frame else f"{clip}, {2 * clip}, ..."
    raise ValueError(f"this model looks at the whole clip before, so the known frames must be the first {wanted} "
                     f"of the video, got {shown}; give --known 0-{clip - 1}, or a model whose condition sees more")


def _clip_grid(condition: nn.Module, clip: int, frames: int, settings: Settings) -> Grid:
    general = sees_itself(condition)
    own = condition.overlap if windowed(condition) else int(general)
    overlap = min(own, clip - 1) if settings.overlap is None else settings.overlap
    return make_grid(frames, clip, overlap, whole=not general)


def _frame_grid(condition: nn.Module, clip: int, known: Tensor) -> Grid:
    """One clip at every frame to be made; a video of which nothing is known begins with a whole one.

    The last clip reaches beyond the video's end, to be cut.
    """
    count, given = len(known), int(known.sum())
    if not condition.sees:
        raise ValueError("one frame at a time (rollout.one_frame) goes on from what is finished, at which this model, trained "
                         "without a condition, does not look; leave it out")
    if not bool(known[:given].all()):
        raise ValueError("one frame at a time (rollout.one_frame) makes what follows the given frames, so these must be the "
                         f"first of the video, got {known.nonzero().flatten().tolist()[:8]}; leave it out")
    starts = range(given, count) if given else (0, *range(clip, count))
    return Grid(starts[-1] + clip, clip, tuple(starts))


def _plan(condition: nn.Module, grid: Grid, known: Tensor, settings: Settings) -> Iterator[Window]:
    """Windows in slots, in the order in which they are made."""
    if settings.one_frame:  # every clip after the first is made from the ones before it
        yield from (Window([], [slot]) for slot in range(grid.count))
        return
    done = [slot for slot in range(grid.count) if known[list(grid.span(slot))].all()]
    schedule = settings.schedule
    if isinstance(schedule, (str, Path)):
        yield from read_schedule(schedule, grid.count, done, window=settings.window, unit="clip")
    elif schedule is not None:
        own = [Window(sorted(observed), sorted(target)) for observed, target in schedule]
        check_windows(own, grid.count, done, window=settings.window, unit="clip")
        yield from own
    else:  # a distance decides what an adaptive scheme observes, never what it makes
        yield from windows(settings.scheme, grid.count, done, lambda i, j: 0.0, **settings.sizes)


def _jobs(condition: nn.Module, grid: Grid, known: Tensor, plan: list[Window], settings: Settings) -> Iterator[Job]:
    done, before = known.clone(), None
    for number, window in enumerate(plan):
        seen = set(window.observed)
        for slot in window.target:  # the condition takes one at a time; those made before it are seen by it
            if not sees_itself(condition) and slot and slot - 1 not in seen and not settings.one_frame:
                how = "this --schedule" if settings.schedule is not None else \
                    f"scheme {settings.scheme!r} with window={settings.sizes['window']}"
                raise ValueError(f"{how} makes clip {slot} without the one before it, which is all that this model looks at; "
                                 "use autoreg with a window of 2 or more")
            new = [frame for frame in grid.span(slot) if not done[frame]]
            if new:  # clips that overlap it may have made all of its frames
                first = settings.one_frame and grid.starts[slot] > 0
                follows = settings.init_prev_t is not None and before is not None
                if follows and abs(slot - before) != 1:
                    raise ValueError(f"init_prev_t starts a clip from the one made before it, but clip {slot} is made after "
                                     f"clip {before}, which is not beside it; use --scheme autoreg, or leave init_prev_t out")
                view = frames_around(condition, grid.starts[slot], grid.clip)
                keep = 1 if first else len(new)
                yield Job(slot, number, int(finished(view, done).sum()), keep, follows)
                done[new[:keep]] = True
                before = slot
            seen.add(slot)


def _window_jobs(condition: nn.Module, grid: Grid, known: Tensor, plan: list[Window], settings: Settings) -> Iterator[Job]:
    """All clips of a window together; those of which the ones before have made all frames are seen as finished."""
    done = known.clone()
    for number, window in enumerate(plan):
        target = [slot for slot in window.target if not done[list(grid.span(slot))].all()]
        if target:
            observed = sorted({*window.observed, *window.target} - {*target})
            frames = torch.tensor([frame for slot in (*observed, *target) for frame in grid.span(slot)])
            yield Job(target[0], number, int(done[frames].sum()), grid.clip, False, tuple(target[1:]), tuple(observed))
            done[frames] = True


def _last(condition: nn.Module, grid: Grid, jobs: list[Job], by_content: bool) -> Tensor:
    """For every frame the last job that may look at it: near its clips, or in what a window observes, whatever it is."""
    anywhere = by_content and observes(condition)
    last = torch.full((grid.frames,), len(jobs) if anywhere else -1)
    for number, job in enumerate(jobs if not anywhere else ()):
        for slot in job.slots:
            start = grid.starts[slot]
            near = torch.arange(start - grid.clip, start + 2 * grid.clip)
            looked = torch.cat([near, frames_around(condition, start, grid.clip).flatten()])
            last[looked[(looked >= 0) & (looked < grid.frames)]] = number
        for slot in job.observed:
            last[list(grid.span(slot))] = number
    return last
