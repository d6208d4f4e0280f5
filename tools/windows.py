"""Windows of videos: which stretches a test looks at, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from tools.rng import numpy_rng
from tools.sources import VideoSource

Starts = Callable[[int], Iterable[int]]  # (number of starts that fit into a video) -> those that are taken


def span(frames: int, stride: int) -> int:
    """Frames of the video that a window reaches over."""
    return (frames - 1) * stride + 1


def at(starts: Sequence[int]) -> Starts:
    """Take these starts, where they fit."""
    return lambda room: [start for start in starts if start < room]


def centre(room: int) -> list[int]:
    """Take the window in the middle of the video."""
    return [(room - 1) // 2] if room else []


def every(hop: int) -> Starts:
    """Take a window each `hop` frames, and the last one, so that no frame of the video is left out (hop <= window)."""
    return lambda room: [strided(number, room, hop) for number in range(strided_count(room, hop))]


def strided_count(room: int, hop: int) -> int:
    """Count the windows of `every`."""
    return -(-(room - 1) // hop) + 1 if room > 0 else 0


def strided(number: int, room: int, hop: int) -> int:
    """Return the start of one of the windows of `every`."""
    return min(number * hop, room - 1)


def read_starts(text: str) -> Starts:
    """Understand 0,8,16 or centre or every-8.

    Raises:
        ValueError: it is none of these.
    """
    if text.strip() in ("centre", "center"):
        return centre
    word, _, hop = text.strip().partition("-")
    if word == "every" and hop.isdecimal() and int(hop) > 0:
        return every(int(hop))
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--starts {text} is no list of frames; write it like 0,8,16, or centre, or every-8 (a window each 8 "
                         "frames, and the last one)")
    return at([int(part) for part in text.split(",")])


def windows(source: VideoSource, frames: int, starts: Sequence[int] | Starts | None = None, count: int | None = None,
            seed: int = 0, *, stride: int = 1, on_error: str = "raise") -> list[tuple[int, int]]:
    """Choose the windows of a test: (video, start), the same on every machine.

    Args:
        source: where the videos are; those that are left out, most often as too short, are listed in its `notes`.
        frames: frames of a window.
        starts: take every video at each of these starts that fits, video by video; or at `centre`, or at `every(8)`.
        count: without starts: so many windows, one a video in an order drawn by the seed, and then round again;
            None is one of every video.
        seed: of the drawing.
        stride: distance of neighbouring frames of a window in the video.
        on_error: "skip" leaves out damaged videos too.

    Raises:
        ValueError: no video is long enough, or one is damaged.
    """
    need = span(frames, stride)
    left_out: list[str] = []

    def room(video: int) -> int:  # the number of starts that fit; 0 is noted
        try:
            length = source.num_frames(video)
        except ValueError:
            if on_error == "raise":
                raise
            length = 0
        if length < need:
            left_out.append(f"{source.name(video)} ({length or 'damaged'})")
        return max(0, length - need + 1)

    if starts:
        chosen = [(video, start) for video in range(len(source))
                  for start in (starts if callable(starts) else at(starts))(room(video))]
    else:
        chosen = _drawn(room, len(source), count, seed)
    if left_out:
        source.notes.append(f"{len(left_out)} of {len(source)} videos are left out, shorter than {need} frames: "
                            f"{', '.join(left_out[:20])}{' ...' if len(left_out) > 20 else ''}")
    if not chosen:
        some = f": {', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}" if left_out else ""
        given = f" at the starts {list(starts)}" if starts and not callable(starts) else ""
        raise ValueError(f"none of the {len(source)} videos has a window of {need} frames{given}{some}; "
                         "ask for fewer --frames")
    return chosen


def _drawn(room, videos: int, count: int | None, seed: int) -> list[tuple[int, int]]:
    chosen: list[tuple[int, int]] = []
    order = numpy_rng(seed, "windows").permutation(videos).tolist()
    room = cache(room)  # a later round must not note a short video again
    while len(chosen) < (videos if count is None else count):
        for video in order:
            if len(chosen) == count:
                break
            if room(video):
                rng = numpy_rng(seed, "windows", "start", len(chosen))
                chosen.append((video, int(rng.integers(room(video)))))
        if not chosen or count is None:
            break
    return chosen


def read_windows(source: VideoSource, chosen: Sequence[tuple[int, int]], frames: int, *, stride: int = 1,
                 on_error: str = "raise") -> Iterator[tuple[int, int, np.ndarray]]:
    """Read chosen windows: (video, start, uint8 t h w c); with on_error="skip" the damaged are noted at the source.

    Raises:
        ValueError: a window is damaged, or with "skip" all are.
    """
    left, error = 0, None
    for video, start in chosen:
        try:
            pixels = source.read(video, start, start + span(frames, stride), stride)
        except ValueError as damage:
            if on_error == "raise":
                raise
            error = damage
            source.notes.append(f"left out is {source.name(video)} from frame {start} on: {damage}")
        else:
            left += 1
            yield video, start, pixels
    if error and not left:
        raise ValueError(f"data.on_error=skip left none of the {len(chosen)} windows; the last: {error}")
