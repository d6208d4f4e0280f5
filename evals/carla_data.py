"""Frames of CARLA drives with the places where they were taken, one by one for training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from evals.carla_map import TOWN01
from tools.carla_town import coords_path, read_coords
from tools.fit import fit
from tools.order import shuffled
from tools.sources import VideoSource


class Places:
    """An endless, indexed supply of frames that tools.loading.loader reads; every epoch visits each frame of all drives once.

    Args:
        source: the drives, which come with their coordinates, or whose files have these beside them.
        size: height and width of a frame.
        seed: of the run.
        resize: see tools.fit.

    Raises:
        ValueError: coordinates that are missing, of another length than the video, or not on the map.
    """

    def __init__(self, source: VideoSource, *, size: tuple[int, int], seed: int, resize: str = "crop"):
        self.source, self.size, self.seed, self.resize = source, size, seed, resize
        self.skipped: dict[str, str] = {}  # nothing is
        self.at: Tensor | None = None      # where to tell which video is being read
        bar = tqdm(range(len(source)), unit="video", desc="reading coordinates", delay=2, leave=False, file=sys.stderr)
        coords = [self._checked(i) for i in bar]
        self.coords = torch.from_numpy(np.concatenate(coords).astype(np.float32))  # n 2, of all drives
        self.ends = np.cumsum([len(c) for c in coords])  # of each drive in these

    def __len__(self) -> int:  # of an epoch; __getitem__ goes on beyond
        return len(self.coords)

    def __getitem__(self, g: int) -> dict[str, Any]:
        """Return sample g: frames uint8 h w 3, and index g."""
        return {"frames": torch.from_numpy(self.frame(self._place(g))), "index": g}

    def frame(self, place: int) -> np.ndarray:
        """Read a frame by its number among those of all drives: uint8 h w 3."""
        video = int(np.searchsorted(self.ends, place, side="right"))
        if self.at is not None:
            self.at.fill_(video)
        number = place - (int(self.ends[video - 1]) if video else 0)
        return fit(self.source.read(video, number, number + 1), self.size, resize=self.resize)[0]

    def coords_of(self, index: Sequence[int] | Tensor) -> Tensor:
        """Return where the frames of samples were taken: n -> float32 n 2."""
        return self.coords[[self._place(int(g)) for g in index]]

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        """Return frames spread over all drives, uint8 n h w 3, and where they were taken, n 2."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        bar = tqdm(chosen, unit="frame", desc="validation frames", delay=2, leave=False, file=sys.stderr)
        return torch.from_numpy(np.stack([self.frame(int(place)) for place in bar])), self.coords[chosen]

    def _place(self, g: int) -> int:
        epoch, place = divmod(g, len(self))
        return shuffled(place, len(self), self.seed, "carla", "epoch", epoch)

    def _checked(self, video: int) -> np.ndarray:
        (where, coords), length = self._coords(video), self.source.num_frames(video)
        if len(coords) != length:
            raise ValueError(f"{where}: holds {len(coords)} places, but video {self.source.name(video)} has {length} frames; "
                             "they are of different drives, fetch both again")
        try:
            TOWN01.cells(torch.from_numpy(coords))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return coords

    def _coords(self, video: int) -> tuple[str | Path, np.ndarray]:
        """Where the coordinates of a drive were found, and these: in a prepared set, or beside its file."""
        held = self.source.arrays(video) if hasattr(self.source, "arrays") else {}
        paths = getattr(self.source, "paths", None)
        if "coords" in held:
            return coords_path(paths[video]) if paths else f"coordinates of {self.source.name(video)}", held["coords"]
        if not paths:
            raise ValueError("--exp carla trains on drives with their coordinates (video_7.pt has coords_7.npy beside it), "
                             f"which {self.source.name(video)} of this set has not; give FDM's folder no-traffic with them, or "
                             "what python -m tools.prepare CARLA makes of it: --data CARLA --data_path DIR")
        return coords_path(paths[video]), read_coords(coords_path(paths[video]))
