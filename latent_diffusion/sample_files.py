"""What the command `sample` writes: every video as its frames come, and what one looks at first."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoencoder.border import border_jump
from tools.writers import Mp4Writer, grid_frames, strip, write_gif, write_png

FOLDERS = ("samples", "real", "videos")
NUMBERED = re.compile(r"\d{5,}(_\d{2,})?\.(npy|mp4)(\.part)?")  # what is written into them
WINDOWS = "windows.json"
SHOWN = 128  # frames of grid.gif at the most; of a longer video every n-th is shown


def clear(folder: Path, files: set[Path]) -> None:
    """Remove what an older run of the command left, so that its samples are not counted among the new ones."""
    old = [path for name in FOLDERS if (folder / name).is_dir() for path in (folder / name).iterdir()
           if NUMBERED.fullmatch(path.name) and path.is_file()]
    for path in old:
        if path.resolve() in files:
            raise ValueError(f"{path} is one of the real videos, and would be replaced by the results; give another --out")
    for path in [folder / "sample.json", folder / WINDOWS, *old]:
        path.unlink(missing_ok=True)


def sample_path(folder: Path, video: int, number: int) -> Path:
    return folder / "samples" / f"{video:05d}_{number:02d}.npy"


def real_path(folder: Path, video: int) -> Path:
    return folder / "real" / f"{video:05d}.npy"


class NpyWriter:
    """A video's .npy, frame by frame; it has its name only when it is whole."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.part, self.at = path, path.with_name(path.name + ".part"), 0
        self.file = np.lib.format.open_memmap(self.part, mode="w+", dtype=np.uint8, shape=shape)

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 t h w c."""
        self.file[self.at:self.at + len(frames)] = frames
        self.at += len(frames)

    def close(self) -> None:
        """Give it its name."""
        assert self.at == len(self.file), f"{self.at} of {len(self.file)} frames were written"
        self.file.flush()
        del self.file
        self.part.replace(self.path)


def write_samples(folder: Path, jobs: Sequence[tuple[int, int]], pieces: Iterable[Tensor], frames: int) -> None:
    """Write a batch of samples, by (video, sample), from pieces uint8 b t h w c."""
    arrays, films = [], []
    try:
        for piece in pieces:
            if not arrays:
                arrays = [NpyWriter(sample_path(folder, *job), (frames, *piece.shape[2:])) for job in jobs]
                films = [Mp4Writer(folder / "videos" / f"{video:05d}_{number:02d}.mp4.part") for video, number in jobs]
            for array, film, rows in zip(arrays, films, piece.numpy(), strict=True):
                array.write(rows)
                film.write(rows)
    finally:
        for film in films:
            film.__exit__(None, None, None)
    for array, (video, number) in zip(arrays, jobs):
        array.close()
        part = folder / "videos" / f"{video:05d}_{number:02d}.mp4.part"
        part.replace(part.with_suffix(""))


def write_real(path: Path, pieces: Iterator[np.ndarray], frames: int) -> None:
    """Write a true video from its pieces, uint8 t h w c."""
    writer = None
    for piece in pieces:
        writer = writer or NpyWriter(path, (frames, *piece.shape[1:]))
        writer.write(piece)
    writer.close()


def show(folder: Path, videos: int, known: Tensor, whole: bool) -> None:
    """Write a moving grid, and a strip of frames, the truth (if there is all of it) above the sample."""
    def made(video: int) -> np.ndarray:
        return np.load(sample_path(folder, video, 0), mmap_mode="r")

    every = math.ceil(len(known) / SHOWN)
    write_gif(folder / "grid.gif", grid_frames([made(video)[::every] for video in range(min(videos, 16))]))
    rows = []
    for video in range(min(videos, 6)):
        rows += [np.load(real_path(folder, video), mmap_mode="r"), made(video)] if whole else [made(video)]
    write_png(folder / "grid.png", strip(rows, every=max(1, len(known) // 16), known=known.tolist()))


def jumps(folder: Path, videos: int, samples: int, known: Tensor) -> dict[str, float]:
    """Mean change in grey levels from a given to a made frame beside it, and the same of the true videos."""
    made = [_jump(sample_path(folder, video, number), known) for video in range(videos) for number in range(samples)]
    real = [_jump(real_path(folder, video), known) for video in range(videos)]
    return {"made": round(float(np.mean(made)), 3), "true": round(float(np.mean(real)), 3)}


def _jump(path: Path, known: Tensor) -> float:
    """Over all borders of a video, two frames in memory at a time."""
    frames = np.load(path, mmap_mode="r")
    borders = (known[1:] != known[:-1]).nonzero().flatten().tolist()
    return float(np.mean([float(border_jump(torch.from_numpy(frames[i:i + 2].copy())[None], known[None, i:i + 2]))
                          for i in borders]))
