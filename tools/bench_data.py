"""How fast clips come out of videos: reading a window, beside decoding the whole file and slicing it.

Times are seconds of one core (processor time of one thread, so that other work on the machine does not
count), resizing included, of files that the system holds in memory. The ways compared take turns, file by file, and each
has the allocator that its programs have.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import av
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tools import bench_listing
from tools.container import CONTAINERS, centred, file_index, forget_indexes
from tools.memory import M_MMAP_MAX, M_TOP_PAD, M_TRIM_THRESHOLD, keep_freed_memory
from tools.pack import PackConfig, make_plan, write
from tools.packed import find_packed
from tools.raw import open_raw
from tools.sources import VideoSource
from tools.tree import find_videos
from tools.video import read_video, resize_crop

M_MMAP_THRESHOLD = -3  # of mallopt(3)

Way = Callable[[Path, int], np.ndarray]  # (file, first frame) -> a clip, uint8 t h w c


def measure(data_path: str | os.PathLike, *, frames: int = 16, size: int = 256, clips: int = 5, files: int = 8,
            long: int = 600, packed: bool = False, entries: int = 0, seed: int = 0) -> dict:
    """Measure the reading of clips from the video files of a folder.

    Args:
        data_path: a folder of videos, or one video.
        frames: of a clip.
        size: height and width of a clip.
        clips: taken of each file, at random starts.
        files: at most so many of each kind (suffix), the first in natural order.
        long: frames of a file made of the first video's, with a key frame every 12, as in UCF-101; 0 = none.
        packed: also prepare the chosen files, and read the prepared set.
        entries: of a long listing, see tools.bench_listing; 0 = none.
        seed: of the starts.

    Returns:
        {"frames", "size", "kinds": {"avi": R, "mp4": R, ..., "long": R}, "packed": P or None, "listing": what
        tools.bench_listing measured, or None}. R is of the files of a kind: "files", "clips_per_second" (one core), the
        medians over files of "ratio" (to our time, the time in which the old loader decodes the whole file, slices and
        resizes it) and "ratio_same" (the same, but resized as we do it, so that it tells of the reading alone), the least
        "ratio_min", and milliseconds "index_ms" and "index_kept_ms" of finding where the frames are for the first time
        and in a later run. P holds "clips_per_second" and "ratio", of the median time of a clip of the video files to
        that of the packed.

    Raises:
        ValueError: no video file is long enough.
    """
    chosen = _choose(find_videos(data_path), frames, files)
    if not chosen:
        raise ValueError(f"{data_path}: holds no video file of {frames} frames or more to measure; give another --data_path")
    rng = np.random.default_rng(seed)
    ways = _ways(frames, size)
    with _one_thread(), tempfile.TemporaryDirectory() as folder, _cache_in(Path(folder) / "cache"):
        if long:
            first = next(iter(chosen.values()))[0]
            chosen["long"] = [_looped(first, Path(folder) / "long.avi", max(long, frames))]
        bar = tqdm(total=sum(map(len, chosen.values())), desc="reading clips", unit="file")
        kinds, ours = {}, []
        for kind, paths in chosen.items():
            rows = []
            for path in paths:
                rows.append(_measure_file(path, frames, ways, clips, rng))
                bar.update()
            kinds[kind] = _summary(rows)
            ours += [row["window"] for row in rows if kind != "long"]
        bar.close()
        prepared = None
        if packed:
            videos = [path for kind, paths in chosen.items() if kind != "long" for path in paths]
            source = _pack(videos, Path(folder), frames, size)
            prepared = _measure_packed(source, frames, size, clips * files, rng, median(ours))
        listing = bench_listing.measure(entries) if entries else None
    return {"frames": frames, "size": size, "kinds": kinds, "packed": prepared, "listing": listing}


def _choose(paths: Iterable[Path], frames: int, files: int) -> dict[str, list[Path]]:
    """Return the files to measure of each suffix; damaged and short ones are passed over."""
    chosen: dict[str, list[Path]] = {}
    for path in paths:
        kind = path.suffix.lower().lstrip(".")
        if f".{kind}" not in CONTAINERS or path.is_dir() or len(chosen.get(kind, ())) >= files:
            continue
        with contextlib.suppress(ValueError):
            if file_index(path).count >= frames:
                read_video(path)
                chosen.setdefault(kind, []).append(path)
    return chosen


def _ways(frames: int, size: int) -> dict[str, Way]:
    """The ways to a clip; that of the old loader gives floats t c h w, and minds no aliasing."""
    wanted = (size, size)
    return {"window": lambda path, start: read_video(path, start, start + frames, size=wanted),
            "same": lambda path, start: resize_crop(_decode_whole(path)[start:start + frames], wanted),
            "whole": lambda path, start: _resized_in_floats(_decode_whole(path)[start:start + frames], size)}


def _decode_whole(path: Path) -> np.ndarray:
    """Decode a file as torchvision's read_video did, which PVDM called for every clip: with its sound, and with all
    pictures held until the last is there. But by one thread, as everything here, and in the order of the file."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        pictures = list(container.decode(stream))
        sound = container.streams.best("audio")
        if sound is not None:
            container.seek(0, stream=sound)
            np.concatenate([frame.to_ndarray() for frame in container.decode(sound)], axis=1)
    return np.stack([picture.reformat(format="rgb24", threads=1).to_ndarray() for picture in pictures])


def _resized_in_floats(frames: np.ndarray, size: int) -> np.ndarray:
    """Cut the square out of the middle and scale it as PVDM did: float32, bilinear, not antialiased, to t c h w."""
    clip = torch.from_numpy(frames).float().permute(3, 0, 1, 2)
    rows, columns = centred(*clip.shape[2:], (1, 1))
    clip = F.interpolate(clip[:, :, rows, columns], size, mode="bilinear", align_corners=False)
    return clip.permute(1, 0, 2, 3).contiguous().numpy()


def _measure_file(path: Path, frames: int, ways: dict[str, Way], clips: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the median seconds of each way and of both ways to the index."""
    forget_indexes()
    times = {"index": [_seconds(lambda: file_index(path))], "index_kept": []}
    forget_indexes()
    times["index_kept"] = [_seconds(lambda: file_index(path))]
    starts = rng.integers(file_index(path).count - frames + 1, size=clips).tolist()
    with _usual_memory():
        for start in starts:
            for name in ("whole", "same"):
                times.setdefault(name, []).append(_seconds(lambda name=name, start=start: ways[name](path, start)))
    ways["window"](path, starts[0])  # what is made once per process
    times["window"] = [_seconds(lambda start=start: ways["window"](path, start)) for start in starts]
    return {name: median(seconds) for name, seconds in times.items()}


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    ratios = [row["whole"] / row["window"] for row in rows]
    return {"files": len(rows), "clips_per_second": 1 / median(row["window"] for row in rows), "ratio": median(ratios),
            "ratio_min": min(ratios), "ratio_same": median(row["same"] / row["window"] for row in rows),
            "index_ms": 1e3 * median(row["index"] for row in rows),
            "index_kept_ms": 1e3 * median(row["index_kept"] for row in rows)}


def _pack(videos: list[Path], folder: Path, frames: int, size: int) -> VideoSource:
    """Prepare videos as `python -m tools.prepare` does."""
    for number, path in enumerate(videos):
        (folder / "videos").mkdir(exist_ok=True)
        (folder / "videos" / f"{number}{path.suffix}").symlink_to(path.resolve())
    raw = open_raw("VIDEOS", folder / "videos")
    cfg = PackConfig("VIDEOS", (size, size), channels=raw.channels, min_frames=frames)
    write(raw, make_plan(raw, cfg, 0), folder / "packed", cfg, 0)
    return find_packed(folder / "packed", "all")


def _measure_packed(source: VideoSource, frames: int, size: int, clips: int, rng: np.random.Generator, unpacked: float) -> dict:
    usable = [i for i in range(len(source)) if source.num_frames(i) >= frames]
    seconds = []
    for i in rng.choice(usable, clips).tolist():
        start = int(rng.integers(source.num_frames(i) - frames + 1))
        seconds.append(_seconds(lambda i=i, start=start: resize_crop(source.read(i, start, start + frames), (size, size))))
    return {"clips_per_second": 1 / median(seconds), "ratio": unpacked / median(seconds)}


def _looped(path: Path, out: Path, length: int) -> Path:
    """Write a video of so many frames, forth and back through another's."""
    video = read_video(path)
    there_and_back = np.concatenate([video, video[-2:0:-1]])
    with av.open(str(out), "w") as file:
        stream = file.add_stream("mpeg4", rate=25, options={"qscale": "4", "flags": "+qscale"})
        stream.height, stream.width, stream.pix_fmt = video.shape[1] // 2 * 2, video.shape[2] // 2 * 2, "yuv420p"
        stream.codec_context.gop_size = 12
        for number in range(length):
            image = there_and_back[number % len(there_and_back)][:stream.height, :stream.width]
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        file.mux(stream.encode())
    return out


def _seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _usual_memory() -> Iterator[None]:
    """Let glibc give freed memory back as it does in a program that says nothing of it, after a while: blocks of more than
    32 MB at once, and of what is free at the end all but 64 MB. Ours keeps it (tools.memory), and again does so afterwards."""
    kept = keep_freed_memory()
    if kept:
        libc = ctypes.CDLL(None)
        usual = {M_MMAP_MAX: 1 << 16, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20, M_TOP_PAD: 1 << 17}
        for name, value in usual.items():
            libc.mallopt(name, value)
    try:
        yield
    finally:
        if kept:
            keep_freed_memory()


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Keep indexes in a folder of our own, so that the first run is a first run and the user's cache stays as it is."""
    before = os.environ.get("VIDEO_CACHE")
    os.environ["VIDEO_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("VIDEO_CACHE")
        if before is not None:
            os.environ["VIDEO_CACHE"] = before
