"""Long lists of names in arrays, which processes share."""

import os
from pathlib import Path

import pytest
from numbered import Counted

from tools import listing
from tools.listing import Paths, Texts, compact
from tools.manifest import dataset_hash

NAMES = ["a", "", "frame 2", "größe", os.fsdecode(b"not \xff text"), "日本"]


@pytest.mark.parametrize("kind, items", [(Texts, NAMES), (Paths, [Path("x", name) for name in NAMES])])
def test_a_table_reads_like_the_list(kind, items):
    table = kind(items)
    assert list(table) == items and len(table) == len(items)
    assert table[-1] == items[-1] and table[1:4] == items[1:4] and table[::-2] == items[::-2]
    for i in (len(items), -len(items) - 1):
        with pytest.raises(IndexError):
            table[i]
    assert list(kind([])) == []


class Listed(Counted):
    """A source that lists files, as those of datasets do."""

    def __init__(self, count):
        super().__init__([9] * count)
        self.paths = [Path("set", f"{i}.mp4") for i in range(count)]
        self._names = [f"name{i}" for i in range(count)]

    def name(self, i):
        return self._names[i]


def test_a_source_with_many_names_keeps_them_in_arrays(monkeypatch):
    monkeypatch.setattr(listing, "_LONG", 10)
    plain, table, short = Listed(20), compact(Listed(20)), compact(Listed(9))
    assert isinstance(table._names, Texts) and isinstance(table.paths, Paths) and isinstance(short._names, list)
    assert dataset_hash(table) == dataset_hash(plain) and list(table.paths) == plain.paths
    assert table.lengths == plain.lengths  # numbers stay what they are
