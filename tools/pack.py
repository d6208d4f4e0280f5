"""Write a prepared set (tools.packed): shard by shard in many processes, to be gone on with after any interruption.

What is to be written is planned first: every video's length is known before a shard is begun, so the plan, and the
bytes, do not depend on the number of processes. A finished shard has a record beside it; a kill costs the shards
that were being written. The manifest comes last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tools.files import replacing, write_text
from tools.fit import RESIZES, fit
from tools.pack_arrays import array_files, join, keep, save_array
from tools.packed import FORMAT, INDEX, MANIFEST, NAMES, PLAN, ROW, read_manifest, shard_file, side_file
from tools.pool import map_shared
from tools.raw import RawSet, RawVideo

DROPPED = "dropped.jsonl"
TOO_SHORT, DAMAGED = "too short", "damaged"
_BLOCK = 64 << 20    # bytes of source frames that a process holds at once
_SHARES = 64         # a set is cut into so many shards at least, for as many processes,
_SMALLEST = 16 << 20  # unless these would be smaller than this


@dataclass(frozen=True)
class PackConfig:
    """What a prepared set is to be."""
    dataset: str
    size: tuple[int, int]     # height and width
    resize: str = "crop"      # crop | pad | stretch
    channels: int = 3         # 1 = grey
    min_frames: int = 16      # shorter videos are left out
    shard_mb: float = 512.0   # of a file, at most, unless one video is larger
    options: dict[str, Any] = field(default_factory=dict)  # of the dataset

    def __post_init__(self):
        wrong = {"size": min(self.size) < 1, "resize": self.resize not in RESIZES, "channels": self.channels not in (1, 3),
                 "min_frames": self.min_frames < 1, "shard_mb": self.shard_mb <= 0}
        wanted = {"size": "at least 1", "resize": " or ".join(RESIZES), "channels": "1 or 3", "min_frames": "at least 1",
                  "shard_mb": "positive"}
        for key in wrong:
            if wrong[key]:
                raise ValueError(f"--{key} must be {wanted[key]}, got {getattr(self, key)}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of a prepared frame."""
        return math.prod(self.size) * self.channels


class Plan(NamedTuple):
    """What will be written."""
    videos: list[RawVideo]
    counts: np.ndarray           # frames of each
    dropped: dict[int, tuple[str, str]]  # video -> kind of reason, and the reason
    shards: list[list[int]]      # videos of each
    digest: str                  # of all that decides the bytes

    @property
    def frames(self) -> int:
        """Frames of all videos that are kept."""
        return int(sum(self.counts[i] for shard in self.shards for i in shard))


def make_plan(raw: RawSet, cfg: PackConfig, workers: int) -> Plan:
    """Measure every video and divide those that are long enough among shards."""
    videos = [raw.video(i) for i in range(len(raw))]
    if len({v.name for v in videos}) < len(videos):
        raise ValueError("two videos of the set have the same name; give a folder that holds each video once")
    counts, dropped = np.zeros(len(raw), np.int64), {}
    chunks = [range(a, min(a + 32, len(raw))) for a in range(0, len(raw), 32)]
    with _bar(len(raw), "video", "measure") as bar:
        for measured in map_shared(_measure, raw, chunks, workers):
            bar.update(len(measured))
            for i, count, problem in measured:
                counts[i] = count
                if problem:
                    dropped[i] = DAMAGED, problem
                elif count < cfg.min_frames:
                    dropped[i] = TOO_SHORT, f"has {count} frames, wanted {cfg.min_frames} (--min_frames)"
    if len(dropped) == len(raw):
        first = min(dropped)
        raise ValueError(f"none of the {len(raw)} videos can be used; the first, {videos[first].name}: {dropped[first][1]}")
    digest = hashlib.sha256(repr(cfg).encode())
    for i, video in enumerate(videos):
        digest.update(f"{video!r} {counts[i]}\n".encode(errors="surrogatepass"))
    sizes = [(i, int(counts[i]) * cfg.frame_bytes) for i in range(len(videos)) if i not in dropped]
    return Plan(videos, counts, dropped, _divide(sizes, cfg), digest.hexdigest())


def _divide(sizes: list[tuple[int, int]], cfg: PackConfig) -> list[list[int]]:
    share = max(_SMALLEST, sum(size for _, size in sizes) // _SHARES)
    limit = min(cfg.shard_mb * (1 << 20), share)
    shards, filled = [[]], 0
    for i, size in sizes:
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(i)
        filled += size
    return shards


def write(raw: RawSet, plan: Plan, out: Path, cfg: PackConfig, workers: int) -> dict[str, Any]:
    """Write what is not written yet, and return the manifest.

    Raises:
        ValueError: the folder holds something else, or the disk is too small.
    """
    out = Path(out)
    with _claimed(out):
        finished = read_manifest(out) if (out / MANIFEST).exists() else None
        if finished is not None:
            if finished.get("digest") != plan.digest:
                raise ValueError(f"{out}: holds a set that was prepared from other videos or with other settings; "
                                 "give another --out, or remove it")
            return finished
        _refuse_other(out, plan)
        done = {k: record for k in range(len(plan.shards)) if (record := _record(out, k)) is not None}
        _check_room(out, plan, cfg, done)
        write_text(out / PLAN, json.dumps({"digest": plan.digest}))
        missing = [(k, [(i, int(plan.counts[i])) for i in shard]) for k, shard in enumerate(plan.shards) if k not in done]
        with _bar(plan.frames, "frame", "prepare") as bar:
            bar.update(sum(_frames_of(plan, k) for k in done))
            for number, record in map_shared(_write_shard, (raw, cfg, out), missing, workers):
                done[number] = record
                bar.update(_frames_of(plan, number))
        return _finish(out, plan, cfg, raw, [done[k] for k in range(len(plan.shards))])


def _frames_of(plan: Plan, shard: int) -> int:
    return int(plan.counts[plan.shards[shard]].sum())


def _measure(raw: RawSet, chunk: range) -> list[tuple[int, int, str]]:
    measured = []
    for i in chunk:
        try:
            measured.append((i, raw.num_frames(i), ""))
        except ValueError as error:
            measured.append((i, 0, str(error)))
    return measured


def _write_shard(shared: tuple[RawSet, PackConfig, Path], job: tuple[int, list[tuple[int, int]]]) -> tuple[int, dict[str, Any]]:
    """Convert the videos of a shard; return its number and its record, which is also left beside it."""
    (raw, cfg, out), (number, videos) = shared, job
    kept, dropped, arrays, digest = [], [], {}, hashlib.sha256()
    with replacing(out / shard_file(number)) as temporary, open(temporary, "wb") as file:
        for i, count in videos:
            offset, before = file.tell(), digest.copy()
            try:
                for frames in _blocks(raw, i, count):
                    data = memoryview(fit(frames, cfg.size, cfg.channels, cfg.resize)).cast("B")
                    digest.update(data)
                    file.write(data)
                arrays[i] = raw.arrays(i) if hasattr(raw, "arrays") else {}
            except ValueError as error:  # damaged further in than its length tells
                file.seek(offset)
                file.truncate()
                digest = before
                dropped.append((i, str(error)))
            else:
                kept.append((i, count, offset))
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    keep(_arrays_file(out, number), arrays)
    record = {"bytes": size, "sha256": digest.hexdigest(), "videos": kept, "dropped": dropped}
    write_text(_record_file(out, number), json.dumps(record))
    return number, record


def _blocks(raw: RawSet, i: int, count: int) -> Iterator[np.ndarray]:
    """Yield the frames of a video, as many at once as may be held."""
    start, block = 0, 8
    while start < count:
        stop = min(start + block, count)
        frames = raw.read(i, start, stop)
        assert len(frames) == stop - start, f"video {i}: {len(frames)} frames for {start}..{stop}"
        yield frames
        start, block = stop, max(1, _BLOCK // frames[0].nbytes)


def _bar(total: int, unit: str, what: str) -> tqdm:
    return tqdm(total=total, unit=unit, desc=what, delay=1, mininterval=0.5)


# --- the folder ----------------------------------------------------------------------------------------------

def _record_file(out: Path, number: int) -> Path:
    return out / f"{shard_file(number)}.json"


def _arrays_file(out: Path, number: int) -> Path:
    return out / f"{shard_file(number)}.npz"


def _record(out: Path, number: int) -> dict[str, Any] | None:
    """Return the record of a shard that is there whole."""
    shard, file = out / shard_file(number), _record_file(out, number)
    if not (shard.is_file() and file.is_file()):
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    return record if shard.stat().st_size == record["bytes"] else None


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Hold a folder for this process; it is made, or is one of ours already, or ValueError."""
    ours = any((out / name).exists() for name in (PLAN, MANIFEST))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file, wanted a folder; give another --out")
    if out.exists() and not ours and any(p.name != ".lock" and p.suffix != ".tmp" for p in out.iterdir()):
        raise ValueError(f"{out}: holds other files; give an empty or a new folder as --out")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            import fcntl
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not a Unix
            pass
        except (BlockingIOError, PermissionError):
            raise ValueError(f"{out}: another process is preparing it; wait for it, or give another --out") from None
        except OSError:  # a network drive without locks
            pass
        yield


def _refuse_other(out: Path, plan: Plan) -> None:
    file = out / PLAN
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["digest"] != plan.digest:
        raise ValueError(f"{out}: was begun from other videos or with other settings; "
                         "use the same ones to go on, or give another --out, or remove it")


def _check_room(out: Path, plan: Plan, cfg: PackConfig, done: dict[int, dict]) -> None:
    need = plan.frames * cfg.frame_bytes - sum(record["bytes"] for record in done.values())
    free = shutil.disk_usage(out).free
    if need > free:
        raise ValueError(f"{out}: {need / 1e9:.1f} GB are to be written, but {free / 1e9:.1f} GB are free; "
                         "choose a smaller --size, or another --out")


def _finish(out: Path, plan: Plan, cfg: PackConfig, raw: RawSet, records: list[dict]) -> dict[str, Any]:
    """Write index, names, sides and report, then the manifest, and take the records of the shards away."""
    dropped = dict(plan.dropped)
    for record in records:
        dropped |= {i: (DAMAGED, reason) for i, reason in record["dropped"]}
    rows = [(i, k, frames, offset) for k, record in enumerate(records) for i, frames, offset in record["videos"]]
    if not rows:
        first = min(dropped)
        raise ValueError(f"none of the {len(plan.videos)} videos can be used; the first, {plan.videos[first].name}: "
                         f"{dropped[first][1]}")
    index, sides = np.zeros(len(rows), ROW), {}
    with replacing(out / NAMES) as temporary, open(temporary, "wb") as names:
        for row, (i, shard, frames, offset) in enumerate(rows):
            video, at = plan.videos[i], names.tell()
            line = _line(video.name, video.origin)
            names.write(line)
            index[row] = offset, at, len(line), shard, frames, video.label
            for side in video.sides:
                sides.setdefault(side, []).append(row)
    save_array(out / INDEX, index)
    arrays = join([_arrays_file(out, k) for k in range(len(records))], [i for i, *_ in rows], out)
    for side, members in sides.items():
        save_array(out / side_file(side), np.array(members, np.int32))
    report = (_line(plan.videos[i].name, plan.videos[i].origin, reason) for i, (_, reason) in sorted(dropped.items()))
    write_text(out / DROPPED, b"".join(report).decode())
    kinds = [kind for kind, _ in dropped.values()]
    small = [INDEX, NAMES, DROPPED, *map(side_file, sides), *chain.from_iterable(map(array_files, arrays))]
    manifest = {
        "format": FORMAT, "dataset": cfg.dataset, "options": cfg.options,
        "size": list(cfg.size), "channels": cfg.channels, "resize": cfg.resize, "min_frames": cfg.min_frames,
        "videos": len(rows), "frames": int(index["frames"].sum()),
        "sides": {side: len(sides[side]) for side in sorted(sides)}, "classes": list(raw.classes), "notes": list(raw.notes),
        "arrays": arrays,
        "dropped": {kind: kinds.count(kind) for kind in sorted(set(kinds))}, "digest": plan.digest,
        "files": {name: checksum(out / name) for name in small},
        "shards": [{"name": shard_file(k), "bytes": r["bytes"], "sha256": r["sha256"]} for k, r in enumerate(records)]}
    write_text(out / MANIFEST, json.dumps(manifest, indent=1))
    for path in [out / PLAN, *(of(out, k) for k in range(len(records)) for of in (_record_file, _arrays_file))]:
        path.unlink(missing_ok=True)
    return manifest


def _line(*parts: str) -> bytes:
    return (json.dumps(parts) + "\n").encode("ascii")


def checksum(path: Path) -> str:
    """Return the sha256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check(folder: Path, workers: int) -> dict[str, Any]:
    """Compare every byte of a prepared set with its manifest, which is returned.

    Raises:
        ValueError: files are missing or have changed, all of which it names.
    """
    manifest = read_manifest(Path(folder))
    if manifest is None:
        raise ValueError(f"{folder}: is no prepared set (it has no {MANIFEST}); give the --out of a preparation")
    sums = {**manifest["files"], **{shard["name"]: shard["sha256"] for shard in manifest["shards"]}}

    def state(name: str) -> str:
        path = Path(folder) / name
        if not path.is_file():
            return f"{name} is missing"
        return "" if checksum(path) == sums[name] else f"{name} has changed"

    with ThreadPoolExecutor(max(1, workers)) as pool, _bar(len(sums), "file", "check") as bar:  # hashing frees the lock
        problems = []
        for problem in pool.map(state, sums):
            bar.update()
            problems += [problem] if problem else []
    if problems:
        raise ValueError(f"{folder}: {len(problems)} of {len(sums)} files are wrong: {', '.join(problems[:5])}"
                         f"{', ...' if len(problems) > 5 else ''}; prepare the set again, or copy these files again")
    return manifest

