"""Stochastic moving MNIST: digits move by the rules, a video is a function of its number, digits come from real files."""

import itertools
import pickle

import numpy as np
import pytest
from media import names
from PIL import Image
from shards import put_mnist

from tools.clips import DataConfig, open_source
from tools.smmnist import bounce
from tools.sources import SOURCES


def smmnist(path, **options):
    return SOURCES.bind({"name": "SMMNIST", **options})(path)


def pictures(count, first=1):
    """Pictures of one grey level each, so that a video tells which it shows."""
    return np.tile(np.arange(first, first + count, dtype=np.uint8)[:, None, None], (1, 28, 28))


@pytest.fixture
def mnist(tmp_path):
    """Training digits have the grey levels 1 to 40, test digits 101 to 120."""
    put_mnist(tmp_path / "MNIST/raw/train-images-idx3-ubyte", pictures(40))
    put_mnist(tmp_path / "MNIST/raw/t10k-images-idx3-ubyte.gz", pictures(20, 101))
    return tmp_path


def levels(source, count=40):
    return {int(level) for i in range(min(count, len(source))) for level in np.unique(source.read(i)) if level}


# --- motion --------------------------------------------------------------------------------------------------

class Draws:
    """A source of random numbers that gives these, in this order, and checks that they were possible."""

    def __init__(self, *values):
        self.values = list(values)

    def integers(self, low, high=None, size=None):
        low, high = (0, low) if high is None else (low, high)
        value = np.array(self.values.pop(0))
        assert value.shape == (() if size is None else (size,)) and (low <= value).all() and (value < high).all()
        return value


def places(draws, count, **options):
    got = list(itertools.islice(bounce(draws, 32, **options), count))
    assert not draws.values, "some were not drawn"
    return got


def test_a_digit_moves_by_its_speed():
    assert places(Draws([5, 9], [-1, 3]), 4) == [(5, 9), (4, 12), (3, 15), (2, 18)]


def test_a_digit_may_stand_still():
    assert places(Draws([5, 9], [0, 0]), 3) == [(5, 9)] * 3


def test_beyond_the_upper_border_it_is_brought_back_and_leaves_at_new_speeds():
    # y: 2, -2 -> 0, then away (3) with x at -4
    assert places(Draws([2, 20], [-4, 1], 3, -4), 3) == [(2, 20), (0, 21), (3, 17)]


def test_beyond_the_lower_border_it_is_brought_back_and_leaves_upwards():
    assert places(Draws([30, 20], [4, 0], 2, 1), 3) == [(30, 20), (31, 20), (29, 21)]


def test_the_border_itself_is_within():
    assert places(Draws([4, 27], [-4, 4]), 2) == [(4, 27), (0, 31)]


def test_in_a_corner_the_second_axis_has_the_last_word():
    # both beyond: y draws (4, then x 0), then x draws (2, then y -3)
    assert places(Draws([0, 31], [-1, 1], 4, 0, 2, -3), 2) == [(0, 31), (0, 31)]
    walk = bounce(Draws([0, 31], [-1, 1], 4, 0, 2, -3, 1, 0), 32)
    assert [next(walk) for _ in range(3)][2] == (0, 29)  # y went to -3, was brought back, and x left by 2


def test_the_deterministic_digit_is_mirrored():
    assert places(Draws([2, 30], [-3, 4]), 1) == [(2, 30)]
    assert places(Draws([2, 30], [-3, 4]), 4, deterministic=True) == [(2, 30), (0, 31), (3, 27), (6, 23)]


def test_speeds_have_every_value_and_starts_every_place():
    rng = np.random.default_rng(0)
    begins = [list(itertools.islice(bounce(rng, 32), 2)) for _ in range(3000)]
    assert {y for (y, _), _ in begins} == {x for (_, x), _ in begins} == set(range(32))
    inner = [(b[0] - a[0], b[1] - a[1]) for a, b in begins if all(4 <= place < 28 for place in a)]
    assert {y for y, _ in inner} == {x for _, x in inner} == set(range(-4, 5))


# --- pictures ------------------------------------------------------------------------------------------------

def test_a_digit_is_32_pixels_and_two_add_up_to_white(mnist):
    put_mnist(mnist / "MNIST/raw/train-images-idx3-ubyte", np.full((10, 28, 28), 200, np.uint8))
    one, two = (smmnist(mnist, split="train", number=number) for number in (1, 2))
    for frame in one.read(0):
        assert (frame == 200).sum() == 3 * 32 * 32 and ((frame == 0) | (frame == 200)).all()
    assert {0, 200, 255} == set(np.unique(np.stack([two.read(i) for i in range(10)])))


def test_digits_are_enlarged_bilinearly(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    put_mnist(tmp_path / "t10k-images-idx3-ubyte", np.stack([picture] * 10))
    put_mnist(tmp_path / "train-images-idx3-ubyte", np.stack([picture] * 10))
    frame = smmnist(tmp_path, split="test", number=1).read(0, 0, 1)[0, ..., 0]
    wanted = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))
    found = [(y, x) for y in range(33) for x in range(33) if np.array_equal(frame[y:y + 32, x:x + 32], wanted)]
    assert len(found) == 1


def test_the_speed_along_each_axis_is_at_most_four(mnist):
    for frames in (smmnist(mnist, number=1, length=50).read(i)[..., 0] for i in range(5)):
        corners = np.array([np.argwhere(frame)[0] for frame in frames])
        assert np.abs(np.diff(corners, axis=0)).max() <= 4 and np.ptp(corners, axis=0).max() > 4


# --- sets ----------------------------------------------------------------------------------------------------

def test_sides_draw_from_files_of_their_own(mnist):
    train, test = (smmnist(mnist, split=split, number=1, length=1) for split in ("train", "test"))
    assert (len(train), len(test), len(smmnist(mnist))) == (60_000, 256, 60_256)
    assert levels(train, 400) == set(range(1, 41)) and levels(test) <= set(range(101, 121)) and len(levels(test, 256)) > 15
    assert "train digits: 40 of" in train.notes[-1] and "test digits: 20 of" in test.notes[-1]


@pytest.mark.parametrize("there", ["train-images-idx3-ubyte", "t10k-images.idx3-ubyte"])
def test_one_file_is_divided_and_that_is_said(tmp_path, there):
    put_mnist(tmp_path / there, pictures(40))
    train, test = (smmnist(tmp_path, split=split, number=1, length=1) for split in ("train", "test"))
    assert levels(train, 400) == set(range(1, 37)) and levels(test, 256) == set(range(37, 41))
    assert all("its first nine tenths" in source.notes[0] for source in (train, test, smmnist(tmp_path)))


def test_a_video_is_a_function_of_seed_side_and_number(mnist):
    all_, test, few = smmnist(mnist), smmnist(mnist, split="test"), smmnist(mnist, split="test", count=3, length=30)
    assert names(few) == ["smmnist_test_00000", "smmnist_test_00001", "smmnist_test_00002"]
    assert np.array_equal(all_.read(60_002), test.read(2)) and all_.name(60_002) == test.name(2)
    assert np.array_equal(test.read(2), few.read(2, 0, 20))
    others = [test.read(1), test.read(3), smmnist(mnist, split="test", seed=1).read(2), all_.read(2)]
    assert not any(np.array_equal(test.read(2), other) for other in others)


def test_a_window_is_cut_out_of_the_whole(mnist):
    source = smmnist(mnist)
    assert source.num_frames(0) == 20 and source.read(0).shape == (20, 64, 64, 3)
    assert np.array_equal(source.read(0, 3, 12, 4), source.read(0)[3:12:4])


def test_size_and_length(mnist):
    assert smmnist(mnist, size=80, length=7).read(5).shape == (7, 80, 80, 3)
    for options in ({"size": 32}, {"length": 0}, {"number": 0}, {"count": 0}):
        with pytest.raises(ValueError, match="SMMNIST needs size > 32"):
            smmnist(mnist, **options)


def test_only_the_deterministic_set_keeps_its_speed(mnist):
    for deterministic in (True, False):
        frames = smmnist(mnist, deterministic=deterministic, number=1, length=400).read(0)[..., 0]
        corners = np.array([np.argwhere(frame)[0] for frame in frames])
        inside = ((corners > 0) & (corners < 31))  # at the border a step is cut short
        steps = [set(np.abs(np.diff(axis))[free[1:] & free[:-1]]) for axis, free in zip(corners.T, inside.T)]
        assert all((len(speeds) == 1) == deterministic for speeds in steps)


def test_pickles_without_its_pictures(mnist):
    source = smmnist(mnist)
    data = pickle.dumps(source)
    assert len(data) < 2000 and np.array_equal(pickle.loads(data).read(3), source.read(3))


# --- files ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given", ["", "MNIST", "MNIST/raw"])
def test_found_by_itself_and_by_its_parents(mnist, given):
    assert levels(smmnist(mnist / given, split="test", number=1)) <= set(range(101, 121))


def test_absent_digits_say_what_to_fetch_and_where_to(tmp_path):
    with pytest.raises(ValueError, match="MNIST") as error:
        smmnist(tmp_path)
    for part in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz", "https://", f"into {tmp_path}", "an empty folder",
                 "data.digits=sklearn"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_damaged_digits_are_told(mnist, name):
    (mnist / "MNIST/raw/train-images-idx3-ubyte").unlink()
    file = put_mnist(mnist / "MNIST/raw" / name, pictures(40)) or mnist / "MNIST/raw" / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{name}: .*fetch it again") as error:
        smmnist(mnist)
    assert "\n" not in str(error.value)


def test_scikit_learn_has_digits_for_those_who_ask(tmp_path):
    pytest.importorskip("sklearn")
    train, test = (smmnist(tmp_path, split=split, digits="sklearn") for split in ("train", "test"))
    assert "scikit-learn" in train.notes[0] and "not MNIST" in train.notes[0] and train.read(0).max() > 200
    assert len(levels(test)) > 10
    with pytest.raises(ValueError, match=r'data.digits must be mnist or sklearn, got "svhn"'):
        smmnist(tmp_path, digits="svhn")


def test_the_configuration_names_the_digits(tmp_path):
    pytest.importorskip("sklearn")
    source = open_source(DataConfig(name="SMMNIST", path=str(tmp_path), digits="sklearn", options={"count": 3}))
    assert len(source) == 3 and "scikit-learn" in source.notes[0]
    with pytest.raises(ValueError, match='"SKY" has no option "digits"'):
        DataConfig(name="SKY", digits="sklearn")


def test_real_digits(video_data):
    source = smmnist(video_data, split="test")
    assert len(source) == 256 and "1000 of" in source.notes[-1] and "t10k-images" in source.notes[-1]
    assert source.read(0).max() > 250 and 0.02 < (source.read(0) > 128).mean() < 0.3
