"""Which frames are known: drawn while training, spelled out by the user when sampling.

A mask sampler is (t, draw, *, options) -> bool t, True = known, where t counts the frames of a training window and
draw() gives floats uniform in [0, 1) and may be called 4 t + 64 times. A sampler knows at most t - 1 frames:
something is left to make.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from tools.registry import Registry

Uniform = Callable[[], float]

MASKS = Registry("mask sampler")

RANGE = re.compile(r"(-?[0-9]+)(?:-(-?[0-9]+))?")  # 5, -1, 0-3, -4--1, 5--1


@MASKS.register("none")
def none(t: int, draw: Uniform) -> Tensor:
    """Nothing is known: unconditional training."""
    return _first(0, t)


@MASKS.register("pvdm")
def pvdm(t: int, draw: Uniform, *, rate: float = 0.3) -> Tensor:
    """The first half (the clip before) is known with probability `rate`, else nothing; as PVDM is trained."""
    _check_probabilities(rate=rate)
    return _first(t // 2 if draw() < rate else 0, t)


@MASKS.register("prefix")
def prefix(t: int, draw: Uniform) -> Tensor:
    """The first k frames, k uniform from 0 to t - 1: forward prediction."""
    return _first(int(draw() * t), t)


@MASKS.register("suffix")
def suffix(t: int, draw: Uniform) -> Tensor:
    """The last k frames, k uniform from 0 to t - 1: backward prediction."""
    return prefix(t, draw).flip(0)


@MASKS.register("both")
def both(t: int, draw: Uniform) -> Tensor:
    """All but one run of frames, uniform over the t (t + 1) / 2 runs: interpolation, at the ends prediction."""
    begin, end = int(draw() * (t + 1)), int(draw() * t)  # two of the t + 1 places between frames
    begin, end = sorted((begin, end + (end >= begin)))
    frame = torch.arange(t)
    return (frame < begin) | (frame >= end)


@MASKS.register("run")
def run(t: int, draw: Uniform) -> Tensor:
    """One run of frames, uniform over all but the whole window (for which: none); what is around it may not exist."""
    known = ~both(t, draw)
    return known & ~known.all()


@MASKS.register("fixed")
def fixed(t: int, draw: Uniform, *, known: str = "0") -> Tensor:
    """The same frames always, spelled as `parse_known` reads them."""
    return parse_known(str(known), t)  # YAML reads -1 as a number


@MASKS.register("mcvd")
def mcvd(t: int, draw: Uniform, *, p_past: float = 0.5, p_future: float = 0.5, sync: bool = False,
         past: int | None = None, current: int | None = None, future: int | None = None) -> Tensor:
    """A past and a future block, each known or hidden as a whole (Voleti et al. 2022): four tasks in one.

    Args:
        p_past, p_future: probability that the block is hidden.
        sync: both are hidden together, so that only interpolation and generation are trained.
        past, current, future: frames of each block; those left out share the rest of the window evenly, the current
            block taking what does not divide.
    """
    _check_probabilities(p_past=p_past, p_future=p_future)
    if sync and p_past != p_future:
        raise ValueError(f"mask option sync hides both blocks at one rate, got p_past={p_past} and p_future={p_future}; "
                         "give them the same value")
    before, _, after = _blocks(t, past, current, future)
    draws = draw(), draw()
    keep_past, keep_future = draws[0] >= p_past, draws[0 if sync else 1] >= p_future
    frame = torch.arange(t)
    return ((frame < before) & keep_past) | ((frame >= t - after) & keep_future)


@MASKS.register("ramvid")
def ramvid(t: int, draw: Uniform, *, max_known: int = 4, p_u: float = 0.25, among: str = "",
           sets: Sequence[str] = ()) -> Tensor:
    """Random frames: k of them, k uniform from 1 to `max_known`, any k alike (Hoeppe et al. 2022).

    Args:
        max_known: no more than t - 1 of a window of t frames.
        p_u: probability that nothing is known.
        among: the frames that can be known, such as 0-3,-1; empty: all.
        sets: draw one of these sets of frames in place of random ones, such as ["0-4", "0,-1", "0,5,10,15"].
    """
    _check_probabilities(p_u=p_u)
    if max_known < 1:
        raise ValueError(f"mask option max_known must be at least 1, got {max_known}; use mask=none to know nothing")
    if isinstance(sets, str):
        raise ValueError(f'mask option sets is a list of sets of frames, got "{sets}"; write ["{sets}"]')
    if sets and among:
        raise ValueError("mask options among and sets exclude each other: sets name all their frames")
    if draw() < p_u:
        return _first(0, t)
    if sets:
        return parse_known(str(sets[int(draw() * len(sets))]), t)
    open_ = _named(str(among), t).nonzero().flatten().tolist() if among != "" else list(range(t))
    known = _first(0, t)
    for _ in range(1 + int(draw() * min(max_known, len(open_), t - 1)) if t > 1 else 0):
        known[open_.pop(int(draw() * len(open_)))] = True
    return known


@MASKS.register("fdm")
def fdm(t: int, draw: Uniform, *, max_frames: int = 20) -> Tensor:
    """What FDM observes of a long video when it trains (Harvey et al. 2022); see fdm_sets. All else is to be made.

    Where a window's clips are laid with gaps (condition.spacing), those clips are FDM's frames: it observes them as a
    whole, as many as condition.slots has room for, and `max_frames` is refused.
    """
    observed, _ = fdm_sets(t, draw, max_frames)
    return observed


def fdm_sets(t: int, draw: Uniform, max_frames: int) -> tuple[Tensor, Tensor]:
    """FDM's training task: which frames are observed and which are made, bool t each, the others are left out.

    Groups of evenly spaced frames (see _spaced_frames) are added, the first to those that are made, each other to
    either side alike, until one would exceed `max_frames` (that one is dropped). A group takes only frames that are
    still free. Here it ends too when none is free, and after t + 11 groups: a window of max_frames or fewer would go
    on for long, or for ever.
    """
    if max_frames < 1:
        raise ValueError(f"mask option max_frames must be at least 1, got {max_frames}")
    most = min(max_frames, t)
    observed, made = _first(0, t), _spaced_frames(t, draw, most)
    for _ in range(t + 11):
        side = observed if draw() < 0.5 else made
        taken = observed | made
        group = _spaced_frames(t, draw, most) & ~taken
        if int(taken.sum()) == most or int((taken | group).sum()) > most:
            break
        side |= group
    return observed, made


def _spaced_frames(t: int, draw: Uniform, most: int) -> Tensor:
    """1 to `most` frames, at a spacing that is uniform in its logarithm up to what fits, anywhere in the window."""
    count = 1 + int(draw() * most)
    spacing = math.exp(draw() * math.log(t / (count - 0.999)))
    first = draw() * (t - spacing * (count - 1))
    group = _first(0, t)
    group[[min(int(first + i * spacing), t - 1) for i in range(count)]] = True
    return group


TASKS = ({"name": "prefix"}, {"name": "suffix"}, {"name": "both"}, {"name": "ramvid"})


@MASKS.register("mixture")
def mixture(t: int, draw: Uniform, *, parts: Sequence[Mapping[str, Any]] = TASKS) -> Tensor:
    """One of several samplers, drawn by weight.

    Args:
        parts: each a sampler's name and options, as in `mask` itself, and a weight (1 if left out), such as
            [{name: prefix, weight: 3}, {name: ramvid, max_known: 2}].
    """
    return MASKS.bind(chosen({"name": "mixture", "parts": parts}, draw))(t, draw)


def chosen(mask: Mapping[str, Any], draw: Uniform) -> Mapping[str, Any]:
    """The sampler, name and options, that is to draw: of a mixture one part, which takes a draw; any other as it is."""
    if mask["name"] != "mixture":
        return mask
    parts, weights = _parts(mask)
    bounds = list(accumulate(weights))
    place = draw() * bounds[-1]
    return chosen(next(part for part, bound in zip(parts, bounds, strict=True) if place < bound), draw)


def samplers_of(mask: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All samplers that a mask may be: itself, or the parts of a mixture and of the mixtures in it."""
    MASKS.bind(mask)
    if mask["name"] != "mixture":
        return [mask]
    return [sampler for part in _parts(mask)[0] for sampler in samplers_of(part)]


def _parts(mixture: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[float]]:
    """Samplers of a mixture, as in `mask` itself, and their weights."""
    parts = MASKS.bind(mixture).keywords.get("parts", TASKS)
    if isinstance(parts, (str, Mapping)):
        raise ValueError(f"mask option parts is a list of samplers, got {parts!r}; write [{{name: prefix, weight: 1}}, ...]")
    parts = [{"name": part} if isinstance(part, str) else dict(part) for part in parts]
    weights = [float(part.pop("weight", 1.0)) for part in parts]
    if not 0 < sum(weights) < math.inf or min(weights) < 0:
        raise ValueError(f"mask option parts needs weights of 0 or more and not all 0, got {weights}")
    for part in parts:
        MASKS.bind(part)
    return parts, weights


def thinned(known: Tensor, fraction: float, draw: Uniform) -> Tensor:
    """Hide round(fraction x count) of the known frames (bool t), any of them alike: a weaker history to guide by."""
    _check_probabilities(fraction=fraction)
    given = known.nonzero().flatten().tolist()
    left = known.clone()
    for _ in range(round(fraction * len(given))):
        left[given.pop(int(draw() * len(given)))] = False
    return left


def parse_known(spec: str, frames: int) -> Tensor:
    """Read known frames such as "0-3,12" (inclusive; negative counts from the end: "-4--1" is the last four).

    Args:
        spec: comma-separated frames and ranges; empty knows nothing.
        frames: length of the video.

    Returns:
        bool tensor of shape (frames,).

    Raises:
        ValueError: not of this form, outside the video, a range that runs backward, or nothing left to make.
    """
    known = _named(spec, frames)
    if known.all():
        raise ValueError(f'known="{spec}" is all of the {frames} frames, which leaves nothing to make; '
                         "ask for more frames or give fewer")
    return known


def _named(spec: str, frames: int) -> Tensor:
    known = torch.zeros(frames, dtype=torch.bool)
    for part in spec.split(",") if spec.strip() else ():
        match = RANGE.fullmatch(part.strip())
        if not match:
            raise ValueError(f'known="{spec}": "{part.strip()}" is neither a frame nor a range; write it like 0-3,12 '
                             "or -4--1")
        first = _frame(match[1], frames, spec)
        last = _frame(match[2] or match[1], frames, spec)
        if last < first:
            raise ValueError(f'known="{spec}": the range {part.strip()} runs backward, from frame {first} to {last}')
        known[first:last + 1] = True
    return known


def _frame(text: str, frames: int, spec: str) -> int:
    frame = int(text)
    if not -frames <= frame < frames:
        raise ValueError(f'known="{spec}": frame {text} lies outside the video of {frames} frames '
                         f"(0 to {frames - 1}, or -{frames} to -1)")
    return frame % frames


def _first(count: int, t: int) -> Tensor:
    return torch.arange(t) < count


def _blocks(t: int, *lengths: int | None) -> tuple[int, int, int]:
    """Lengths of the past, the current and the future block; those left out share what the others leave."""
    rest, missing = t - sum(length or 0 for length in lengths), [i for i in (1, 0, 2) if lengths[i] is None]
    share = {i: rest // len(missing) + (n < rest % len(missing)) for n, i in enumerate(missing)}
    past, current, future = (share.get(i, length) for i, length in enumerate(lengths))
    if past + current + future != t or min(past, current - 1, future) < 0:
        raise ValueError("mask options past, current and future must add up to the window of "
                         f"{t} frames, the current block with one or more, got {lengths[0]}, {lengths[1]} and {lengths[2]}; "
                         "leave out what may follow")
    return past, current, future


def _check_probabilities(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"mask option {name} is a probability, got {value}; use a number from 0 to 1")
