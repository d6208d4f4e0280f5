"""From frames to slots: how a video of N frames is laid out as clips of T frames (pure integers)."""

from typing import NamedTuple


class Grid(NamedTuple):
    """Clips of T frames over a video; clip k starts at starts[k]."""
    frames: int              # of the video
    clip: int                # frames of a clip, T
    starts: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.starts)

    def span(self, slot: int) -> range:
        """Frames of a slot."""
        return range(self.starts[slot], self.starts[slot] + self.clip)


def make_grid(frames: int, clip: int, overlap: int = 0, *, whole: bool = False) -> Grid:
    """Lay clips over a video: clip k starts at min(k (T - overlap), N - T), so that every N >= T works.

    A video shorter than one clip is laid out as one clip; the caller cuts the result.

    Args:
        whole: let the last clip reach beyond the video's end, to be cut too, and not back into the clip before: for
            models that do not see which frames of a clip are finished, and would make them again, differently.

    Raises:
        ValueError: no frames, or an overlap that leaves no new frame.
    """
    if frames < 1:
        raise ValueError(f"a video needs at least one frame, got {frames}; give --frames")
    if not 0 <= overlap < clip:
        raise ValueError(f"overlap must lie in 0..{clip - 1} for clips of {clip} frames, got {overlap}")
    if frames <= clip:
        return Grid(clip, clip, (0,))
    last, pace = frames - clip, clip - overlap
    count = -(-last // pace) + 1
    if whole:
        last = (count - 1) * pace
        frames = last + clip
    return Grid(frames, clip, tuple(min(k * pace, last) for k in range(count)))
