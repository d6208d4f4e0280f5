"""Exact frames out of a video file: frame i is the i-th frame that decoding the whole file gives.

To read a few frames we seek to the key frame before them, decode only what they depend on, and stop behind
them. Containers number nothing, so an index of time stamps is made once per file by reading its packets, and
kept on disk; what comes out after a seek is checked against it; wherever the two disagree, the file is decoded
from its start and counted.

Pixels are those of `ffmpeg -pix_fmt rgb24`: the file's own range and matrix (BT.601 where it names none),
turned and mirrored as it asks for, at its stored size (no pixel aspect), transparency left out and not blended.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import chain, pairwise
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType

from tools import index_cache
from tools.scaler import cut_rgb, is_upright, rgb

CONTAINERS = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts",
              ".ogv", ".3gp"}

# Codecs of which every packet is one shown frame. Others hide frames (VP8) or skip them, and are counted
# by decoding. MPEG-4 (the AVIs of UCF-101) is among these if none of its packets is too small for a picture.
_PACKET_IS_FRAME = {"h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg", "ffv1", "png", "rawvideo", "gif",
                    "huffyuv", "ffvhuff", "prores", "dnxhd"}
_SMALLEST_PICTURE = 16  # bytes of an MPEG-4 packet; a "nothing changed" packet has 6 to 8

_WORTH_KEEPING = 1 << 16  # bytes of a file; the index of a smaller one is made again as fast as it is found

# Formats without time stamps of presentation: pictures that are stored out of order get guessed ones.
_UNTIMED = {"avi", "asf", "mpeg", "mpegvideo", "m4v"}
_GUESSED_WRONG = {"h264", "hevc"}  # of these nothing but decoding tells the order

_B_IS_SPARE = {"mpeg4", "mpeg2video", "mpeg1video"}  # codecs in which no picture depends on one of the kind B
_AT_ONCE = 16  # pictures that are decoded before they are converted: taking turns, the two would displace each other's tables
_DELAY = 4  # frames before the wanted ones, of which all pictures are decoded: they are stored out of order


av.logging.set_level(None)  # what matters becomes an exception here; the rest would clutter the progress bars


class Index(NamedTuple):
    """Where the frames of one file are."""
    count: int
    times: np.ndarray  # count int64, the time stamps in order of presentation; empty if not reliable
    keys: np.ndarray   # int64, numbers of the frames at which decoding may begin
    whole: bool        # packets are single frames and bear their true times: we know when to stop, what to pass over
    # Where times are not in order, but tell frames apart: the times, and which frames come out if spare ones are left out.
    stamps: np.ndarray = np.empty(0, np.int64)
    firm: np.ndarray = np.empty(0, np.int64)


class _Irregular(Exception):
    """What came after a seek is not what the index promised."""


def file_index(path: str | os.PathLike) -> Index:
    """Return the cached index of a video file; ValueError if it is missing or damaged."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path}: no such video file; check the path ({error.strerror})") from None
    return _index(os.fspath(path), stat.st_size, stat.st_mtime_ns)


def forget_indexes() -> None:
    """Drop the indexes held in memory, as a new process has none."""
    _index.cache_clear()


def centred(height: int, width: int, size: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the largest part in the middle of a picture that has the aspect of `size` (height, width).

    It begins with even numbers, where video files have a value of colour, so that it can be cut before colours are made.
    """
    scale = max(size[0] / height, size[1] / width)
    tall, wide = min(height, max(1, round(size[0] / scale))), min(width, max(1, round(size[1] / scale)))
    top, left = (height - tall) // 4 * 2, (width - wide) // 4 * 2
    return slice(top, top + tall), slice(left, left + wide)


def read_container(path: str | os.PathLike, wanted: range, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode the frames `wanted` (at least one, ascending, within the file) -> uint8 t h w 3.

    With a size (height, width), what is returned of each frame is the part of that aspect in the middle, and that may have been
    scaled to the size already, where scaling is better done here.
    No more is decoded than from the key frame before the first to the last of them, without those in between
    on which no other depends.
    """
    index = file_index(path)
    assert wanted and wanted.step > 0 and wanted.start >= 0 and wanted[-1] < index.count
    if len(index.times):
        with suppress(_Irregular):
            return _collect(path, _frames_from_key(path, index, wanted), wanted, index.count, size)
    elif len(index.stamps) and wanted.start > _DELAY:
        with suppress(_Irregular):
            return _collect(path, _frames_by_stamp(path, index, wanted), wanted, index.count, size)
    return _collect(path, enumerate(_frames(path)), wanted, index.count, size)


@lru_cache(maxsize=1 << 14)  # 8 bytes a frame, in every worker: 40 MB of clips of ten seconds
def _index(path: str, size: int, mtime: int) -> Index:
    if size < _WORTH_KEEPING:
        return _make_index(path)
    kept = index_cache.load(path, size, mtime)
    if kept is None:
        kept = _to_numbers(_make_index(path))
        index_cache.store(path, size, mtime, kept)
    return _from_numbers(kept)


def _to_numbers(index: Index) -> np.ndarray:
    lists = [np.diff(numbers, prepend=0) for numbers in (index.times, index.keys, index.stamps, index.firm)]
    sizes = [index.count, index.whole, *map(len, lists)]
    return np.concatenate([sizes, *lists]).astype(np.int64)  # steps of time are alike, and pack well


def _from_numbers(numbers: np.ndarray) -> Index:
    count, whole, *lengths = numbers[:6].tolist()
    times, keys, stamps, firm = map(np.cumsum, np.split(numbers[6:], np.cumsum(lengths)[:-1]))
    return Index(count, times, keys, bool(whole), stamps, firm)


def _make_index(path: str) -> Index:
    try:
        with _open(path) as container:
            stream = _video_stream(container, path)
            codec, timed = stream.codec_context.name, container.format.name not in _UNTIMED
            in_order = not stream.codec_context.has_b_frames
            packets = [p for p in _packets(container, stream) if not p.is_discard]
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
        return _counted_index(path, timed or all(p.pts == p.dts for p in packets))
    ordered = np.sort(np.array(times, np.int64))
    keys = np.searchsorted(ordered, [p.pts for p in packets if p.is_keyframe])
    out_of_order = bool((np.diff(times) < 0).any())
    return Index(len(ordered), ordered, np.sort(keys), codec not in _GUESSED_WRONG or (timed and (in_order or out_of_order)))


def _counted_index(path: str, timed: bool) -> Index:
    """Index a file by decoding it; from where its frames bear times in order, decoding may begin at a key frame."""
    shown = [(frame.pts, frame.key_frame, frame.pict_type) for frame in _frames(path)]
    times = [pts for pts, _, _ in shown]
    if not timed or None in times or any(b <= a for a, b in pairwise(times)):
        unordered = Index(len(shown), np.empty(0, np.int64), np.zeros(1, np.int64), False)
        firm = [number for number, (_, _, kind) in enumerate(shown) if kind != PictureType.B]
        if None in times or len(set(times)) < len(times) or len(firm) == len(times) \
                or [frame.pts for frame in _frames(path, leave_out=len(times))] != [times[number] for number in firm]:
            return unordered
        return unordered._replace(stamps=np.array(times, np.int64), firm=np.array(firm, np.int64))
    keys = [number for number, (_, key, _) in enumerate(shown) if key]
    return Index(len(shown), np.array(times, np.int64), np.array(keys, np.int64), False)


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
    stream.codec_context.thread_count = 1  # many of us run at once, and starting threads takes longer than a short read
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


def _frames(path, leave_out: int = 0) -> Iterator[av.VideoFrame]:
    """Decode a file from its start; of its first packets, so many, pictures on which no other depends are left out."""
    with _open(path) as container:
        stream = _video_stream(container, path)
        packets = _packets(container, stream)
        if leave_out and stream.codec_context.name in _B_IS_SPARE:
            packets = _sparing(packets, stream.codec_context, leave_out)
        yield from _decode(path, chain(packets, [None]), stream)


def _sparing(packets, decoder, count: int) -> Iterator[av.Packet]:
    decoder.skip_frame = "NONREF"
    for number, packet in enumerate(packets):
        if number == count:
            decoder.skip_frame = "DEFAULT"
        yield packet


def _frames_by_stamp(path, index: Index, wanted: range) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of the wanted frames and those between; _Irregular if one does not come out as the index says.

    Decoding begins with the file, but on the way to the first of them only what others depend on is decoded.
    """
    numbers = {stamp: number for number, stamp in enumerate(index.stamps.tolist())}
    following, last = dict(pairwise([-1, *index.firm.tolist()])), -1
    for frame in _frames(path, leave_out=wanted.start - _DELAY):
        number = numbers.get(frame.pts, -1)
        at_most = min(following.get(last, last + 1), max(wanted.start, last + 1))
        if not last < number <= at_most:
            raise _Irregular
        if number >= wanted.start:
            yield number, frame
        last = number
    raise _Irregular  # not all came out


def _packets(container, stream) -> Iterator[av.Packet]:
    """Yield the packets that hold anything: an empty one would tell the decoder that the file ends."""
    return (packet for packet in container.demux(stream) if packet.size)


def _frames_from_key(path, index: Index, wanted: range) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield (number, frame) of at least the wanted frames; _Irregular where that cannot be had exactly."""
    key = int(index.keys[index.keys <= wanted.start].max(initial=0))
    with _open(path) as container:
        stream = _video_stream(container, path)
        if key:
            container.seek(int(index.times[key]), stream=stream)
        packets = _packets(container, stream)
        first = next(packets, None)
        if first is None or not first.is_keyframe or first.pts is None or first.pts > index.times[key]:
            raise _Irregular
        begin = int(np.searchsorted(index.times, first.pts))
        numbers = {time: number for number, time in enumerate(index.times[begin:wanted[-1] + 1].tolist(), begin)}
        passed_over: set[int] = set()
        packets = chain([first], packets)
        if index.whole:
            packets = _needed(packets, stream.codec_context, numbers, wanted, passed_over)
        expected = begin
        for frame in _decode(path, chain(packets, [None]), stream, begin):
            if frame.pts is not None and frame.pts < first.pts:
                continue  # shown before the key frame but stored after it (open GOP): not decodable from here
            number = numbers.get(frame.pts, -1)
            while expected < number and expected in passed_over:
                expected += 1
            if number != expected:  # such as a picture that is no true key: decoders give none until they are sure
                raise _Irregular
            yield number, frame
            expected += 1
    raise _Irregular  # not all came out


def _needed(packets, decoder, numbers: dict[int, int], wanted: range, passed_over: set[int]) -> Iterator[av.Packet]:
    """Yield the packets to feed until all of `wanted` are in the decoder, beginning with a key frame's.

    Frames that are not wanted are added to `passed_over`: of these the decoder leaves out those on which no
    other depends.

    Args:
        numbers: of the frames from the key frame to the last wanted, by their time stamps.
    """
    left = set(numbers.values())
    key, leaving_out = min(left), False
    for packet in packets:
        number = numbers.get(packet.pts, -1)
        if number >= 0 and number not in wanted and number != key:  # the key frame comes out, or it is none
            passed_over.add(number)
        if leaving_out != (number not in wanted):
            leaving_out = not leaving_out
            decoder.skip_frame = "NONREF" if leaving_out else "DEFAULT"
        yield packet
        left.discard(number)
        if not left:
            return


def _collect(path, numbered, wanted: range, count: int, size: tuple[int, int] | None) -> np.ndarray:
    frames, stored, upright, part = np.empty(0), None, True, None
    waiting, done, reached = [], 0, -1
    for reached, frame in numbered:
        if reached in wanted:
            if stored is None:
                stored, upright = (frame.height, frame.width), is_upright(frame)
                part = centred(*stored, size) if size and upright else None
            if (frame.height, frame.width) != stored:
                raise _damaged(path, f"frame {reached} is {(frame.height, frame.width)}, the others {stored}")
            waiting.append(frame)
        if len(waiting) == _AT_ONCE or reached == wanted[-1]:
            images = cut_rgb(waiting, part, size) if part else map(rgb, waiting)
            if len(waiting) == len(wanted) and isinstance(images, np.ndarray):
                return images
            for image in images:
                if not done:
                    frames = np.empty((len(wanted), *image.shape), np.uint8)
                frames[done] = image
                done += 1
            waiting = []
        if done == len(wanted):
            return frames if upright else _turned(path, frames, frame, size)
    raise _damaged(path, f"it ends after frame {reached}, although it announces {count} frames")


def _turned(path, frames: np.ndarray, last: av.VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
    """Turn and mirror frames t h w c as the file asks players to do, and give the centre of that."""
    matrix = last.side_data["DISPLAYMATRIX"]
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])  # x' = a x + c y, y' = b x + d y
    if (a or d) and (b or c):
        raise ValueError(f"{path}: its pictures are to be turned by {last.rotation} degrees; re-encode it upright")
    right, down = (a, d) if a or d else (c, b)
    frames = frames if a or d else frames.swapaxes(1, 2)
    frames = frames[:, ::-1 if down < 0 else 1, ::-1 if right < 0 else 1]
    return np.ascontiguousarray(frames[(slice(None), *centred(*frames.shape[1:3], size))] if size else frames)
