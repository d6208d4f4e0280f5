"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write; it takes the place of `path` when the block ends well.

    Whoever reads sees the old file or the whole new one. A kill leaves at most a `*.tmp` file, which the next
    writing of the same file takes away; an error leaves nothing, since a full disk must not stay full of half
    a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replace a small text file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
