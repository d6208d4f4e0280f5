"""That drifting processes are told, with two processes, is in test_dist.py."""

import pytest
import torch

from tools import replicas
from tools.replicas import different, named_tensors, tensor_hash

VALUES = {"float": torch.randn(3, 5), "half": torch.randn(7).half(), "bytes": torch.randint(0, 256, (9,), dtype=torch.uint8),
          "bool": torch.tensor([True, False, True]), "long": torch.randint(-9, 9, (4,)), "double": torch.randn(2, 2).double(),
          "complex": torch.randn(3, dtype=torch.complex64), "scalar": torch.tensor(2.5)}


@pytest.mark.parametrize("kind", VALUES)
def test_any_changed_bit_changes_the_hash(kind):
    value = VALUES[kind]
    raw = value.clone().reshape(-1)
    words = (torch.view_as_real(raw).reshape(-1) if raw.is_complex() else raw).view(torch.uint8)
    hashes = {int(tensor_hash(raw))}
    bits = [1] if kind == "bool" else [1 << i for i in range(8)]
    for i in range(len(words)):
        for bit in bits:
            words[i] ^= bit
            hashes.add(int(tensor_hash(raw)))
            words[i] ^= bit
    assert len(hashes) == 1 + len(words) * len(bits) and int(tensor_hash(raw)) == int(tensor_hash(value))


def test_places_count():
    x = torch.randn(100)
    assert tensor_hash(x) != tensor_hash(x.flip(0)) and tensor_hash(torch.zeros(3, dtype=torch.int32)) == 0
    assert len({int(tensor_hash(torch.eye(64)[i])) for i in range(64)}) == 64


def test_layout_and_chunks_do_not_count(monkeypatch):
    x = torch.randn(2, 3, 4, 5)
    whole = tensor_hash(x)
    assert tensor_hash(x.contiguous(memory_format=torch.channels_last)) == whole
    monkeypatch.setattr(replicas, "CHUNK", 7)
    assert tensor_hash(x) == whole


def test_small_changes_of_many_weights_do_not_cancel():
    x = torch.randn(1000)
    hashes = set()
    for seed in range(200):  # units in the last place, up and down, as rounding makes them
        step = torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
        hashes.add(int(tensor_hash((x.view(torch.int32) + step).view(torch.float32))))
    assert len(hashes) == 200


def test_tensors_are_named_by_their_place():
    state = {"net": {"a": torch.zeros(1)}, "list": [1, (torch.ones(2),)], 3: torch.ones(1), "plain": "text"}
    assert [name for name, _ in named_tensors(state)] == ["net.a", "list.1.0", "3"]


def test_what_differs_is_told_with_the_processes():
    assert different([{"a": 1, "b": 2}] * 4) == {}
    assert different([{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "b": 2}, {"a": 0, "b": 3}]) == {"a": [3], "b": [1, 3]}
    assert different([{"a": 1}, {"a": 1, "b": 2}]) == {"b": [1]}  # missing on a side
    assert different([{"a": 1, "b": 2}, {"a": 1}]) == {"b": [1]}


def test_one_process_has_nothing_to_compare():
    replicas.check({"net": torch.full((2,), float("nan"))}, 3)
