"""Sampling schemes: how a long video is cut into windows of (observed, target) frames, in their order.

Pure integer logic: the unit is whatever the caller counts, a frame or a clip. A scheme is a generator
(total, known, *, window, stride) -> Windows, where `window` bounds observed and target frames together (FDM's
max_frames) and `stride` the targets (FDM's step_size); only the first window of a video of which nothing is
known makes up to `window` frames. Known frames may lie anywhere. A stride that leaves a window no room for a
finished frame makes fewer frames at once.

An adaptive scheme, (total, known, distance, *, window, stride) -> Windows, looks at the content of frames too;
its windows must be drawn one at a time, each after the frames of the one before are finished (see adaptive.py).

`autoreg`, `long-range` and `hierarchy-N` are those of Harvey et al. 2022 (FDM), sec. 4 and app. B, where a
prefix is known; they never observe a frame twice, nor more than the window holds. `shift` is that of Voleti et
al. 2022 (MCVD), sec. 3.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import NamedTuple

from tools.registry import Registry

SCHEMES = Registry("scheme")

Distance = Callable[[int, int], float]  # how unlike two finished frames are: 0 = equal


class Window(NamedTuple):
    """One call of the network; both lists ascend."""

    observed: list[int]  # finished frames that it sees
    target: list[int]    # frames that it makes


Scheme = Callable[..., Iterator[Window]]


def is_adaptive(name: str) -> bool:
    """Tell whether a scheme looks at the content of finished frames."""
    return "distance" in inspect.signature(SCHEMES.get(name)).parameters


def windows(name: str, total: int, known: Collection[int], distance: Distance | None = None, *,
            window: int, stride: int) -> Iterator[Window]:
    """Windows of scheme `name` for a video of `total` frames, each worked out when it is asked for.

    Args:
        distance: of adaptive schemes, ignored by others. It is called with finished frames only: those known,
            and the targets of windows drawn before. It decides what is observed, never what is made.

    Raises:
        ValueError: sizes that make no sense, a known frame outside the video, or a scheme that cannot be run
        so.
    """
    scheme, known = SCHEMES.get(name), frozenset(known)
    if total < 1:
        raise ValueError(f"a video needs at least one frame, got {total}")
    if not 1 <= stride <= window:
        raise ValueError(f"stride={stride} with window={window}: needs 1 <= stride <= window")
    outside = sorted(frame for frame in known if not 0 <= frame < total)
    if outside:
        raise ValueError(f"known frame {outside[0]} lies outside the video, whose frames are 0 to {total - 1}")
    if window == 1 < total and len(known) < total:
        raise ValueError(f"window=1 holds the one that is made but no finished one to continue from, and the video has "
                         f"{total}; use window=2 or more")
    if not is_adaptive(name):
        return scheme(total, known, window=window, stride=stride)
    if distance is None:
        raise ValueError(f'scheme "{name}" chooses what to observe by what the frames show, and there are none to look at; '
                         f'use "{name.removeprefix("adaptive-")}"')
    return scheme(total, known, distance, window=window, stride=stride)


def plan(name: str, total: int, known: Collection[int], distance: Distance | None = None, *,
         window: int, stride: int) -> list[Window]:
    """All windows at once; an adaptive scheme needs the distance of any two frames beforehand. See `windows`."""
    return list(windows(name, total, known, distance, window=window, stride=stride))


@SCHEMES.register("full")
def full(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """All unknown frames at once, beside the nearest known ones that fit; at least one of them must."""
    target = sorted(set(range(total)) - set(known))
    needed = len(target) + bool(known)
    if target and needed > window:
        beside = " beside a known one" if known else ""
        raise ValueError(f'scheme "full" makes all {len(target)} that are not known at once{beside}, but window={window}; '
                         f"use window={needed} or more, or another scheme")
    if target:
        yield Window(sorted(by_nearness(known, target)[:window - len(target)]), target)


@SCHEMES.register("autoreg")
def autoreg(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """The next frames from the nearest finished ones."""
    done = set(known)
    yield from opening(range(min(window, total)), done)
    while len(done) < total:
        target = next_frames(total, done, window, stride)
        yield Window(sorted(by_nearness(done, target)[:room(window, stride, target)]), target)
        done.update(target)


@SCHEMES.register("long-range")
def long_range(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """As autoreg, but half of the observed frames come from those that were given (or made first)."""
    done = set(known)
    yield from opening(range(min(window, total)), done)
    given = frozenset(done)
    while len(done) < total:
        target = next_frames(total, done, window, stride)
        count = room(window, stride, target)
        recent = by_nearness(done, target)[:max(count // 2, min(count, 1))]
        rest = by_nearness(given.difference(recent), target)
        yield Window(sorted(recent + rest[:count - len(recent)]), target)
        done.update(target)


@SCHEMES.register("shift")
def shift(total: int, known: Collection[int], *, window: int, stride: int) -> Iterator[Window]:
    """The next block of `stride` frames from the last `window - stride` ones, like a window shifted along.

    A block ends where finished frames begin again; it then sees as many of those after it as before it, which is
    how MCVD interpolates. What lies before everything finished is made last, block by block backward.
    """
    done = set(known)
    yield from opening(range(min(stride, total)), done)
    while len(done) < total:
        ahead = next_frames(total, done, window, stride)
        target = [frame for i, frame in enumerate(ahead, ahead[0]) if frame == i]  # up to the first gap
        near, count = around(done, target), room(window, stride, target)
        if not near.before:
            observed = near.after[:count]
        elif target[-1] + 1 in done:
            after = near.after[:max(count // 2, count - len(near.before))]
            observed = after + near.before[:count - len(after)]
        else:
            observed = near.before[:count]
        yield Window(sorted(observed), target)
        done.update(target)


class Grid:
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
            return spread(undone, stride)
        target: list[int] = []
        while len(target) < stride and frame < self.total:
            if frame in self.done:
                frame += 1
            else:
                target.append(frame)
                frame += self.spacing(stride)
        return target


class Around(NamedTuple):
    """Finished frames by how they lie to the targets, the nearest first."""

    before: list[int]
    between: list[int]
    after: list[int]


Beside = Callable[[Around, int, int], list[int]]


def hierarchy(total: int, known: Collection[int], beside: Beside, *,
              window: int, stride: int, levels: int) -> Iterator[Window]:
    """Frames far apart first, then those between them, level by level, down to neighbours.

    All finished frames between the targets are observed; where they fill the window, it makes fewer targets.

    Args:
        beside: (around, room, level) -> up to `room` (at least 2) of the frames before and after.
    """
    assert window >= 3, "a hierarchy sees a frame on both sides of a target"
    done = set(known)
    step = (total - 1) / (window - 1)
    yield from opening([*(int(i * step) for i in range(window - 1)), total - 1], done)
    grid = Grid(total, done, levels, spread=not known)
    while len(done) < total:
        for count in range(stride, 0, -1):
            target = grid.next_target(count)
            near = around(done, target)
            left = window - count - len(near.between)
            if left >= 2:
                break
        yield Window(sorted(near.between + beside(near, left, grid.level)), target)
        grid.last = target[-1]
        done.update(target)


def both_sides(near: Around, count: int, level: int) -> list[int]:
    """Half of the frames from after the targets, the rest from before: the nearest, on level 1 spread evenly."""
    pick = (lambda frames, n: spread(frames[::-1], n)) if level == 1 else (lambda frames, n: frames[:n])
    after = pick(near.after, count // 2 if near.before else count)
    return after + pick(near.before, count - len(after))


def _hierarchy(total: int, known: Collection[int], *, window: int, stride: int, levels: int) -> Iterator[Window]:
    """A window too small to see both sides of a target has no use for a hierarchy: the video is made by autoreg."""
    if window < 3:
        return autoreg(total, known, window=window, stride=stride)
    return hierarchy(total, known, both_sides, window=window, stride=stride, levels=levels)


for _levels in range(2, 6):
    SCHEMES.register(f"hierarchy-{_levels}")(partial(_hierarchy, levels=_levels))


def opening(frames: Iterable[int], done: set[int]) -> Iterator[Window]:
    """First window of a video of which nothing is known, else none; marks its frames as done."""
    if not done:
        target = sorted(set(frames))
        yield Window([], target)
        done.update(target)


def next_frames(total: int, done: set[int], window: int, stride: int) -> list[int]:
    """The next unfinished frames in order; what lies before everything finished comes last, and backward."""
    count, first = min(stride, window - 1), min(done)
    undone = [frame for frame in range(total) if frame not in done]
    ahead = [frame for frame in undone if frame > first]
    return ahead[:count] or undone[-count:]


def room(window: int, stride: int, target: list[int]) -> int:
    """How many frames to observe; a stride as large as the window reserves none, so then what targets leave."""
    return window - stride or window - len(target)


def around(done: Iterable[int], target: list[int]) -> Around:
    """Sort finished frames by how they lie to the targets."""
    return Around(sorted((frame for frame in done if frame < target[0]), reverse=True),
                  by_nearness([frame for frame in done if target[0] < frame < target[-1]], target),
                  sorted(frame for frame in done if frame > target[-1]))


def by_nearness(frames: Iterable[int], target: list[int]) -> list[int]:
    """Frames by their distance in time to any target, the nearest first; of two as near, the more central."""
    centre = sum(target) / len(target)

    def apart(frame: int) -> tuple[int, float, int]:
        return min(abs(frame - wanted) for wanted in target), abs(frame - centre), frame

    return sorted(frames, key=apart)


def spread(frames: list[int], count: int) -> list[int]:
    """About `count` of `frames` at equal distances, both ends among them; one is the last."""
    if count == 1 or not frames:
        return frames[-1:]
    step = (len(frames) - 0.001) / (count - 1)  # so that the last falls just short of the end
    return [frames[i] for i in sorted({int(i * step) for i in range(count)})]


from latent_diffusion import adaptive  # noqa: E402, F401  (it registers itself; SCHEMES must exist)
