"""Features of the true videos, kept on disk: they are the same for every model that is held against them.

An entry is found by all that decides it: the videos (name, place of the window, size and time of change of the files), what
is done to their frames, and the network with the SHA-256 of its weights. It lies under the user's cache folder (VIDEO_CACHE
names another, VIDEO_CACHE=off keeps none), is written whole or not at all, and holds numbers and text alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.choose import Shot
from evals.fvd import Row

FORMAT = 1
FRESH = 2.0  # seconds in which a second change might leave a file's time as it is


def dataset_hash(shots: Sequence[Shot]) -> tuple[str, int]:
    """Identify windows of videos by names, places, and the state of their files; also return the latest change, in ns."""
    digest, latest = hashlib.blake2b(digest_size=16), 0
    for shot in shots:
        stamps = shot.entry.stamp()
        latest = max(latest, *(time for _, time in stamps))
        digest.update(json.dumps([shot.entry.name, shot.entry.index, shot.start, shot.frames, shot.stride, stamps]).encode())
    return digest.hexdigest(), latest


class RealStats:
    """The place of one entry.

    Args:
        shots: the windows of the true videos.
        network: settings of the network.
        frames: what is done to the frames: sizes, which are left out, ...
    """

    def __init__(self, shots: Sequence[Shot], network: dict[str, Any], frames: dict[str, Any]):
        self.dataset, self._latest = dataset_hash(shots)
        network = {key: value for key, value in network.items() if key != "ddof"}  # which features do not know of
        text = json.dumps([FORMAT, self.dataset, network, frames], sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:32]
        given = os.environ.get("VIDEO_CACHE")
        home = Path(given or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "triplane-video"))
        self.path = None if given == "off" else home / "real_features" / f"{self.key}.npz"

    def load(self) -> list[Row] | None:
        """Return the true videos, or None where they are not kept (or torn: they will be written anew)."""
        if self.path is None:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as held:
                if str(held["key"]) != self.key or not len(held["features"]) == len(held["names"]) > 0:
                    return None
                return [Row(str(digest), str(name), features, bool(still)) for digest, name, features, still in
                        zip(held["digests"], held["names"], held["features"], held["still"], strict=True)]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def store(self, rows: Sequence[Row], begun: float) -> bool:
        """Keep true videos; not if a file changed while (or just before, `begun` in seconds) they were read."""
        if self.path is None or not rows or self._latest > (begun - FRESH) * 1e9:
            return False
        with contextlib.suppress(OSError):  # a full or read-only disk: they will be looked at again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, key=self.key, digests=np.array([r.digest for r in rows]),
                             names=np.array([r.video for r in rows]), still=np.array([r.still for r in rows]),
                             features=np.stack([r.features for r in rows]))
                os.replace(temporary, self.path)
                return True
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
        return False

    def plain(self, *, found: bool, kept: bool) -> dict[str, Any]:
        """Return what the report says of it."""
        return {"dataset_hash": self.dataset, "key": self.key, "from_cache": found,
                "file": str(self.path) if self.path and (found or kept) else None}
