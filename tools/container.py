"""Exact frames out of a video file: frame i is the i-th frame that decoding the whole file gives.

To read a few frames we seek to the key frame before them. Containers number nothing, so an index of time
stamps is made once per file by reading its packets, without decoding, and what comes out after a seek is
checked against it; wherever the two disagree, the file is decoded from its start and counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

CONTAINERS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts",
              ".ogv", ".3gp"}

# Codecs of which every packet is one shown frame. Others hide frames (VP8) or skip them, and are counted
# by decoding. MPEG-4 (the AVIs of UCF-101) is among these if none of its packets is too small for a picture.
_PACKET_IS_FRAME = {"h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "ffv1", "png", "rawvideo", "gif",
                    "huffyuv", "ffvhuff", "prores", "dnxhd"}
_SMALLEST_PICTURE = 16  # bytes of an MPEG-4 packet; a "nothing changed" packet has 6 to 8

# One thread for each of decoding and colour conversion: the loader runs many of us at once, and starting
# threads costs more than a short read. PyAV before 17 has no such argument and takes one by itself.
_ONE_THREAD = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}
_local = threading.local()  # the converter is costly to make and not safe to share

av.logging.set_level(None)  # what matters becomes an exception here; the rest would clutter the progress bars


class Index(NamedTuple):
    """Where the frames of one file are."""
    count: int
    times: np.ndarray  # count int64, the time stamps in order of presentation; empty if not reliable
    keys: np.ndarray   # int64, numbers of the frames at which decoding may begin


class _Irregular(Exception):
    """What came after a seek is not what the index promised."""


def file_index(path: str | os.PathLike) -> Index:
    """Return the cached index of a video file; ValueError if it is missing or damaged."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path}: no such video file; check the path ({error.strerror})") from None
    return _index(os.fspath(path), stat.st_size, stat.st_mtime_ns)


def read_container(path: str | os.PathLike, wanted: range) -> np.ndarray:
    """Decode the frames `wanted` (at least one, ascending, within the file) -> uint8 t h w 3.

    No more is decoded than from the key frame before the first to the last of them.
    """
    index = file_index(path)
    assert wanted and wanted.step > 0 and wanted.start >= 0 and wanted[-1] < index.count
    key = int(index.keys[index.keys <= wanted.start].max(initial=0))
    if key > 0:
        try:
            return _collect(path, _frames_after_seek(path, index, key), wanted, index.count)
        except _Irregular:
            pass
    return _collect(path, enumerate(_frames(path)), wanted, index.count)


@lru_cache(maxsize=1 << 17)  # 16 bytes a frame: the whole of Kinetics fits into a few GB, UCF-101 into 40 MB
def _index(path: str, size: int, mtime: int) -> Index:
    try:
        with _open(path) as container:
            stream = _video_stream(container, path)
            codec = stream.codec_context.name
            packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
            if container.format.name == "gif" and not _has_gif_trailer(path):
                raise _damaged(path, "it is cut short")
    except av.FFmpegError as error:
        raise _damaged(path, error) from None
    cut = sum(p.is_corrupt for p in packets)
    if cut or not packets:
        raise _damaged(path, f"{cut} of its {len(packets)} packets are cut short" if cut else "it holds no frame")
    smallest = min(p.size for p in packets)
    times = [p.pts for p in packets]
    regular = (codec in _PACKET_IS_FRAME or (codec == "mpeg4" and smallest >= _SMALLEST_PICTURE)) \
        and None not in times and len(set(times)) == len(times) \
        and packets[0].is_keyframe and times[0] == min(times)
    if not regular:
        return Index(sum(1 for _ in _frames(path)), np.empty(0, np.int64), np.zeros(1, np.int64))
    ordered = np.sort(np.array(times, np.int64))
    keys = np.searchsorted(ordered, [p.pts for p in packets if p.is_keyframe])
    return Index(len(ordered), ordered, np.sort(keys))


def _open(path):
    return av.open(os.fspath(path), metadata_errors="replace")  # a title in Latin-1 is no damage


def _has_gif_trailer(path) -> bool:
    """Tell whether a gif is there to its end, since decoders take what is left of a picture for the whole of it."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 512))
        return file.read().rstrip(b"\0").endswith(b";")


def _video_stream(container, path):
    stream = container.streams.best("video")  # the one a player shows, not a preview or a cover
    if stream is None:
        raise ValueError(f"{path}: has no video stream; give a file with pictures")
    if stream.codec_context is None:
        raise _damaged(path, "no decoder knows its pictures")
    stream.codec_context.thread_count = 1
    return stream


def _damaged(path, reason) -> ValueError:
    text = reason.strerror if isinstance(reason, av.FFmpegError) else reason
    size = os.path.getsize(path)
    return ValueError(f"{path}: damaged or not a video ({text}; {size} bytes); replace or remove it, "
                      f"or skip such files with data.on_error=skip")


def _decode(path, packets, stream, number: int = 0) -> Iterator[av.VideoFrame]:
    """Decode packets from frame `number` on; whatever the decoder complains of becomes a ValueError."""
    try:
        for packet in packets:
            for frame in stream.decode(packet):
                if frame.is_corrupt:
                    raise _damaged(path, f"frame {number} is broken")
                number += 1
                yield frame
    except av.FFmpegError as error:
        raise _damaged(path, f"decoding stops at frame {number}: {error.strerror}") from None


def _frames(path) -> Iterator[av.VideoFrame]:
    with _open(path) as container:
        stream = _video_stream(container, path)
        yield from _decode(path, container.demux(stream), stream)


def _frames_after_seek(path, index: Index, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) from key frame `key` on; _Irregular where that cannot be had exactly."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        container.seek(int(index.times[key]), stream=stream)
        packets = container.demux(stream)
        first = next(packets)
        if not first.is_keyframe or first.pts is None or first.pts > index.times[key]:
            raise _Irregular
        expected = int(np.searchsorted(index.times, first.pts))

        def replay():
            yield first
            yield from packets

        for frame in _decode(path, replay(), stream, expected):
            if frame.pts is not None and frame.pts < first.pts:
                continue  # shown before the key frame but stored after it (open GOP): not decodable from here
            if expected >= index.count or frame.pts != index.times[expected]:
                raise _Irregular
            yield expected, frame
            expected += 1


def _collect(path, numbered, wanted: range, count: int) -> np.ndarray:
    frames: list[np.ndarray] = []
    reached = -1
    for reached, frame in numbered:
        if reached in wanted:
            frames.append(_rgb(frame))
            if frames[-1].shape != frames[0].shape:
                raise _damaged(path, f"frame {reached} is {frames[-1].shape[:2]}, the others {frames[0].shape[:2]}")
        if len(frames) == len(wanted):
            return np.stack(frames)
    raise _damaged(path, f"it ends after frame {reached}, although it announces {count} frames")


def _rgb(frame: av.VideoFrame) -> np.ndarray:  # h w 3, upright
    if not hasattr(_local, "converter"):
        _local.converter = VideoReformatter()
    name = frame.format.name
    if name.startswith("yuv") and "p1" in name:  # 10 to 16 bits: to 8 first, so that the colours come out
        frame = frame.reformat(format=name[:name.index("p1") + 1])  # on the same path as those of other files
    image = _local.converter.reformat(frame, format="rgb24", **_ONE_THREAD).to_ndarray()
    if frame.rotation % 90 == 0 and frame.rotation:
        image = np.rot90(image, frame.rotation // 90)  # counter-clockwise, as the file asks players to do
    return image
