"""Pictures of a decoder cut, scaled and turned into RGB by ffmpeg, before they are copied out of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import VideoReformatter

_PLAIN = {f"yuv{full}{kind}p" for full in ("", "j") for kind in (420, 422, 444)}  # 8 bits, no transparency
_GRAPHS = 8  # kept for each thread; sizes and numbers of pictures come again and again

_local = threading.local()  # converters and graphs are costly to make and not safe to share


def is_upright(frame: av.VideoFrame) -> bool:
    """Tell whether a picture is to be shown as it is stored, neither turned nor mirrored."""
    return frame.side_data.get("DISPLAYMATRIX") is None


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert to uint8 h w 3, a view of memory that it keeps."""
    name = frame.format.name
    if name.startswith("yuv") and "p1" in name:  # 10 to 16 bits: to 8 first, so that the colours come out
        frame = frame.reformat(format=name[:name.index("p1") + 1], threads=1)  # on the path of those of other files
    if not hasattr(_local, "converter"):
        _local.converter = VideoReformatter()
    frame = _local.converter.reformat(frame, format="rgb24", threads=1)
    plane = frame.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[:frame.height, :3 * frame.width].reshape(frame.height, frame.width, 3)


def cut_rgb(frames: Sequence[av.VideoFrame], part: tuple[slice, slice], size: tuple[int, int]) -> Sequence[np.ndarray]:
    """Convert rows and columns of pictures that are to come in the size (height, width), and enlarge them here.

    The planes of YUV pictures are enlarged (bilinear) in less than half of the time that RGB takes, and there is a fast way to
    RGB from those in which two pixels of a row share a colour, as they did in the file. Pictures that are to become
    smaller would lose colours on that way; they are left as they are, for whom this is given to.

    Args:
        frames: pictures of one size, at least one.
        part: rows and columns, beginning with even numbers.

    Returns:
        uint8 h w 3 each, of that size, or the part as it is: views of memory that they keep, or together an array n h w 3.
    """
    name, high, wide = frames[0].format.name, *(side.stop - side.start for side in part)
    if name not in _PLAIN or any(frame.format.name != name for frame in frames):
        return [rgb(frame)[part] for frame in frames]
    if (high, wide) != size and "420" in name and size[0] >= high and size[1] >= wide:
        enlarge = ("scale", f"{size[1]}:{size[0]}:flags=bilinear"), ("format", name.replace("420", "422"))
        pile = rgb(_filtered(frames, _crop(part), *enlarge, ("tile", f"1x{len(frames)}")))  # below each other
        return pile.reshape(-1, *size, 3)
    # an odd number of rows or columns would be converted in another way, and rounded otherwise
    whole = frames[0].height, frames[0].width
    even = tuple(slice(side.start, min(-(-side.stop // 2) * 2, most)) for side, most in zip(part, whole))
    if even == (slice(0, whole[0]), slice(0, whole[1])):
        return [rgb(frame)[:high, :wide] for frame in frames]
    return [rgb(_filtered([frame], _crop(even)))[:high, :wide] for frame in frames]  # no copy: pointers to the planes move


def _crop(part: tuple[slice, slice]) -> tuple[str, str]:
    (top, bottom), (left, right) = ((side.start, side.stop) for side in part)
    return "crop", f"{right - left}:{bottom - top}:{left}:{top}:exact=1"


def _filtered(frames: Sequence[av.VideoFrame], *filters: tuple[str, str]) -> av.VideoFrame:
    """Put pictures into a graph, and take the one out that it makes of them."""
    graphs = _local.__dict__.setdefault("graphs", OrderedDict())
    kind = frames[0].width, frames[0].height, frames[0].format.name
    graph = graphs.pop((kind, filters), None) or _make_graph(*kind, filters)
    for frame in frames:
        graph.vpush(frame)
    made = graph.vpull()
    graphs[kind, filters] = graph  # after that: one that failed may still hold pictures
    if len(graphs) > _GRAPHS:
        graphs.popitem(last=False)
    return made


def _make_graph(width: int, height: int, kind: str, filters: Sequence[tuple[str, str]]) -> Graph:
    graph = Graph()
    graph.threads = 1
    last = graph.add_buffer(width=width, height=height, format=kind, time_base=Fraction(1, 1000))
    for name, options in (*filters, ("buffersink", None)):
        following = graph.add(name, options)
        last.link_to(following)
        last = following
    graph.configure()
    return graph
