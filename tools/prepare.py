"""python -m tools.prepare NAME --src DOWNLOAD --out FOLDER --size 64: a download becomes a set that reads fast.

The folder is then read under the same name, python main.py ... --data NAME --data_path FOLDER, or as VIDEOS.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.fit import RESIZES
from tools.pack import DROPPED, PackConfig, check, make_plan, write
from tools.raw import READERS, open_raw
from tools.sources import SOURCES

_SHOWN = 5  # reasons told on the screen; all are in the report


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare or check a set; return the exit status (2: the user can mend it)."""
    try:
        run(_parser().parse_intermixed_args(argv))
    except ValueError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; the same command goes on where it stopped", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it stopped", file=sys.stderr, flush=True)
        os._exit(130)  # the processes end with this one, and waiting for their shards could take minutes
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message}; see python -m tools.prepare --help")


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(sorted({*READERS, *SOURCES}))
    parser = _Parser(
        prog="python -m tools.prepare", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Turn a downloaded dataset into raw frames of one size, which load many times faster than videos.\n"
                    "The same command goes on after an interruption. Use it with --data NAME --data_path OUT.\n\n"
                    f"NAME: {names}",
        epilog="downloads that are read as they come:\n  " + "\n  ".join(
            f"{(READERS.get(name).__doc__ or '').splitlines()[0]}" for name in READERS)
        + "\n\nexample: python -m tools.prepare UCF101 --src UCF-101 --out ucf64 --size 64")
    parser.add_argument("name", nargs="?", metavar="NAME", help="which dataset")
    parser.add_argument("--src", type=Path, metavar="PATH", help="the download: a folder or a file")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where the prepared set goes: new, empty, or begun before")
    parser.add_argument("--size", metavar="N or HxW", help="pixels of a frame; 64 and 48x64 are examples")
    parser.add_argument("--resize", choices=RESIZES, default="crop",
                        help="crop covers the size and cuts the centre (default), pad shows all between black bars, "
                             "stretch gives up the aspect")
    parser.add_argument("--channels", type=int, choices=(1, 3), help="1 = grey (default: 1 for grey datasets, else 3)")
    parser.add_argument("--min_frames", type=int, default=16, metavar="N", help="leave out shorter videos (default: 16)")
    parser.add_argument("--shard_mb", type=float, default=512, metavar="N", help="largest file (default: 512)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="processes (default: one a core; 0 = none but this one)")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be written, and how large, and write nothing")
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="only compare a prepared set with its checksums")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE", help="options of the dataset, such as camera=main of BAIR")
    return parser


def run(args: argparse.Namespace) -> None:
    """Do what the arguments say."""
    if args.workers < 0:
        raise ValueError(f"--workers must be 0 or more, got {args.workers}")
    if args.check is not None:
        manifest = check(args.check, args.workers)
        print(f"{args.check} is whole: {_content(manifest)}")
        return
    for flag in ("name", "src", "out", "size"):
        if getattr(args, flag) is None:
            raise ValueError(f"{'NAME' if flag == 'name' else '--' + flag} is missing; see python -m tools.prepare --help")
    began = time.monotonic()
    size, options = parse_size(args.size), parse_options(args.options)
    raw = open_raw(args.name, args.src, options)
    cfg = PackConfig(args.name, size, args.resize, args.channels or raw.channels, args.min_frames, args.shard_mb, options)
    for note in raw.notes:
        print(note)
    plan = make_plan(raw, cfg, args.workers)
    if args.dry_run:
        print(f"would write {args.out}: {len(plan.videos) - len(plan.dropped)} videos, {plan.frames} frames, "
              f"{plan.frames * cfg.frame_bytes / 1e6:.1f} MB, {len(plan.shards)} shards")
        _tell_dropped([(plan.videos[i].name, reason) for i, (_, reason) in sorted(plan.dropped.items())])
        return
    manifest = write(raw, plan, args.out, cfg, args.workers)
    print(f"{args.out}: {_content(manifest)}, {time.monotonic() - began:.1f} s")
    lines = (args.out / DROPPED).read_text(encoding="utf-8").splitlines()
    _tell_dropped([(name, reason) for name, _, reason in map(json.loads, lines)], args.out / DROPPED)


def _tell_dropped(dropped: list[tuple[str, str]], report: Path | None = None) -> None:
    if dropped:
        print(f"left out: {len(dropped)}{f', all of them listed in {report}' if report else ''}")
    for name, reason in dropped[:_SHOWN]:
        print(f"  {name}: {reason}")
    if len(dropped) > _SHOWN:
        print(f"  and {len(dropped) - _SHOWN} more")


def parse_size(text: str) -> tuple[int, int]:
    """Read 64 or 48x64 -> (height, width)."""
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    if not match:
        raise ValueError(f"--size must be a number or HEIGHTxWIDTH, got {text}; 64 and 48x64 are examples")
    return int(match[1]), int(match[2] or match[1])


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Read KEY=VALUE words; numbers and true or false are taken as such."""
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise ValueError(f'"{word}" is no KEY=VALUE; options of a dataset look like camera=main')
        named = {"true": True, "false": False}.get(value.lower(), value)
        options[key] = int(value) if re.fullmatch(r"-?\d+", value) else named
    return options


def _content(manifest: dict[str, Any]) -> str:
    height, width = manifest["size"]
    size = sum(shard["bytes"] for shard in manifest["shards"])
    sides = ", ".join(f"{side} {count}" for side, count in manifest["sides"].items())
    return (f"{manifest['dataset']}, {manifest['videos']} videos{f' ({sides})' if sides else ''}, {manifest['frames']} frames "
            f"of {height}x{width}x{manifest['channels']}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
