"""Whether all processes hold the same tensors: what averages gradients must never let them drift apart."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tools import dist, fsdp

CHUNK = 1 << 22  # words that are hashed at once
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # 64 bits at once would lose two changed signs


class ReplicasDiffer(RuntimeError):
    """Processes that should hold the same weights do not."""


def check(state: Any, step: int) -> None:
    """Compare every tensor of a state over all processes, which all call this with states of one structure.

    Shards are left out: no process holds the same part as another.

    Raises:
        ReplicasDiffer: in every process, with the names of tensors and processes.
    """
    if dist.world() == 1:
        return
    tensors = {name: value for name, value in named_tensors(state) if not fsdp.is_sharded(value)}
    hashes = torch.stack([tensor_hash(value).to(dist.device()) for value in tensors.values()]) if tensors \
        else torch.zeros(0, dtype=torch.int64)
    told = dist.all_gather_object((list(tensors), [tuple(value.shape) for value in tensors.values()], hashes.tolist()))
    if wrong := different([{name: (shape, value) for name, shape, value in zip(*each)} for each in told]):
        names = [f"{name} (process {', '.join(map(str, ranks[:5]))})" for name, ranks in wrong.items()]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ReplicasDiffer(f"after step {step} the processes hold other numbers than the first one in {'; '.join(names[:3])}"
                             f"{more}; the checkpoint before is good: resume from it, and look for a layer that draws random "
                             "numbers of its own in each process, or for a machine with faulty memory")


def different(told: list[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Names whose values differ from the first process's (or are missing on a side), with the processes where they do."""
    names = dict.fromkeys(name for each in told for name in each)
    ranks = {name: [rank for rank, each in enumerate(told) if each.get(name) != told[0].get(name)] for name in names}
    return {name: where for name, where in ranks.items() if where}


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings and lists, named by their place."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from named_tensors(item, f"{name}.{i}")


@torch.no_grad()
def tensor_hash(value: Tensor) -> Tensor:
    """A 64-bit hash of a tensor's bits, computed where it lies (0-d int64).

    The sum of word times a pseudo-random odd number of its place, modulo 2^64: one changed word always changes it,
    several do but by a chance of about 2^-60.
    """
    value = value.detach().contiguous().reshape(-1)
    if value.is_complex():
        value = torch.view_as_real(value).reshape(-1)
    words = value.view(torch.uint8 if value.dtype == torch.bool else WORDS[value.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=value.device)
    for start in range(0, len(words), CHUNK):
        part = words[start:start + CHUNK].long()
        place = torch.arange(start + 1, start + 1 + len(part), device=value.device)
        mixed = place * 0x1E3779B97F4A7C15                # wraps
        mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
        total += (part * ((mixed ^ (mixed >> 32)) | 1)).sum()
    return total
