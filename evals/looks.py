"""What is wrong with videos that are compared, before any metric: copies, stills, sizes that differ, values not scaled."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

SIDES = {"real": "true", "fake": "made"}


class Looks:
    """Looks at each video of a side once; merges over processes."""

    def __init__(self):
        self.seen: dict[tuple[str, str], tuple[str, bool, int, tuple[int, ...]]] = {}

    def look(self, side: str, name: str, frames: np.ndarray) -> None:
        """Take note of a video, uint8 t h w c."""
        if (side, name) not in self.seen:
            digest = hashlib.blake2b(np.ascontiguousarray(frames).data, digest_size=16).hexdigest()
            still = len(frames) > 1 and bool((frames == frames[:1]).all())
            self.seen[side, name] = (digest, still, int(frames.max()), frames.shape[:3])

    def merge(self, other: Looks) -> None:
        """Add what another process saw."""
        self.seen |= other.seen

    def shapes(self, side: str) -> set[tuple[int, ...]]:
        """All t h w of a side."""
        return {row[3] for (which, _), row in self.seen.items() if which == side}

    def warnings(self, *, told: Sequence[str] = ()) -> list[str]:
        """Say what is odd.

        Args:
            told: what metrics have said already: FVD tells of copies and stills itself.
        """
        found: list[str] = []
        for side, word in SIDES.items():
            rows = [row for (which, _), row in self.seen.items() if which == side]
            if not rows:
                continue
            if still := sum(row[1] for row in rows):
                found.append(f"{still} of {len(rows)} {word} videos do not move")
            if copies := len(rows) - len({row[0] for row in rows}):
                found.append(f"{copies} of {len(rows)} {word} videos are copies of another one")
            if 0 < max(row[2] for row in rows) <= 1:
                found.append(f"no pixel of the {word} videos is above 1 of 255: they look like 0..1 that nobody scaled")
            sizes = Counter(f"{w}x{h}" for _, h, w in (row[3] for row in rows))
            if len(sizes) > 1:
                most = ", ".join(f"{n} of {size}" for size, n in sizes.most_common(3))
                found.append(f"the {word} videos have {len(sizes)} sizes: {most}; --resolution brings them to one")
        return [words for words in found if not any(words in other for other in told)]
