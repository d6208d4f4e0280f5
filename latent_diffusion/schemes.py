"""Sampling schemes: how a long video is cut into windows of (observed, target) frames, in their order.

Pure integer logic: the unit is whatever the caller counts, a frame or a clip. A scheme is a generator
(total, known, *, window, stride) -> Windows, where `window` bounds observed and target frames together (FDM's
max_frames) and `stride` the targets (FDM's step_size); only the first window of a video of which nothing is
known makes up to `window` frames. Known frames may lie anywhere.

`autoreg`, `long-range` and `hierarchy-N` are those of Harvey et al. 2022 (FDM), sec. 4 and app. B, where a
prefix is known; they never observe a frame twice, nor more than the window holds.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import NamedTuple

from tools.registry import Registry

SCHEMES = Registry("scheme")


class Window(NamedTuple):
    """One call of the network; both lists ascend."""

    observed: list[int]  # finished frames that it sees
    target: list[int]    # frames that it makes


Scheme = Callable[..., Iterator[Window]]


def plan(name: str, total: int, known: Collection[int], *, window: int, stride: int) -> list[Window]:
    """All windows of scheme `name` for a video of `total` frames.

    Raises:
        ValueError: sizes that make no sense, a known frame outside the video, or a scheme that cannot be run
        so.
    """
    scheme = SCHEMES.get(name)
    if total < 1:
        raise ValueError(f"a video needs at least one frame, got {total}")
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} with window={window}: needs 1 <= stride <= window")
    outside = sorted(frame for frame in known if not 0 <= frame < total)
    if outside:
        raise ValueError(f"known frame {outside[0]} lies outside the video, whose frames are 0 to {total - 1}")
    return list(scheme(total, known, window=window, stride=stride))


@SCHEMES.register("full")
def full(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """All unknown frames at once, beside the nearest known ones that fit."""
    target = sorted(set(range(total)) - set(known))
    if len(target) > window:
        raise ValueError(f'scheme "full" makes {len(target)} frames at once, but window={window}; '
                         f"use window={len(target)} or more, or another scheme")
    if target:
        yield Window(_nearest(known, target, window - len(target)), target)


@SCHEMES.register("autoreg")
def autoreg(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """The next frames from the nearest finished ones, at least one if the window holds two frames."""
    done = set(known)
    if not done:
        yield from _opening(range(min(window, total)), done)
    while len(done) < total:
        target = _next_frames(total, done, min(stride, max(window - 1, 1)))
        yield Window(_nearest(done, target, _room(window, stride, target)), target)
        done.update(target)


@SCHEMES.register("long-range")
def long_range(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """As autoreg, but half of the observed frames come from those that were given (or made first)."""
    done = set(known)
    if not done:
        yield from _opening(range(min(window, total)), done)
    given = sorted(done)
    while len(done) < total:
        target = _next_frames(total, done, min(stride, max(window - 1, 1)))
        room = _room(window, stride, target)
        recent = _nearest(done, target, max(room // 2, min(room, 1)))
        rest = [frame for frame in given if frame not in recent]
        yield Window(sorted(recent + _nearest(rest, target, room - len(recent))), target)
        done.update(target)


class _Grid:
    """State of a hierarchy: frames are made on grids that grow finer from level 1 to the last."""

    def __init__(self, total: int, done: set[int], levels: int, *, spread: bool):
        self.total, self.levels = total, levels
        self.done, self.given = done, len(done)
        self.start = total - 1 if spread else -1  # what is given already spans the video: level 1 is made
        self.level, self.last = 1, self.start     # `last` is the last frame made on this level

    def spacing(self, stride: int) -> int:
        """Distance of frames on this level: geometric, from `stride` frames over the video down to 1."""
        coarsest = (self.total - self.given) / max(stride - 1, 1)
        return max(int(coarsest ** ((self.levels - self.level) / (self.levels - 1))), 1)

    def next_target(self, stride: int) -> list[int]:
        """Up to `stride` unfinished frames of this level, or of the next where this one has none left."""
        undone = [frame for frame in range(self.total) if frame not in self.done]
        if len(self.done) == self.given:  # also when the first window is tried again with fewer targets
            self.level, self.last = 1, self.start
        frame = self.last + self.spacing(stride)
        while frame > undone[-1]:
            self.level, self.last = min(self.level + 1, self.levels), 0
            frame = undone[0] - 1 + self.spacing(stride)
        if self.level == 1:
            return _spread(undone, stride)
        target: list[int] = []
        while len(target) < stride and frame < self.total:
            if frame in self.done:
                frame += 1
            else:
                target.append(frame)
                frame += self.spacing(stride)
        return target

    def observe(self, target: list[int], room: int) -> list[int] | None:
        """Finished frames between the targets, then around them; None if no room is left on both sides."""
        between = [frame for frame in self.done if target[0] < frame < target[-1]]
        after = sorted(frame for frame in self.done if frame > target[-1])
        before = sorted(frame for frame in self.done if frame < target[0])
        left = room - len(between)
        if left < 2:
            return None
        after = after[:left // 2 if before else left]
        left -= len(after)
        before = _spread(before, left) if self.level == 1 else before[::-1][:left]
        return sorted(between + after + before)


def _hierarchy(total: int, known: Collection[int], *,
               window: int, stride: int, levels: int) -> Iterator[Window]:
    """Frames far apart first, then those between them, level by level, down to neighbours.

    Where finished frames between the targets fill the window, it makes fewer targets. A window too small to
    see a frame on both sides of a target has no use for a hierarchy: the video is made as by `autoreg`.
    """
    if window < 3:
        yield from autoreg(total, known, window=window, stride=stride)
        return
    done = set(known)
    if not known:
        step = (total - 1) / (window - 1)
        yield from _opening([*(int(i * step) for i in range(window - 1)), total - 1], done)
    grid = _Grid(total, done, levels, spread=not known)
    while len(done) < total:
        for count in range(stride, 0, -1):
            target = grid.next_target(count)
            observed = grid.observe(target, window - count)
            if observed is not None:
                break
        yield Window(observed, target)
        grid.last = target[-1]
        done.update(target)


for _levels in range(2, 6):
    SCHEMES.register(f"hierarchy-{_levels}")(partial(_hierarchy, levels=_levels))


def _opening(frames: Collection[int], done: set[int]) -> Iterator[Window]:
    """First window of a video of which nothing is known; marks its frames as done."""
    target = sorted(set(frames))
    yield Window([], target)
    done.update(target)


def _next_frames(total: int, done: set[int], count: int) -> list[int]:
    """The next unfinished frames in order; what lies before everything finished comes last, and backward."""
    undone = [frame for frame in range(total) if frame not in done]
    ahead = [frame for frame in undone if frame > min(done)]
    return ahead[:count] or undone[-count:]


def _room(window: int, stride: int, target: list[int]) -> int:
    """How many frames to observe; a stride as large as the window reserves none, so then what targets leave."""
    return window - stride or window - len(target)


def _nearest(frames: Collection[int], target: list[int], count: int) -> list[int]:
    """The `count` of `frames` that are nearest to any target, ascending; of two as near, the more central."""
    centre = sum(target) / len(target)

    def distance(frame: int) -> tuple[int, float, int]:
        return min(abs(frame - wanted) for wanted in target), abs(frame - centre), frame

    return sorted(sorted(frames, key=distance)[:count])


def _spread(frames: list[int], count: int) -> list[int]:
    """About `count` of `frames` at equal distances, both ends among them; one is the last."""
    if count == 1 or not frames:
        return frames[-1:]
    step = (len(frames) - 0.001) / (count - 1)  # so that the last falls just short of the end
    return [frames[i] for i in sorted({int(i * step) for i in range(count)})]
