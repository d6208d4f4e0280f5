"""One file of encoded windows: each clip once, and which of them every window and mask needs."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoencoder.codec import Codec
from latent_diffusion.condition import Condition
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.example import ExampleMaker
from latent_diffusion.latent_cache import write_tensors
from tools.rng import numpy_rng

STREAM = "encode"  # of the masks; a run's own are of "train"


class Ledger:
    """Stands in for the codec while examples are made. Each clip that it has not met gets the next row of a pool; the number
    of its row, from 1 on, comes back in the place of its latent. So what is alike is encoded and kept once.

    Args:
        codec: encodes the pool.
        batch_size: clips at once.
    """

    def __init__(self, codec: Codec, batch_size: int):
        self.codec, self.batch_size = codec, batch_size
        self.frames, self.channels, self.shape = codec.frames, codec.channels, codec.shape
        self._numbers: dict[tuple[int, ...], int] = {}
        self._waiting: list[Tensor] = []
        self._made: list[Tensor] = []
        self._factors: Tensor | None = None

    def encode(self, clip: Tensor) -> Tensor:
        """Note clips b c t h w -> numbers b 1 1."""
        numbers = []
        for one in clip:
            key = self._key(one)
            if key not in self._numbers:
                self._numbers[key] = len(self._numbers) + 1
                self._waiting.append(one.clone())
            numbers.append(self._numbers[key])
            if len(self._waiting) == self.batch_size:
                self._flush()
        return torch.tensor(numbers, dtype=torch.float32, device=clip.device)[:, None, None]

    def latents(self) -> Tensor:
        """The pool, rows c n, float32 on the CPU."""
        self._flush()
        return torch.cat([torch.empty(0, self.channels, self.shape.total), *self._made])

    def _flush(self) -> None:
        if self._waiting:
            self._made.append(self.codec.encode(torch.stack(self._waiting)).float().cpu())
            self._waiting = []

    def _key(self, clip: Tensor) -> tuple[int, ...]:
        """128 bits of the pixels: two sums of their bits with random odd factors, modulo 2^64."""
        if self._factors is None:
            drawn = numpy_rng(0, "ledger").integers(-2**63, 2**63 - 1, (2, clip.numel()), dtype=np.int64)
            self._factors = (torch.from_numpy(drawn) | 1).to(clip.device)
        bits = clip.contiguous().flatten().view(torch.int32).long()
        return tuple((bits * self._factors).sum(1).tolist())


class Shard:
    """What a shard will hold, entry by entry. An entry is a window, as it is or flipped.

    Args:
        cfg: settings of the training.
        codec, condition: make the examples.
        windows: their numbers.
        draws: masks of each entry.
        flips: entries of each window, 2 with the flipped one.
        batch_size: clips that are encoded at once.
    """

    def __init__(self, cfg: DiffusionStageConfig, codec: Codec, condition: Condition, windows: range, *, draws: int, flips: int,
                 batch_size: int):
        self.ledger = Ledger(codec, batch_size)
        self.maker = ExampleMaker(self.ledger, condition, cfg.mask, cfg.train)
        self.windows, self.draws, self.flips = windows, draws, flips
        self.tensors = {"ok": torch.zeros(len(windows) * flips, dtype=torch.bool)}
        self.left_out: list[str] = []

    def add(self, window: int, frames: Tensor) -> None:
        """Take in neighbouring windows (uint8 w t h w c), of which the first has the number `window`.

        Draw r of entry e is the sample e * draws + r of its stream.
        """
        if self.flips == 2:
            frames = torch.stack([frames, frames.flip(3)], dim=1).flatten(0, 1)
        entry, count = window * self.flips, len(frames)
        index = torch.arange(entry * self.draws, (entry + count) * self.draws)
        example = self.maker.make(frames.repeat_interleave(self.draws, dim=0), index, STREAM)
        context = example.context
        fields = {"target": _numbers(example.latent), "seen": _numbers(context.latents), "known": context.known}
        if example.keep is None:
            fields["target"] = fields["target"][:, None]  # one slot
        else:
            fields |= {"start": context.start.int(), "there": context.there}
        first = entry - self.windows.start * self.flips
        self.tensors["ok"][first:first + count] = True
        for name, value in fields.items():
            value = value.unflatten(0, (count, self.draws)).cpu()
            if name not in self.tensors:
                self.tensors[name] = torch.zeros(len(self.tensors["ok"]), *value.shape[1:], dtype=value.dtype)
            self.tensors[name][first:first + count] = value

    def save(self, path: Path, dtype: torch.dtype) -> None:
        """Write it, with the error that a shorter type makes: sum of its squares, of the latents' squares, and the largest."""
        latents = self.ledger.latents()
        kept = latents.to(dtype)
        error = kept.double() - latents.double()
        if not bool(error.isfinite().all()):
            raise ValueError(f"a latent of {float(latents.abs().max()):.3g} does not fit {str(dtype).removeprefix('torch.')}; "
                             "give --dtype float32")
        largest = error.abs().amax() if len(error) else error.sum()
        measured = torch.stack([error.square().sum(), latents.double().square().sum(), largest])
        write_tensors(path, {**self.tensors, "latents": kept, "error": measured}, {"left_out": json.dumps(self.left_out)})


def _numbers(latents: Tensor) -> Tensor:
    """Row numbers out of the place of latents: ... c n -> ..."""
    return latents[..., 0, 0].int()
