"""Colours are those of the standards, whatever the matrix, range and depth of a file; its pictures are upright."""

import itertools
import struct

import av
import numpy as np
import pytest
from media import encode, moving

from tools.container import file_index, read_container

COLOURS = np.array([(200, 40, 60), (40, 180, 90), (60, 70, 210), (128, 128, 128), (240, 240, 235), (20, 15, 25)])
MATRICES = {"bt601": (5, 0.299, 0.114), "bt709": (1, 0.2126, 0.0722), "bt2020": (9, 0.2627, 0.0593),
            "unsaid": (2, 0.299, 0.114)}  # code in H.264, weights of red and blue


def to_yuv(rgb, red, blue, full, bits):
    """The levels of a colour: ITU-T H.273, equations 41 to 46."""
    r, g, b = rgb / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    parts = np.array([luma, (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)])
    if full:
        return np.rint(parts * (2**bits - 1) + np.array([0, 2**(bits - 1), 2**(bits - 1)]))
    return np.rint((parts * (219, 224, 224) + (16, 128, 128)) * 2**(bits - 8))


def write(path, matrix, full, pix_fmt):
    """Write a picture of each colour, without loss; the levels are our own, the tags in the file."""
    code, red, blue = MATRICES[matrix]
    bits, kind = (10, np.uint16) if "10" in pix_fmt else (8, np.uint8)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, pix_fmt
        stream.codec_context.colorspace, stream.codec_context.color_range = code, 1 + full
        for rgb in COLOURS:
            frame = av.VideoFrame(64, 64, pix_fmt)
            frame.colorspace, frame.color_range = code, 1 + full
            for plane, level in zip(frame.planes, to_yuv(rgb, red, blue, full, bits)):
                plane.update(np.full(plane.buffer_size // kind().itemsize, level, kind))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.parametrize("matrix, full, pix_fmt", itertools.product(
    MATRICES, [False, True], ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le"]))
def test_colours_are_those_of_the_standard(tmp_path, matrix, full, pix_fmt):
    write(tmp_path / "video.mp4", matrix, full, pix_fmt)
    got = read_container(tmp_path / "video.mp4", range(len(COLOURS)))
    assert np.abs(got.astype(int) - COLOURS[:, None, None]).max() <= 5  # 10 bits are dithered; another matrix is 13 off


def test_full_range_stays_full(tmp_path):
    encode(tmp_path / "video.avi", np.stack([np.full((16, 16, 3), level, np.uint8) for level in (0, 8, 247, 255)]),
           "mjpeg", "yuvj444p")
    got = read_container(tmp_path / "video.avi", range(4))
    assert got[:, 8, 8, 1].tolist() == pytest.approx([0, 8, 247, 255], abs=1)


def test_transparency_is_left_out_and_not_blended(tmp_path):
    rgba = np.full((2, 16, 16, 4), (200, 100, 50, 0), np.uint8)  # all of it invisible
    with av.open(str(tmp_path / "video.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "bgra"
        for image in rgba:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        file.mux(stream.encode())
    assert np.array_equal(read_container(tmp_path / "video.mkv", range(2)), rgba[..., :3])


# What a file asks players to do: x' = a x + c y, y' = b x + d y
TURNS = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "flipped": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "transposed the other way": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
}


def turned(path, matrix):
    """Ask players for a turn, in the header of an mp4."""
    a, b, c, d = (round(v * 65536) for v in matrix)
    data = path.read_bytes()
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    where = data.index(upright, track)
    path.write_bytes(data[:where] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[where + 36:])
    return path


@pytest.mark.parametrize("turn", TURNS)
def test_pictures_are_turned_as_the_file_asks(tmp_path, turn):
    matrix, wanted = TURNS[turn]
    path = encode(tmp_path / "video.mp4", moving(6), "libx264")
    stored = read_container(path, range(6))
    got = read_container(turned(path, matrix), range(1, 6, 2))
    assert np.array_equal(got, np.stack([wanted(image) for image in stored[1::2]])) and got.flags.c_contiguous


def test_the_centre_is_that_of_the_upright_picture(tmp_path):
    path = turned(encode(tmp_path / "video.mp4", moving(3), "libx264"), TURNS["clockwise"][0])
    upright = read_container(path, range(3))  # 64 x 48
    assert np.array_equal(read_container(path, range(3), (10, 40)), upright[:, 26:38])


def test_slanting_pictures_are_refused(tmp_path):
    path = turned(encode(tmp_path / "video.mp4", moving(3), "libx264"), (0.8, 0.6, -0.6, 0.8))
    assert file_index(path).count == 3
    with pytest.raises(ValueError, match=r"video.mp4: its pictures are to be turned by -?3[67] degrees; re-encode it upright"):
        read_container(path, range(3))
