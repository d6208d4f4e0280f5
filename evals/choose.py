"""Which windows of which videos the metrics of sets look at: the same in any number of processes, and told in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evals.pairs import Entry
from evals.protocols import Rules
from tools.rng import numpy_rng
from tools.windows import span


class Shot(NamedTuple):
    """Frames of a video that count."""
    entry: Entry
    start: int = 0
    frames: int | None = None  # None: all
    stride: int = 1

    def read(self) -> np.ndarray:
        """Return them: uint8 t h w 3."""
        stop = None if self.frames is None else self.start + span(self.frames, self.stride)
        return self.entry.read(self.start, stop, self.stride)


class Choice(NamedTuple):
    shots: list[Shot]
    dropped: list[str]  # videos that are left out, and why


def choose_real(entries: Sequence[Entry], rules: Rules, frames: int | None) -> Choice:
    """Take windows of true videos; those that are too short are left out.

    Args:
        frames: of a window; None takes whole videos.

    Raises:
        ValueError: none is long enough.
    """
    shots: list[Shot] = []
    dropped: list[str] = []
    for entry in _ordered(entries, rules):
        if rules.n_real is not None and len(shots) >= rules.n_real:
            break
        if frames is None:
            shots.append(Shot(entry, stride=rules.stride))
            continue
        room = _length(entry, rules, dropped) - span(frames, rules.stride) + 1
        if room < 1:
            if not (dropped and dropped[-1].startswith(f"{entry}: ")):
                dropped.append(f"{entry}: shorter than {span(frames, rules.stride)} frames")
            continue
        shots += [Shot(entry, start, frames, rules.stride) for start in _starts(entry, room, rules)]
    if not shots:
        raise ValueError(f"none of the {len(entries)} true videos has {span(frames or 1, rules.stride)} frames "
                         f"({'; '.join(dropped[:3])}); give longer ones, or protocol.frames=N")
    return Choice(shots[:rules.n_real], dropped)


def choose_fake(entries: Sequence[Entry], rules: Rules, frames: int | None) -> Choice:
    """Take made videos from their first frame on, the first ones by name where there are too many.

    Raises:
        ValueError: one is too short: what a model made is not left out.
    """
    dropped: list[str] = []
    shots = []
    for entry in entries[:rules.n_fake]:
        length = _length(entry, rules, dropped)
        if frames is not None and 0 < length < span(frames, rules.stride):
            raise ValueError(f"{entry} has {length} frames, but {span(frames, rules.stride)} count in the protocol "
                             f"{rules.name}; make longer videos, or change it with --frames {length}")
        if length:
            shots.append(Shot(entry, 0, frames, rules.stride))
    return Choice(shots, dropped)


def common_length(entries: Sequence[Entry], rules: Rules) -> int | None:
    """Return how many frames count of the made videos, where that is one number."""
    if rules.frames is not None:
        return rules.frames
    lengths = {-(-length // rules.stride) for length in (_length(entry, rules, []) for entry in entries) if length}
    return lengths.pop() if len(lengths) == 1 else None


def _length(entry: Entry, rules: Rules, dropped: list[str]) -> int:
    """Frames of a video; 0 where it is damaged and such are skipped."""
    try:
        return entry.num_frames()
    except ValueError as error:
        if rules.on_error == "raise":
            raise
        dropped.append(f"{entry}: {error}")
        return 0


def _ordered(entries: Sequence[Entry], rules: Rules) -> Iterator[Entry]:
    """The videos in the order in which they are taken."""
    if rules.selection == "sorted":
        return iter(sorted(entries, key=lambda entry: entry.name))
    if rules.n_real is None or len(entries) * rules.clips <= rules.n_real:
        return iter(entries)  # all are taken
    order = [entries[i] for i in numpy_rng(rules.seed, "evaluate", "videos").permutation(len(entries))]
    return iter(order) if rules.selection == "random" else _in_turn(order, lambda e: e.name.rpartition("/")[0])


def _in_turn(entries: Sequence[Entry], group: Callable[[Entry], str]) -> Iterator[Entry]:
    """One of each group, then a second one of each, ..."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(group(entry), []).append(entry)
    for i in range(max(map(len, groups.values()))):
        yield from (members[i] for members in groups.values() if i < len(members))


def _starts(entry: Entry, room: int, rules: Rules) -> list[int]:
    """Where its windows begin: of several, fewer where a video has not so many places."""
    if rules.start == "random":  # by the name, so that another selection leaves the windows of a video where they are
        rng = numpy_rng(rules.seed, "evaluate", "start", entry.name)
        return sorted(rng.choice(room, size=min(rules.clips, room), replace=False).tolist())
    if rules.clips > 1:
        return sorted({round(i * (room - 1) / (rules.clips - 1)) for i in range(rules.clips)})
    return [0] if rules.start == "first" else [(room - 1) // 2]
