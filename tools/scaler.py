"""Pictures of a decoder cut, scaled and turned into RGB by ffmpeg, before they are copied out of it."""

from __future__ import annotations

import threading
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

_PLAIN = {f"yuv{full}{kind}p" for full in ("", "j") for kind in (420, 422, 444)}  # 8 bits, no transparency

_local = threading.local()  # converters and graphs are costly to make and not safe to share


def is_upright(frame: av.VideoFrame) -> bool:
    """Tell whether a picture is to be shown as it is stored, neither turned nor mirrored."""
    return frame.side_data.get("DISPLAYMATRIX") is None


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert to uint8 h w 3, a view of memory that it keeps."""
    name = frame.format.name
    if name.startswith("yuv") and "p1" in name:  # 10 to 16 bits: to 8 first, so that the colours come out
        frame = frame.reformat(format=name[:name.index("p1") + 1], threads=1)  # on the path of those of other files
    return _view(_reformat("rgb", frame, format="rgb24"))


def _view(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[:frame.height, :3 * frame.width].reshape(frame.height, frame.width, 3)


def cut_rgb(frame: av.VideoFrame, part: tuple[slice, slice], size: tuple[int, int]) -> np.ndarray:
    """Convert rows and columns of a picture that is to come in the size (height, width), and enlarge them here.

    The planes of a YUV picture are enlarged (bilinear) in less than half of the time that RGB takes, and there is a fast way to
    RGB from those in which two pixels of a row share a colour, as they did in the file. A picture that is to become
    smaller would lose colours on that way; it is left as it is, for whom this is given to.

    Args:
        part: rows and columns, beginning with even numbers.

    Returns:
        uint8 h w 3, a view of memory that it keeps: of that size, or the part as it is.
    """
    name = frame.format.name
    if name not in _PLAIN:
        return rgb(frame)[part]
    high, wide = (side.stop - side.start for side in part)
    if (high, wide) != size and "420" in name and size[0] >= high and size[1] >= wide:
        frame = _cut(frame, part)
        frame = _reformat("size", frame, height=size[0], width=size[1], format=name.replace("420", "422"))
        return _view(_reformat("rgb", frame, format="rgb24"))
    # an odd number of rows or columns would be converted in another way, and rounded otherwise
    even = (slice(side.start, min(-(-side.stop // 2) * 2, whole)) for side, whole in zip(part, (frame.height, frame.width)))
    return rgb(_cut(frame, tuple(even)))[:high, :wide]


def _reformat(use: str, frame: av.VideoFrame, **options) -> av.VideoFrame:
    converters = _local.__dict__.setdefault("converters", {})  # one a use, as each keeps tables for one kind of picture
    if use not in converters:
        converters[use] = VideoReformatter()
    return converters[use].reformat(frame, threads=1, **options)


def _cut(frame: av.VideoFrame, part: tuple[slice, slice]) -> av.VideoFrame:
    """Cut without copying: the filter moves the pointers to the planes."""
    (top, bottom), (left, right) = ((side.start, side.stop) for side in part)
    if (top, left, bottom, right) == (0, 0, frame.height, frame.width):
        return frame
    wanted = frame.width, frame.height, frame.format.name, f"{right - left}:{bottom - top}:{left}:{top}:exact=1"
    if getattr(_local, "cut", None) != wanted:
        _local.graph, _local.cut = _make_graph(*wanted), wanted
    _local.graph.vpush(frame)
    return _local.graph.vpull()


def _make_graph(width: int, height: int, kind: str, cut: str) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=width, height=height, format=kind, time_base=Fraction(1, 1000))
    crop, sink = graph.add("crop", cut), graph.add("buffersink")
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    return graph
