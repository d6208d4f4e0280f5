"""How long a source of very many videos takes to open, and how much memory each loading process adds to it.

Seconds are of processor time, with the system's part, so that other work on the machine does not count.
python -m tools.bench_listing 1000000 measures that many; --exp bench --only data measures fewer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from tools.listing import compact
from tools.packed import FORMAT, INDEX, MANIFEST, NAMES, ROW, find_packed, side_file
from tools.sources import SOURCES, VideoSource

_FOLDER = 1000       # files in each folder
_LONG_AGO = 10 ** 9  # seconds since 1970: a listing of what changes right now is not kept
_WRITTEN = "Private_Dirty:"  # of smaps_rollup: pages of which the process has a copy of its own


def measure(entries: int) -> dict[str, Any]:
    """Measure a tree of so many (empty) video files and a prepared index of so many videos, made in a temporary folder.

    The user's cache must be set aside by the caller (VIDEO_CACHE).

    Returns:
        {"entries", "files": {"listed_s": the first opening, which walks through all folders and sorts, "kept_s": a later
        one, from the kept listing, "worker_mb": what a forked process copies of it when it looks at every name,
        "worker_mb_lists": the same if the names were left in lists}, "prepared": {"kept_s", "worker_mb"}}. Megabytes are
        None where the system does not tell.
    """
    with TemporaryDirectory() as folder:
        tree, packed = Path(folder) / "tree", Path(folder) / "packed"
        _write_tree(tree, entries)
        _write_packed(packed, entries)
        listed, _ = _timed(lambda: SOURCES.bind("VIDEOS")(tree))
        kept, source = _timed(lambda: SOURCES.bind("VIDEOS")(tree))
        assert len(source) == entries
        lists = _copied_mb(source)
        compacting, source = _timed(lambda: compact(source))
        files = {"listed_s": listed + compacting, "kept_s": kept + compacting, "worker_mb": _copied_mb(source),
                 "worker_mb_lists": lists}
        opening, source = _timed(lambda: compact(find_packed(packed, "train")))
        assert len(source) == entries
        return {"entries": entries, "files": files, "prepared": {"kept_s": opening, "worker_mb": _copied_mb(source)}}


def _write_tree(root: Path, entries: int) -> None:
    for first in tqdm(range(0, entries, _FOLDER), unit="folder", desc="making a tree", delay=2, leave=False):
        folder = root / f"class{first // _FOLDER:04d}"
        folder.mkdir(parents=True)
        for number in range(first, min(first + _FOLDER, entries)):
            os.close(os.open(folder / f"v_Class_g{number:07d}.avi", os.O_CREAT | os.O_WRONLY))
        os.utime(folder, (_LONG_AGO, _LONG_AGO))
    os.utime(root, (_LONG_AGO, _LONG_AGO))


def _write_packed(folder: Path, entries: int) -> None:
    folder.mkdir()
    lines = [b'["v_Class_g%07d", "v_Class_g%07d.avi"]\n' % (i, i) for i in range(entries)]
    index = np.zeros(entries, ROW)
    index["frames"], index["label"], index["width"] = 16, -1, len(lines[0])
    index["line"] = np.arange(entries) * len(lines[0])
    (folder / NAMES).write_bytes(b"".join(lines))
    np.save(folder / INDEX, index)
    np.save(folder / side_file("train"), np.arange(entries, dtype=np.int32))
    (folder / MANIFEST).write_text(json.dumps({
        "format": FORMAT, "dataset": "VIDEOS", "size": [64, 64], "channels": 3, "videos": entries, "classes": [],
        "sides": {"train": entries}, "shards": []}))
    for path in folder.iterdir():  # what is not yet on the disk would be counted as written by whoever maps it
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def _timed(call: Callable[[], VideoSource]) -> tuple[float, VideoSource]:
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def _copied_mb(source: VideoSource) -> float | None:
    """Return how much a forked process copies of what it shares with this one while it looks at every name."""
    if "fork" not in multiprocessing.get_all_start_methods() or _written() is None:
        return None
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_look, args=(source, there))
    process.start()
    there.close()
    grown = here.recv()
    process.join()
    return grown / 1e6


def _look(source: VideoSource, answer) -> None:
    source.name(0)
    before = _written()
    for i in range(len(source)):
        source.name(i)
    answer.send(_written() - before)


def _written() -> int | None:
    try:
        with open("/proc/self/smaps_rollup") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(_WRITTEN))
    except (OSError, StopIteration):  # no Linux, or an old one
        return None


def main(words: list[str]) -> int:
    """Measure as many entries as the words say, and print what was found; return the exit status."""
    if len(words) != 1 or not words[0].isdecimal() or not int(words[0]):
        print(f"error: python -m tools.bench_listing takes a number of entries such as 1000000, got {words}", file=sys.stderr)
        return 2
    with TemporaryDirectory() as cache:
        before, os.environ["VIDEO_CACHE"] = os.environ.get("VIDEO_CACHE"), cache
        try:
            print(json.dumps(measure(int(words[0])), indent=1))
        finally:
            os.environ.pop("VIDEO_CACHE") if before is None else os.environ.update(VIDEO_CACHE=before)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
