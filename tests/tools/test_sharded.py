"""Folders that several processes write are in test_dist.py."""

import os
import pickle

import pytest
import torch

from tools import checkpoint, sharded
from tools.replicas import named_tensors

TENSORS = {"net.weight": torch.randn(4, 3), "net.bias": torch.randn(4).bfloat16(), "count": torch.tensor(7),
           "empty": torch.zeros(0, 2), "image": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)}


@pytest.fixture
def folder(tmp_path):
    sharded.write(tmp_path / "x", TENSORS)
    return tmp_path / "x"


def test_tensors_come_back(folder):
    torch.testing.assert_close(sharded.read(folder, {}), TENSORS, rtol=0, atol=0)


def test_targets_are_filled_where_they_fit(folder):
    targets = {"net.weight": torch.zeros(4, 3), "net.bias": torch.zeros(5).bfloat16(), "more": torch.zeros(2)}
    read = sharded.read(folder, targets)
    assert read["net.weight"].data_ptr() == targets["net.weight"].data_ptr()
    torch.testing.assert_close(read, TENSORS, rtol=0, atol=0)
    assert not targets["net.bias"].any() and "more" not in read


def test_a_folder_may_be_moved(folder, tmp_path):
    torch.testing.assert_close(sharded.read(folder.rename(tmp_path / "y"), {}), TENSORS, rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps(eval), pickle.dumps([1]), b"noise", b""])
def test_an_index_that_is_none_runs_no_code(folder, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (folder / sharded.INDEX).write_bytes(content)
    with pytest.raises(ValueError, match="refused") as error:
        sharded.read(folder, {})
    assert str(folder) in str(error.value) and not (tmp_path / "made").exists()


def test_torn_or_missing_shards_are_told(folder):
    part = next(folder.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        sharded.read(folder, {})
    part.unlink()
    with pytest.raises(ValueError, match="damaged"):
        sharded.read(folder, {})


def test_a_folder_counts_when_its_index_is_there(folder):
    assert sharded.is_folder(folder)
    (folder / sharded.INDEX).unlink()
    assert not sharded.is_folder(folder)
    assert not sharded.is_folder(folder / "none")


def write_checkpoint(path, payload, monkeypatch):
    """As several processes do it, where some tensors are shards."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.fsdp, "is_sharded", lambda value: True)
        checkpoint.save_together(path, payload)


PAYLOAD = {"step": 4, "stage": {"net": {"w": TENSORS["net.weight"]}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
                                "list": [1, (torch.ones(2), "text")], "none": None}}


def test_a_sharded_checkpoint_reads_as_what_was_saved(tmp_path, monkeypatch):
    path = checkpoint.step_path(tmp_path, 4)
    write_checkpoint(path, PAYLOAD, monkeypatch)
    assert path.is_dir() and checkpoint.latest(tmp_path) == path and not list(tmp_path.glob("*.tmp"))
    loaded = checkpoint.load(path)
    assert loaded.pop("format") == checkpoint.FORMAT
    torch.testing.assert_close(dict(named_tensors(loaded)), dict(named_tensors(PAYLOAD)), rtol=0, atol=0)
    assert _same_but_tensors(loaded, PAYLOAD)


def _same_but_tensors(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_but_tensors(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same_but_tensors, a, b))
    return a == b


def test_a_tensor_of_two_names_is_written_once(tmp_path, monkeypatch):
    average = torch.randn(1000)
    write_checkpoint(tmp_path / "x", {"ema": {"w": average}, "ema_weights": {"net.w": average}}, monkeypatch)
    assert sum(part.stat().st_size for part in (tmp_path / "x").glob("*.distcp")) < 2 * 4000
    loaded = checkpoint.load(tmp_path / "x")
    assert torch.equal(loaded["ema"]["w"], average) and torch.equal(loaded["ema_weights"]["net.w"], average)


def test_a_checkpoint_replaces_the_one_of_its_name_and_old_ones_go(tmp_path, monkeypatch):
    for step, kind in ((1, checkpoint.save), (2, write_checkpoint), (3, checkpoint.save), (3, write_checkpoint),
                       (4, write_checkpoint), (4, write_checkpoint)):
        kind(checkpoint.step_path(tmp_path, step), PAYLOAD, *[monkeypatch] * (kind is write_checkpoint))
    (tmp_path / "step-00000005.pt.tmp").mkdir()
    assert [step for step, _ in checkpoint.steps(tmp_path)] == [1, 2, 3, 4]
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003.pt", "step-00000004.pt"]
    assert checkpoint.load(tmp_path / "step-00000003.pt")["step"] == 4


def test_a_folder_has_a_hash(tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "x", PAYLOAD, monkeypatch)
    before = checkpoint.file_hash(tmp_path / "x")
    assert checkpoint.file_hash(tmp_path / "x") == before
    part = next((tmp_path / "x").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert checkpoint.file_hash(tmp_path / "x") != before
