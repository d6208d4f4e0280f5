"""The videos of a report: each true one beside what was made of it, in step, with its given frames marked."""

from __future__ import annotations

import base64
import hashlib
import html
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evals.pairs import Entry, open_set, pair_videos
from evals.protocol import METRICS
from evals.report_sources import Samples, Training
from tools.tree import find_videos
from tools.video import read_video
from tools.writers import write_mp4

FRAMES, FPS = 256, 8  # of a longer video the first are shown
SAMPLES = 3           # of one video at the most
_WIDE = 210           # pixels that small videos are enlarged towards, by a whole factor


class Tile(NamedTuple):
    name: str
    frames: np.ndarray            # uint8 t h w 3
    known: frozenset[int]         # numbers of the given frames
    series: int | None = None     # colour; None is the truth
    note: str = ""


@dataclass
class Row:
    """What belongs to one true video; without a truth, what has the same number."""
    title: str
    tiles: list[Tile] = field(default_factory=list)


def rows(sets: Sequence[Samples], colours: Mapping[str, int], count: int) -> list[Row]:
    """Gather `count` videos of each folder; those made of the same true video share a row."""
    found: dict[str, Row] = {}
    listed = [_listed(samples) for samples in sets]
    common = set(listed[0]).intersection(*listed) if listed else set()
    for samples, videos in zip(sets, listed):
        chosen = spread([name for name in videos if name in common] or list(videos), count)
        for title, truth, made in (videos[name].read() for name in chosen):
            key = title if truth is None else hashlib.sha256(truth.tobytes()).hexdigest()
            row = found.setdefault(key, Row(title))
            if truth is not None and not row.tiles:
                row.tiles.append(Tile("truth", truth, frozenset()))
            known = frozenset(samples.settings.get("known_frames") or ())
            for number, frames in enumerate(made):
                name = samples.name if len(made) == 1 else f"{samples.name} ({number + 1})"
                row.tiles.append(Tile(name, frames, known, colours[samples.name], _psnr(truth, frames, known)))
    return list(found.values())


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most so many of them, from the first on at equal distances."""
    return list(names) if len(names) <= count else [names[i * len(names) // count] for i in range(count)]


class Made(NamedTuple):
    """A video that is not read yet: its title, the true one if there is one, and what was made of it."""
    title: str
    real: Entry | None
    fakes: list[Entry]

    def read(self) -> tuple[str, np.ndarray | None, list[np.ndarray]]:
        """(title, truth, samples): uint8 t h w 3."""
        return self.title, self.real and self.real.read(), [fake.read() for fake in self.fakes[:SAMPLES]]


class Beside(NamedTuple):
    """What reconstruct writes: the truth left and what came back of it right, in one video."""
    file: Path

    def read(self) -> tuple[str, np.ndarray, list[np.ndarray]]:
        """As of Made."""
        both = read_video(self.file)
        half = both.shape[2] // 2
        return self.file.stem, both[:, :, :half], [both[:, :, half:2 * half]]


def _listed(samples: Samples) -> dict[str, Made | Beside]:
    """The videos of a folder by name, none of them read."""
    if (samples.path / "recon").is_dir():
        return {file.stem: Beside(file) for file in find_videos(samples.path / "videos")}
    made = open_set(samples.path, "fake").entries
    if not (samples.path / "real").is_dir() or not find_videos(samples.path / "real"):
        return {entry.name: Made(entry.name, None, [entry]) for entry in made}
    titles = {f"{v.get('video', -1):05d}": f"{v.get('name')}, from frame {v.get('start')}"
              for v in samples.settings.get("videos") or ()}
    found: dict[str, Made] = {}
    for real, fake in pair_videos(open_set(samples.path, "real").entries, made).pairs:
        found.setdefault(real.name, Made(titles.get(real.name, real.name), real, [])).fakes.append(fake)
    return found


def _psnr(truth: np.ndarray | None, made: np.ndarray, known: frozenset[int]) -> str:
    kept = [i for i in range(len(made)) if i not in known]
    if truth is None or truth.shape != made.shape or not kept:
        return ""
    metric = METRICS.get("psnr")()
    metric.update(torch.from_numpy(truth[kept])[None], torch.from_numpy(made[kept])[None])
    return f"{metric.compute()['mean']:.2f} dB"


def shown(found: Sequence[Row]) -> str:
    """The rows as HTML, each with a control that moves its videos together."""
    return "\n".join(_row(row) for row in found)


def _row(row: Row) -> str:
    longest = min(FRAMES, max(len(tile.frames) for tile in row.tiles))
    tiles = "\n".join(_tile(tile) for tile in row.tiles)
    control = (f'<div class="control" hidden><button type="button" aria-label="pause">❚❚</button>'
               f'<input type="range" min="0" max="{longest - 1}" value="0" aria-label="frame"><output>0</output></div>')
    return (f'<div class="row" data-fps="{FPS}"><h3>{html.escape(row.title)}</h3>\n<div class="tiles">{tiles}</div>'
            f"{control if longest > 1 else ''}</div>")


def _tile(tile: Tile) -> str:
    frames = tile.frames[:FRAMES]
    dot = "" if tile.series is None else f'<i style="background: var(--s{tile.series})"></i>'
    cut = f"first {FRAMES} of {len(tile.frames)} frames" if len(tile.frames) > FRAMES else ""
    notes = "".join(f'<span class="half">{html.escape(note)}</span>' for note in (tile.note, cut) if note)
    caption = f'<figcaption><span class="chip">{dot}{html.escape(tile.name)}</span>{notes}</figcaption>'
    return (f'<figure class="t{"" if tile.series is None else tile.series}">{video(frames, tile.name)}'
            f"{_timeline(len(frames), tile.known)}{caption}</figure>")


def _timeline(frames: int, known: frozenset[int]) -> str:
    """A bar of the video's length in which the given frames are dark."""
    if not known:
        return ""
    cells = "".join(f'<rect x="{i}" width="1" height="1"/>' for i in sorted(known) if i < frames)
    return (f'<svg class="time" viewBox="0 0 {frames} 1" preserveAspectRatio="none" role="img" '
            f'aria-label="{len(known)} given frames">{cells}</svg>')


def video(frames: np.ndarray, name: str) -> str:
    """A <video> of uint8 t h w c."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        write_mp4(file, frames, fps=FPS)
        return _embedded(file, name, frames.shape[2])


def _embedded(file: Path, name: str, width: int) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    size = f' class="pixels" width="{width * max(1, _WIDE // width)}"' if width <= _WIDE else ""
    return (f'<video src="data:video/mp4;base64,{data}" aria-label="{html.escape(name)}"{size} autoplay loop muted playsinline>'
            "</video>")


def snapshots(trainings: Sequence[Training]) -> list[tuple[str, Path]]:
    """(caption, file) of what each run made last while training."""
    return [(f"{run.name}, after {int(file.stem.removeprefix('step-')):,} updates", file)
            for run in trainings for file in sorted(run.snapshots)]
