"""SHAPES is a function of (seed, side, number), moves, and has shapes of the promised kinds."""

import numpy as np
import pytest

from tools.shapes import Shapes, _distance
from tools.sources import SOURCES


def shapes(**options):
    return SOURCES.bind({"name": "SHAPES", **options})()


def test_videos_do_not_depend_on_how_many_there_are():
    few, many = shapes(split="train", count=3, length=12), shapes(split="train", count=5, length=20)
    assert len(few) == 3 and len(many) == 5
    for i in range(3):
        assert np.array_equal(few.read(i), many.read(i, 0, 12))


def test_sides_and_seeds_share_nothing():
    options = {"count": 8, "length": 1}
    sets = [shapes(split="train", **options), shapes(split="test", **options), shapes(split="train", seed=1, **options)]
    videos = {source.read(i).tobytes() for source in sets for i in range(8)}
    assert len(videos) == 24


def test_all_is_train_and_then_test():
    both, test = shapes(count=3, length=2), shapes(split="test", count=3, length=2)
    assert len(both) == 6
    assert np.array_equal(both.read(4), test.read(1))
    assert [both.name(2), both.name(3)] == ["shapes_train_00002", "shapes_test_00000"]


def test_defaults_and_rectangles():
    assert len(shapes(split="train")) == 256 and len(shapes(split="test")) == 32
    assert shapes().num_frames(0) == 64 and shapes(size=[20, 36], length=3).read(0).shape == (3, 20, 36, 3)


def test_reading_is_slicing_and_gives_copies():
    source = shapes(length=10)
    full = source.read(2)
    assert np.array_equal(source.read(2, 1, 9, 3), full[1:9:3])
    source.read(2)[:] = 0
    assert np.array_equal(source.read(2), full)


def test_everything_moves_but_not_too_fast():
    source = shapes(split="test", length=16)
    for i in range(8):
        video = source.read(i).astype(int)
        changed = (np.abs(np.diff(video, axis=0)).max(-1) > 8).mean((1, 2))
        assert (changed > 0.005).all() and (changed < 0.35).all()


def test_shapes_stay_inside_and_bounce():
    video = shapes(split="test", length=200).read(0).astype(int)
    ground = np.median(video, axis=0)
    covered = (np.abs(video - ground).max(-1) > 40).sum((1, 2))
    assert covered.min() > 0.3 * covered.max()  # over 200 frames nothing has left


def test_edges_are_antialiased():
    video = shapes(length=1, count=1, split="test", size=64).read(0)[0].astype(int)
    steps = np.abs(np.diff(video, axis=1)).max(-1)
    assert ((steps > 20) & (steps < 90)).any()


@pytest.mark.parametrize("kind, corners", [("circle", 0), ("square", 4), ("triangle", 3)])
def test_areas_are_those_of_the_outline(kind, corners):
    grid = (np.arange(400) + 0.5) / 200 - 1
    inside = _distance(kind, grid[:, None], grid[None], 0.8, 0.3) < 0
    area = np.pi if not corners else corners / 2 * np.sin(2 * np.pi / corners)
    assert inside.mean() * 4 == pytest.approx(area * 0.8 ** 2, rel=0.01)


@pytest.mark.parametrize("options", [{"size": 4}, {"length": 0}, {"count": 0}, {"split": "val"}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options)))):
        Shapes(**options)
