"""Randomness as a function of (seed, keys), never of process, worker, batch size or earlier draws."""

from __future__ import annotations

import contextlib
import hashlib
import operator
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

Key = int | str


def seed_of(seed: int, *keys: Key) -> int:
    """Hash a seed and a path of keys into 63 bits, the same on every machine and Python version."""
    path = (f"s{len(k)}:{k}" if isinstance(k, str) else f"i{operator.index(k)}" for k in (seed, *keys))
    text = "/".join(path)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *keys: Key) -> torch.Generator:
    """Return a fresh CPU generator for the stream (seed, *keys)."""
    return torch.Generator().manual_seed(seed_of(seed, *keys))


def numpy_rng(seed: int, *keys: Key) -> np.random.Generator:
    """Return a fresh numpy generator for the stream (seed, *keys)."""
    return np.random.Generator(np.random.PCG64(seed_of(seed, *keys)))


# numpy draws, since torch's CPU generator keeps only the low 32 bits of a seed: among a million samples
# a hundred pairs would share their noise.

def randn(shape: Sequence[int], seed: int, *keys: Key) -> Tensor:
    """Draw a standard normal float32 CPU tensor of `shape` from the stream (seed, *keys)."""
    drawn = numpy_rng(seed, *keys).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(np.asarray(drawn))


def rand(shape: Sequence[int], seed: int, *keys: Key) -> Tensor:
    """Draw a float32 CPU tensor of `shape`, uniform in [0, 1), from the stream (seed, *keys)."""
    drawn = numpy_rng(seed, *keys).random(tuple(shape), dtype=np.float32)
    return torch.from_numpy(np.asarray(drawn))


def batch_randn(shape: Sequence[int], indices: Sequence[int] | Tensor, seed: int, *keys: Key) -> Tensor:
    """Draw one normal tensor for each sample, so that a sample keeps its noise in any batch.

    Args:
        shape: shape of one sample.
        indices: the global index of each sample, which ends the key.

    Returns:
        len(indices) *shape, float32 on the CPU.
    """
    return _each(randn, shape, indices, seed, *keys)


def batch_rand(shape: Sequence[int], indices: Sequence[int] | Tensor, seed: int, *keys: Key) -> Tensor:
    """Draw one uniform [0, 1) tensor for each sample; see batch_randn."""
    return _each(rand, shape, indices, seed, *keys)


def _each(draw, shape, indices, seed, *keys) -> Tensor:
    samples = [draw(shape, seed, *keys, int(i)) for i in indices]
    return torch.stack(samples) if samples else torch.empty(0, *shape)


def seed_torch(seed: int, *keys: Key) -> None:
    """Seed the global generators of torch (dropout has no other) for the stream (seed, *keys)."""
    value = seed_of(seed, *keys)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)


@contextlib.contextmanager
def fork(seed: int, *keys: Key) -> Iterator[None]:
    """Run a block with torch's global generators seeded for (seed, *keys), and restore them after."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_torch(seed, *keys)
        yield
