"""The command `export`: what exists already, in the form that another program wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from evals.pairs import Entry, open_set, pair_videos
from tools import dist
from tools.files import replacing
from tools.modelfile import to_safetensors
from tools.registry import Registry, nearest
from tools.writers import grid_frames, strip, write_gif, write_mp4, write_npz, write_png

FORMATS = Registry("format")
BY_ENDING = {".mp4": "mp4", ".gif": "gif", ".png": "grid", ".npz": "npz", ".npy": "npy", ".safetensors": "safetensors"}
GRID = 16  # videos of a grid where nothing else is said
STRIP = 16  # frames of a strip at the most


class Wish(NamedTuple):
    """What is asked for."""
    input: Path
    out: Path
    real: str | None
    count: int | None  # videos
    fps: float
    weights: str


def export(*, input: str | None, format: str | None, out: str | None, real: str | None, num_videos: int | None,
           fps: float, weights: str) -> None:
    """Write videos as mp4, gif, npy, npz, frame folders (png) or one grid, or a model as safetensors.

    Args:
        input: what `sample` wrote (its samples are taken), a folder of videos, a single one, or an npz or npy of many;
            for safetensors a run folder or a model file.
        format: a name in FORMATS; None goes by the ending of `out`.
        out: the file, or the folder where there are several.
        real: true videos, for a grid that shows each left of (in a picture above) what was made of it.
        weights: of a run folder: ema, raw or best.
    """
    for flag, value in (("--input PATH", input), ("--out PATH", out)):
        if not value:
            raise ValueError(f"--exp export needs {flag}")
    known = ", ".join(FORMATS)
    name = format or BY_ENDING.get(Path(out).suffix.lower())
    if name is None:
        raise ValueError(f"--exp export cannot tell the format of --out {out}: add --format ({known})")
    if name not in FORMATS:
        raise ValueError(f"--format {name} is unknown{nearest(name, FORMATS)}; known: {known}")
    if fps <= 0:
        raise ValueError(f"--fps must be positive, got {fps}")
    if num_videos is not None and num_videos < 1:
        raise ValueError(f"--num_videos must be at least 1, got {num_videos}")
    if real and name != "grid":
        raise ValueError(f"--real is shown in a grid, got --format {name}; leave it out")
    if dist.is_main():
        written = FORMATS.get(name)(Wish(Path(input), Path(out), real, num_videos, fps, weights))
        print(f"wrote {written}")


def each(wish: Wish, ending: str, write: Callable[[Path, np.ndarray], None]) -> str:
    """Write every video to a file of its own."""
    entries = open_set(wish.input, "input").entries[:wish.count]
    if wish.out.suffix.lower() != ending:
        targets = [wish.out / f"{entry.name}{ending}" for entry in entries]
    elif len(entries) == 1:
        targets = [wish.out]
    else:
        raise ValueError(f"--input {wish.input} holds {len(entries)} videos and --out {wish.out} is one file; give a folder, "
                         "--num_videos 1, or --format grid")
    _spare(entries, targets)
    for entry, target in zip(tqdm(entries, desc="export", unit="video", delay=1), targets):
        with replacing(target) as part:
            write(part, entry.read())
    return f"{targets[0]}" if len(targets) == 1 else f"{len(targets)} {ending[1:]} files to {wish.out}"


@FORMATS.register("mp4")
def mp4(wish: Wish) -> str:
    """H.264, a file a video."""
    return each(wish, ".mp4", lambda path, frames: write_mp4(path, frames, wish.fps))


@FORMATS.register("gif")
def gif(wish: Wish) -> str:
    """A file a video."""
    return each(wish, ".gif", lambda path, frames: write_gif(path, frames, wish.fps))


@FORMATS.register("npy")
def npy(wish: Wish) -> str:
    """uint8 t h w c, a file a video."""
    def write(path: Path, frames: np.ndarray) -> None:
        with path.open("wb") as file:  # np.save would add .npy to the name
            np.save(file, frames)

    return each(wish, ".npy", write)


@FORMATS.register("png")
def png(wish: Wish) -> str:
    """A folder a video, a lossless picture a frame."""
    if wish.out.suffix:
        raise ValueError(f"--format png writes a folder of frames for each video, got --out {wish.out}; give a folder, or "
                         "--format grid for one picture")
    entries = open_set(wish.input, "input").entries[:wish.count]
    for folder in (wish.out / entry.name for entry in entries):
        if folder.exists():  # a longer video's frames would stay behind those of this one
            raise ValueError(f"{folder} exists already; remove it, or give another --out")
    for entry in tqdm(entries, desc="export", unit="video", delay=1):
        for number, image in enumerate(entry.read()):
            write_png(wish.out / entry.name / f"{number:05d}.png", image)
    return f"{len(entries)} folders of frames to {wish.out}"


@FORMATS.register("npz")
def npz(wish: Wish) -> str:
    """All videos as `arr_0`, uint8 n t h w c."""
    if wish.out.suffix.lower() != ".npz":
        raise ValueError(f"--format npz writes one file, got --out {wish.out}; let it end in .npz")
    entries = open_set(wish.input, "input").entries[:wish.count]
    _spare(entries, [wish.out])
    with replacing(wish.out) as part:
        write_npz(part, (entry.read() for entry in tqdm(entries, desc="export", unit="video", delay=1)), len(entries))
    return f"{len(entries)} videos to {wish.out}"


@FORMATS.register("grid")
def grid(wish: Wish) -> str:
    """Videos side by side in one mp4 or gif, or as one picture (png) of which each row is a video."""
    ending = wish.out.suffix.lower()
    if ending not in (".mp4", ".gif", ".png"):
        raise ValueError(f"--format grid writes one file, got --out {wish.out}; let it end in .mp4, .gif or .png")
    made = open_set(wish.input, "input")
    rows = list(_pairs(made.entries, wish))
    _spare([entry for row in rows for entry in row], [wish.out])
    videos = [entry.read() for row in tqdm(rows, desc="export", unit="video", delay=1) for entry in row]
    sizes = {frames.shape[1:3] for frames in videos}
    if len(sizes) > 1:
        raise ValueError(f"--input {wish.input}: frames of {' and '.join(f'{w}x{h}' for h, w in sorted(sizes))} pixels do not "
                         "make a grid; choose videos of one size")
    with replacing(wish.out) as part:
        if ending == ".png":
            length, given = max(map(len, videos)), made.settings.get("known_frames") or []
            known = [frame in given for frame in range(length)]
            write_png(part, strip(videos, every=math.ceil(length / STRIP), known=known if given else None))
        else:
            wide = len(rows[0])
            columns = wide * math.ceil(math.sqrt(len(videos)) / wide)
            (write_mp4 if ending == ".mp4" else write_gif)(part, grid_frames(videos, columns), wish.fps)
    return f"{len(videos)} videos to {wish.out}"


def _pairs(entries: Sequence[Entry], wish: Wish) -> Iterator[tuple[Entry, ...]]:
    """What belongs side by side: a video alone, or (truth, made), the first sample of each."""
    count = wish.count or GRID
    if not wish.real:
        yield from ((entry,) for entry in entries[:count])
        return
    pairs = pair_videos(open_set(wish.real, "real").entries, entries).pairs
    if not pairs:
        raise ValueError(f"no video of --input {wish.input} pairs by name with one of --real {wish.real}; give the folder that "
                         "sample wrote for both")
    first = {real: (real, fake) for real, fake in reversed(pairs)}
    yield from (first[real] for real in list(dict.fromkeys(real for real, _ in pairs))[:count])


def _spare(entries: Sequence[Entry], targets: Sequence[Path]) -> None:
    """Refuse to write over what is read."""
    sources = {entry.path.resolve() for entry in entries}
    for target in targets:
        if target.resolve() in sources:
            raise ValueError(f"--out {target} is one of the videos of --input; give another folder")


@FORMATS.register("safetensors")
def safetensors(wish: Wish) -> str:
    """A model with its settings, as a file that holds no code."""
    return str(to_safetensors(wish.input, wish.out, wish.weights))


@FORMATS.register("i3d")
def i3d(wish: Wish) -> str:
    """The I3D of TensorFlow, its variables in an npz, as the weights that FVD reads."""
    from evals.i3d_tensorflow import convert_i3d
    return str(convert_i3d(wish.input, wish.out))
