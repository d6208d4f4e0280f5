"""The two ways through the videos, pair by pair and each side as a set, shared by any number of processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from evals.choose import Choice, Shot, choose_fake, choose_real, common_length
from evals.looks import Looks
from evals.pairs import Entry, Pairing, VideoSet
from evals.protocols import Rules
from evals.real_stats import RealStats
from tools import dist
from tools.video import resize_crop

BAR_DELAY = 1.0  # seconds: an error at once stays alone on its line
Item = TypeVar("Item")


class Side(NamedTuple):
    """A metric of sets, and what becomes of the given frames in it."""
    metric: Any
    known: str          # include | exclude
    twin: bool = False  # reported beside the one of the same name


@dataclass
class Work:
    """What the passes share, and what this process found on the way."""
    rules: Rules
    size: tuple[int, int] | None
    device: torch.device | str
    batch_size: int
    known: list[int]  # frames that were given to the model
    folder: Path      # of the made videos, for errors
    looks: Looks = field(default_factory=Looks)
    dropped: list[str] = field(default_factory=list)

    def share(self, items: Sequence[Item]) -> list[list[Item]]:
        """This process's batches; they are cut before they are dealt out, so that a video is computed with the same others."""
        cut = [list(items[i:i + self.batch_size]) for i in range(0, len(items), self.batch_size)]
        return cut[dist.rank()::dist.world()]

    def load(self, shot: Shot) -> np.ndarray:  # uint8 t h w 3
        frames = shot.read()
        return frames if self.size is None else resize_crop(frames, self.size, self.rules.resize)

    def tensor(self, frames: Sequence[np.ndarray], kept: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack(frames)[:, kept]).to(self.device)

    def kept(self, length: int, rule: str) -> list[int]:
        """Which of the frames that were read count."""
        whole = self.rules.frames is None
        left_out = self.known if rule == "exclude" else []
        if left_out and whole and left_out[-1] >= length * self.rules.stride:
            raise ValueError(f"sample.json of {self.folder} says that frame {left_out[-1]} was given, but its videos have "
                             f"{length} frames; keep samples and sample.json of one run together")
        kept = [i for i in range(length) if i * self.rules.stride not in set(left_out)]
        if not kept:
            raise ValueError(f"{self.folder}: all {length} frames were given to the model, so there is nothing to compare; "
                             f"use --known_frames include")
        return kept

    def bar(self, name: str, batches: Sequence[Sequence]) -> tqdm:
        return tqdm(total=sum(map(len, batches)), desc=name, unit="video", delay=BAR_DELAY, file=sys.stderr,
                    disable=not dist.is_main())


def compare_pairs(work: Work, metrics: Mapping[str, Any], pairs: Sequence[tuple[Entry, Entry]]) -> None:
    """Show pairs of videos to metrics of pairs."""
    batches = work.share(pairs)
    with work.bar("evaluate", batches) as bar:
        for rows in _ahead(_pair_rows(work, batches)):
            kept = work.kept(len(rows[0][1]), work.rules.known_frames)
            real, fake = (work.tensor([row[i] for row in rows], kept) for i in (1, 2))
            for metric in metrics.values():
                metric.update(real, fake, videos=[row[0] for row in rows])
            bar.update(len(rows))


def _pair_rows(work: Work, batches: Sequence[Sequence[tuple[Entry, Entry]]]) -> Iterator[list]:
    """Read pairs: lists of (name, real, fake) of one shape."""
    last: tuple[Entry | None, np.ndarray | None] = (None, None)
    for batch in batches:
        rows = []
        for real, fake in batch:
            try:
                if last[0] != real:  # once for all of its samples
                    last = (real, work.load(_from_begin(real, work.rules)))
                    work.looks.look("real", str(real), last[1])
                guess = work.load(_from_begin(fake, work.rules))
            except ValueError as error:
                if work.rules.on_error == "raise":
                    raise
                work.dropped.append(f"{fake}: {error}")
                continue
            _check(real, last[1], fake, guess)
            work.looks.look("fake", str(fake), guess)
            rows.append((str(real), last[1], guess))
        yield from (list(alike) for _, alike in groupby(rows, key=lambda row: row[1].shape))


def _from_begin(entry: Entry, rules: Rules) -> Shot:
    if rules.span is not None and entry.num_frames() < rules.span:
        raise ValueError(f"{entry} has {entry.num_frames()} frames, but {rules.span} count in the protocol {rules.name}; "
                         f"make longer videos, or change it with --frames {entry.num_frames()}")
    return Shot(entry, 0, rules.frames, rules.stride)


def _check(real: Entry, truth: np.ndarray, fake: Entry, guess: np.ndarray) -> None:
    if truth.shape[1:3] != guess.shape[1:3]:
        (h, w), (y, x) = truth.shape[1:3], guess.shape[1:3]
        raise ValueError(f"{fake} is {x}x{y} but {real} is {w}x{h}; compare both at one size with "
                         f"--resolution {min(y, x, h, w)}")
    if len(truth) != len(guess):
        raise ValueError(f"{fake} has {len(guess)} frames but {real} has {len(truth)}; compare videos of one length "
                         f"(sample writes its truth, as long as the samples, to real/), or the first ones with --frames "
                         f"{min(len(truth), len(guess))}")


@dataclass
class Plan:
    """Which videos metrics of sets look at; made alike by all processes before any of them looks."""
    frames: int | None
    fake: Choice
    real: Choice | None                    # None: no metric looks at true ones
    names: dict[Entry, str]                # of made videos, the true one that each belongs to
    places: dict[str, RealStats] = field(default_factory=dict)  # by metric: where features of the true ones are kept
    found: set[str] = field(default_factory=set)                # metrics that had them there
    begun: float = 0.0

    def finish(self, sides: Mapping[str, Side], work: Work) -> dict[str, Any]:
        """Keep what is new, once all processes' videos are together; return what the report says of it."""
        told = {}
        for key, place in self.places.items():
            fresh = key not in self.found and not work.dropped
            told[key] = place.plain(found=key in self.found,
                                    kept=fresh and place.store(sides[key].metric.real_rows, self.begun))
        info = {"frames": self.frames, "n_fake": len(self.fake.shots)}
        if self.real:
            info |= {"n_real": len(self.real.shots), "real_features": told}
        return info | {"dropped": [*self.fake.dropped, *(self.real.dropped if self.real else [])]}


def plan_sets(work: Work, sides: Mapping[str, Side], true: VideoSet, made: VideoSet, pairing: Pairing) -> Plan:
    """Choose the videos of both sets, and take the features of the true ones from where they are kept."""
    rules, frames = work.rules, common_length(made.entries, work.rules)
    fake = choose_fake(made.entries, rules, frames)
    needed = [key for key, side in sides.items() if hasattr(side.metric, "update_real")]
    real = choose_real(true.entries, rules, frames) if needed else None
    plan = Plan(frames, fake, real, {made: true.name for true, made in pairing.pairs}, begun=time.time())
    if real:
        _check_sizes(work, real.shots[0], fake.shots[0])
    for key in needed:
        side = sides[key]
        how = {"size": work.size, "resize": rules.resize if work.size else None,
               "left_out": work.known if side.known == "exclude" else []}
        plan.places[key] = place = RealStats(real.shots, side.metric.net.settings, how)
        rows = place.load() if dist.is_main() else None
        if dist.broadcast_object(rows is not None):  # all must agree on whether to look
            plan.found.add(key)
            side.metric.restore_real(rows or [])
    return plan


def compare_sets(work: Work, sides: Mapping[str, Side], plan: Plan) -> None:
    """Show both sets to metrics of sets."""
    waiting = [(sides[key], sides[key].metric.update_real) for key in plan.places if key not in plan.found]
    if waiting:
        _show(work, "true videos", plan.real.shots, "real", waiting, lambda entry: entry.name)
    _show(work, "made videos", plan.fake.shots, "fake", [(side, side.metric.update_fake) for side in sides.values()],
          lambda entry: plan.names.get(entry, entry.name))


def _check_sizes(work: Work, real: Shot, fake: Shot) -> None:
    """Networks bring all videos to one size, and would hide that the sides differ."""
    (h, w), (y, x) = (shot.entry.read(0, 1).shape[1:3] for shot in (real, fake))
    if work.size is None and (h, w) != (y, x):
        raise ValueError(f"{fake.entry} is {x}x{y} but {real.entry} is {w}x{h}; compare both at one size with "
                         f"--resolution {min(y, x, h, w)}")


def _show(work: Work, what: str, shots: Sequence[Shot], side: str, calls: Sequence[tuple[Side, Callable]],
          name: Callable[[Entry], str]) -> None:
    batches = work.share(shots)
    with work.bar(what, batches) as bar:
        for rows in _ahead(_rows(work, batches, side)):
            for one, call in calls:
                call(work.tensor([row[1] for row in rows], work.kept(len(rows[0][1]), one.known)),
                     [name(row[0].entry) for row in rows])
            bar.update(len(rows))


def _rows(work: Work, batches: Sequence[Sequence[Shot]], side: str) -> Iterator[list]:
    """Read windows: lists of (shot, frames) of one shape."""
    for batch in batches:
        rows = []
        for shot in batch:
            try:
                frames = work.load(shot)
            except ValueError as error:
                if work.rules.on_error == "raise":
                    raise
                work.dropped.append(f"{shot.entry}: {error}")
                continue
            # the name of the pass over pairs, which begin at 0: a video that both passes see counts once
            work.looks.look(side, f"{shot.entry} from {shot.start}" if shot.start else str(shot.entry), frames)
            rows.append((shot, frames))
        yield from (list(alike) for _, alike in groupby(rows, key=lambda row: row[1].shape))


def _ahead(batches: Iterator[Item]) -> Iterator[Item]:
    """Read the next batch in a thread while this one is compared."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch
