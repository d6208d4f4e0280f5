"""Several sources read as one, under names that no two videos share."""

import numpy as np
import pytest
from media import flat, names, put_frames, save
from shards import put_shard

from tools.joined import Joined, open_files
from tools.tree import HDF5, FileSource, find_videos


def joined(root, **options):
    return open_files(find_videos(root, also=HDF5), root, **options)


def test_files_come_first_then_what_hdf5_files_hold(tmp_path):
    put_shard(tmp_path / "a.h5", [flat(1, t=3), flat(2, t=5)])
    save(tmp_path / "b.npy", flat(3, t=6))
    put_frames(tmp_path / "c", flat(4, t=2))
    data = joined(tmp_path, notes=["a remark"])
    assert names(data) == ["b", "c", "a_000000", "a_000001"] and data.notes == ["a remark"]
    assert [data.num_frames(i) for i in range(4)] == [6, 2, 3, 5]
    assert all(np.array_equal(data.read(i, 1), flat(seed, t=t)[1:])
               for i, (seed, t) in enumerate(((3, 6), (4, 2), (1, 3), (2, 5))))
    assert len(set(data.paths)) == 4


def test_one_kind_alone_needs_no_joining(tmp_path):
    save(tmp_path / "b.npy", flat())
    assert isinstance(joined(tmp_path), FileSource)


def test_names_that_would_be_alike_are_told_apart(tmp_path):
    put_shard(tmp_path / "a.h5", [flat(1)])
    save(tmp_path / "a_000000.npy", flat(2))
    data = joined(tmp_path)
    assert isinstance(data, Joined) and len(set(names(data))) == 2


def test_labels_of_files_and_of_what_hdf5_files_tell(tmp_path):
    put_shard(tmp_path / "a.h5", [flat(1)], target=[1])
    save(tmp_path / "run/b.npy", flat(2))
    data = joined(tmp_path, label=lambda path: path.parent.name, classes=["walk", "run"])
    assert [data.label(i) for i in range(2)] == [1, 1] and data.classes == ("walk", "run")


def test_a_file_without_a_class_leaves_all_without(tmp_path):
    for name in ("run/a.npy", "b.npy"):
        save(tmp_path / name, flat())
    data = joined(tmp_path, label=lambda path: path.parent.name if path.parent != tmp_path else None)
    assert data.label(0) is None and data.classes == ()


def test_there_is_no_video_beyond_the_last(tmp_path):
    put_shard(tmp_path / "a.h5", [flat(1)])
    save(tmp_path / "b.npy", flat(2))
    with pytest.raises(ValueError, match="has 4 frames"):
        joined(tmp_path).read(1, 0, 5)
