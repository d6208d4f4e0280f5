"""Cityscapes snippets, from folders and from zips."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tools.raw import open_raw
from tools.raw_cityscapes import snippets


def picture(value):
    return np.full((8, 16, 3), value, np.uint8)


def files(sequences):
    """(name, pixels) of frames: sequences is (side, city, sequence) -> frame numbers."""
    for (side, city, sequence), numbers in sequences.items():
        for number in numbers:
            yield (f"leftImg8bit_sequence/{side}/{city}/{city}_{sequence:06d}_{number:06d}_leftImg8bit.png",
                   picture((number * 7 + sequence) % 256))


def put(root, sequences, archive=None):
    packed = zipfile.ZipFile(root / archive, "w") if archive else None
    for name, pixels in files(sequences):
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "png")
        if packed:
            packed.writestr(name, data.getvalue())
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data.getvalue())
    if packed:
        packed.writestr("README", "not a frame")
        packed.close()


TWO = {("train", "aachen", 3): range(30), ("val", "lindau", 0): range(11, 41)}


def test_snippets_are_cut_at_gaps_and_at_thirty():
    assert list(snippets([*range(5, 35), *range(40, 100), 200])) == [
        list(range(5, 35)), list(range(40, 70)), list(range(70, 100)), [200]]


@pytest.mark.parametrize("archive", [None, "leftImg8bit_sequence_trainvaltest.zip"])
def test_folders_and_zips_give_the_same(tmp_path, archive):
    put(tmp_path, TWO, archive)
    raw = open_raw("CITYSCAPES", tmp_path)
    assert [(raw.video(i).name, raw.video(i).sides) for i in range(len(raw))] == [
        ("train_aachen_000003_000000", ("train",)), ("val_lindau_000000_000011", ("val",))]
    assert [raw.num_frames(i) for i in range(2)] == [30, 30]
    np.testing.assert_array_equal(raw.read(1, 2, 4), np.stack([picture(13 * 7), picture(14 * 7)]))


def test_a_zip_by_itself(tmp_path):
    put(tmp_path, TWO, "a.zip")
    assert len(open_raw("CITYSCAPES", tmp_path / "a.zip")) == 2


def test_a_snippet_with_a_missing_frame_is_told(tmp_path):
    put(tmp_path, {("train", "bonn", 0): [n for n in range(30) if n != 12]})
    raw = open_raw("CITYSCAPES", tmp_path)
    assert [raw.num_frames(i) for i in range(len(raw))] == [12, 17] and "2 of 2 snippets have fewer than 30" in raw.notes[0]


def test_damage_in_a_zip(tmp_path):
    put(tmp_path, TWO, "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    raw = open_raw("CITYSCAPES", tmp_path)
    with pytest.raises(ValueError, match=r"aachen_000003_000000_leftImg8bit.png is damaged"):
        raw.read(0, 0, 1)
    assert raw.read(0, 1, 2).shape == (1, 8, 16, 3)
    (tmp_path / "a.zip").write_bytes(data[:200])
    with pytest.raises(ValueError, match="no whole zip file"):
        open_raw("CITYSCAPES", tmp_path)
