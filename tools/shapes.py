"""SHAPES: generated videos of bouncing, overlapping shapes on a textured ground; needs no file."""

from __future__ import annotations

import colorsys
import functools
import math
from typing import NamedTuple

import numpy as np

from tools.rng import numpy_rng
from tools.sources import SOURCES, check_split

_KINDS = ("circle", "square", "triangle")
_TRAIN, _TEST = 256, 32  # videos, where no count is given


class _Scene(NamedTuple):
    """All that a video is made of; lengths in units of the shorter side."""
    ground: np.ndarray   # h w 3 float32
    kinds: np.ndarray    # n, index into _KINDS; later ones lie on top
    colours: np.ndarray  # n 3 float32, 0..255
    radii: np.ndarray    # n
    angles: np.ndarray   # n
    starts: np.ndarray   # n 2, (y, x)
    speeds: np.ndarray   # n 2, per frame


@SOURCES.register("SHAPES")
class Shapes:
    """Two to four circles, squares and triangles that bounce off the border and pass over each other.

    Video i of a side is a function of (seed, side, i) alone, so that a longer or larger set begins with the
    shorter one, and train and test share nothing.

    Args:
        path: not used; the generated set has no file.
        split: train, test, or all (train, then test).
        size: height and width in pixels, or a pair.
        length: frames of each video.
        count: videos of each side; None is 256 for train and 32 for test.
        seed: another seed is another dataset.
    """

    def __init__(self, path: str = "", *, split: str = "all", size: int | tuple[int, int] = 64, length: int = 64,
                 count: int | None = None, seed: int = 0):
        check_split(split)
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 8 or length < 1 or (count is not None and count < 1):
            raise ValueError(f"SHAPES needs size >= 8, length >= 1 and count >= 1, "
                             f"got size={size} length={length} count={count}")
        sides = ("train", "test") if split == "all" else (split,)
        self.notes: list[str] = []
        self._size, self._length, self._seed = (int(height), int(width)), int(length), int(seed)
        self._videos = [(side, i) for side in sides for i in range(count or (_TEST if side == "test" else _TRAIN))]

    def __len__(self) -> int:
        return len(self._videos)

    def num_frames(self, i: int) -> int:
        """Return the length, which all videos share."""
        assert 0 <= i < len(self)
        return self._length

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """Return frames of video i -> uint8 t h w 3."""
        stop = self._length if stop is None else stop
        if not (0 <= start < stop <= self._length and step >= 1):
            raise ValueError(f"{self.name(i)}: has {self._length} frames, got start={start} stop={stop} step={step}; "
                             f"set data.options.length higher or ask for less")
        return _video(self._seed, *self._videos[i], self._size, self._length)[start:stop:step].copy()

    def name(self, i: int) -> str:
        """Return shapes_SIDE_NUMBER."""
        side, number = self._videos[i]
        return f"shapes_{side}_{number:05d}"


@functools.lru_cache(maxsize=512)  # 0.8 MB each at the default size; a read is then a copy
def _video(seed: int, side: str, i: int, size: tuple[int, int], length: int) -> np.ndarray:
    return _render(_scene(numpy_rng(seed, "shapes", side, i), size), size, np.arange(length))


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> _Scene:
    count = rng.integers(2, 5)
    hues = (rng.random() + np.arange(count) / count + rng.uniform(-0.05, 0.05, count)) % 1  # spread, so distinct
    colours = np.array([colorsys.hsv_to_rgb(h, rng.uniform(0.7, 1), rng.uniform(0.8, 1)) for h in hues])
    radii = rng.uniform(0.11, 0.2, count)
    span = _span(size, radii)
    heading, speed = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.02, 0.05, count)
    return _Scene(
        ground=_texture(rng, size),
        kinds=rng.integers(0, len(_KINDS), count),
        colours=(colours * 255).astype(np.float32),
        radii=radii,
        angles=rng.uniform(0, 2 * np.pi, count),
        starts=rng.uniform(0, 2, (count, 2)) * span,  # beyond the span: on the way back
        speeds=np.stack([np.sin(heading), np.cos(heading)], 1) * speed[:, None],
    )


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:  # h w 3 float32
    y, x = (np.arange(n) / min(size) for n in size)
    pattern = np.zeros(size)
    for frequency in (1.5, 3, 6):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wave = np.sin(angle) * y[:, None] + np.cos(angle) * x[None]
        pattern += np.sin(2 * np.pi * frequency * wave + phase) / frequency ** 0.5
    base, tint = rng.uniform(60, 150, 3), rng.uniform(-25, 25, 3)
    return (base + pattern[..., None] * tint).astype(np.float32)


def _span(size: tuple[int, int], radii: np.ndarray) -> np.ndarray:  # n 2: how far a centre can travel
    return np.array(size) / min(size) - 2 * radii[:, None]


def _render(scene: _Scene, size: tuple[int, int], times: np.ndarray) -> np.ndarray:  # t h w 3
    scale = min(size)
    rows, columns = ((np.arange(n, dtype=np.float32) + 0.5) / scale for n in size)
    ground = scene.ground.transpose(2, 0, 1)  # channels first: numpy is slow along an axis of three
    frames = np.broadcast_to(ground, (len(times), *ground.shape)).copy()
    spans = _span(size, scene.radii)
    for n, kind in enumerate(scene.kinds):
        travelled = (scene.starts[n] + times[:, None] * scene.speeds[n]) % (2 * spans[n])
        centres = (scene.radii[n] + spans[n] - np.abs(spans[n] - travelled)).astype(np.float32)  # back and forth
        radius = float(scene.radii[n])
        for frame, (y, x) in zip(frames, centres.tolist()):
            top, left = (max(0, int((c - radius) * scale) - 1) for c in (y, x))
            side = int(2 * radius * scale) + 4  # a shape fills little of the frame: draw only there
            window = np.s_[:, top:top + side, left:left + side]
            outside = scale * _distance(_KINDS[kind], rows[window[1], None] - y, columns[None, window[2]] - x,
                                        radius, float(scene.angles[n]))  # pixels
            cover = np.clip(0.5 - outside, 0, 1)
            frame[window] += cover * (scene.colours[n][:, None, None] - frame[window])
    pixels = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


def _distance(kind: str, dy: np.ndarray, dx: np.ndarray, radius: float,
              angle: float) -> np.ndarray:
    """Signed distance to the outline, negative inside; polygons have their corners on the circle."""
    if kind == "circle":
        return np.sqrt(dy * dy + dx * dx) - radius
    sides = 4 if kind == "square" else 3
    normals = [angle + 2 * math.pi * k / sides for k in range(sides)]
    faces = [math.sin(a) * dy + math.cos(a) * dx for a in normals]
    return functools.reduce(np.maximum, faces) - radius * math.cos(math.pi / sides)
