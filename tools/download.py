"""The command `download`: named weights and datasets, fetched, verified, and their path printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools import fetch_data, weights
from tools.fetch import fetch
from tools.registry import nearest


def download(*, name: str | None, out: str | None) -> None:
    """Fetch what a name stands for and print where it lies; without a name, or with `list`, print all names.

    Args:
        name: of weights.WEIGHTS or fetch_data.DATASETS.
        out: folder; by default the weights folder, for datasets $VIDEO_DATA or else /data.
    """
    if name in (None, "list"):
        print(overview(Path(out) if out else None))
    elif name in weights.WEIGHTS:
        print(fetch_weights(name, Path(out) if out else None))
    elif name in fetch_data.DATASETS:
        print(fetch_data.fetch_data(name, data_folder(out)))
    else:
        known = [*weights.WEIGHTS, *fetch_data.DATASETS]
        raise ValueError(f'nothing to download is called "{name}"{nearest(name, known)}; known: {", ".join(known)}')


def data_folder(out: str | None) -> Path:
    return Path(out or os.environ.get("VIDEO_DATA") or "/data")


def fetch_weights(name: str, out: Path | None = None) -> Path:
    """Return the file of named weights, fetched if it is not here or not what it should be."""
    entry = weights.find(name)
    path = out / entry.file if out else weights.present(name) or weights.places(name)[0]
    advice = f"or fetch {entry.url} elsewhere and put it at {path}"
    if path.is_file():
        try:
            weights.check(path, entry, "it is fetched anew")
            return path
        except ValueError as error:
            print(error, file=sys.stderr)
            if not out:
                path = weights.places(name)[0]  # another program's cache is left as it is
    record = weights.read_record(path)
    fetch(entry.url, path, size=entry.size, advice=advice, check=lambda part: weights.identify(part, entry, advice, record))
    weights.check(path, entry, advice)
    return path


def overview(out: Path | None = None) -> str:
    """A table of all names: size, whether it is here, licence, what it is, and where it comes from."""
    rows = [("name", "size", "here", "licence", "what, and where it comes from")]
    for name, entry in weights.WEIGHTS.items():
        file = out / entry.file if out else weights.present(name)
        here = "yes" if file is not None and file.is_file() else "no"
        rows.append((name, human(entry.size), here, entry.licence, f"{entry.what}; {entry.page}"))
    for name, dataset in fetch_data.DATASETS.items():
        done = fetch_data.is_whole(name, data_folder(str(out) if out else None))
        account = "; needs an account" if dataset.login else ""
        size = dataset.needs or sum(part.size or 0 for part in dataset.parts) or None
        rows.append((name, human(size), "yes" if done else "no", dataset.licence,
                     f"dataset for --data {dataset.data}: {dataset.what}{account}; {dataset.page}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[4]]) for row in rows)


def human(size: int | None) -> str:
    """Bytes in the unit that suits them; of a dataset, what it needs on the disk."""
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
