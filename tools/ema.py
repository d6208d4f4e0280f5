"""Exponential moving averages of a network's weights, several decays at once."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tools import fsdp


@dataclass(frozen=True)
class EmaConfig:
    decays: tuple[float, ...] = (0.9999,)  # per optimizer step; the first is the one that is sampled from
    warmup: bool = True                    # forget the first weights: at most (1 + n) / (10 + n) at step n
    every: int = 1                         # update each so many optimizer steps

    def __post_init__(self):
        if not self.decays or not all(0 <= d < 1 for d in self.decays):
            raise ValueError(f"ema.decays must be numbers in [0, 1), at least one, got {list(self.decays)}")
        if len(set(self.decays)) < len(self.decays):
            raise ValueError(f"ema.decays must differ, got {list(self.decays)}")
        if self.every < 1:
            raise ValueError(f"ema.every must be at least 1, got {self.every}")


class Ema:
    """Float32 averages of a net's parameters on the net's device; buffers are those of the net itself.

    Of a sharded net (see fsdp.py) they are shards too, and `applied` needs them `gathered` by all processes before.
    """

    def __init__(self, net: nn.Module, cfg: EmaConfig):
        self.net, self.cfg = net, cfg
        self.params = dict(net.named_parameters())  # tied parameters appear once
        self.copies = {d: [p.detach().float().clone() for p in self.params.values()] for d in cfg.decays}
        self.whole: nn.Module | None = None  # in the first process, while gathered

    def decay(self, decay: float, step: int) -> float:
        """Return the decay per optimizer step that is in force at `step` (from 0)."""
        return min(decay, (1 + step) / (10 + step)) if self.cfg.warmup else decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after update number `step` (from 0)."""
        assert net is self.net, "an Ema belongs to the net that it was made for"
        if (step + 1) % self.cfg.every:
            return
        now = [fsdp.local(p.detach()).float() for p in self.params.values()]
        for decay, copies in self.copies.items():
            torch._foreach_lerp_(fsdp.locals_of(copies), now, 1 - self.decay(decay, step) ** self.cfg.every)

    def weights(self, decay: float | None = None) -> dict[str, Tensor]:
        """Return the averaged state dict, which loads into the net (default: of the first decay).

        The tensors are the averages themselves where the net is float32: save or clone them before the next
        update.
        """
        by_param = {id(p): copy for p, copy in zip(self.params.values(), self._copies(decay))}
        return {name: by_param[id(value)].to(value.dtype) if id(value) in by_param else value.detach()
                for name, value in self.net.state_dict(keep_vars=True).items()}

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Put the averages of a sharded net together for a block, in the first process; all processes call this."""
        if not fsdp.is_sharded(self.net):
            yield
            return
        state = fsdp.gathered(self.weights())
        if torch.distributed.get_rank() == 0:
            self.whole = fsdp.whole_copy(self.net, state)
        try:
            yield
        finally:
            self.whole = None

    @contextlib.contextmanager
    def applied(self, net: nn.Module, decay: float | None = None) -> Iterator[nn.Module]:
        """Run a block with the averaged weights in the net that it is given, then put the net's own back, bit for bit."""
        assert net is self.net, "an Ema belongs to the net that it was made for"
        if fsdp.is_sharded(net):
            assert self.whole is not None and decay in (None, self.cfg.decays[0]), "averages of shards must be gathered before"
            yield self.whole
            return
        params = [p.detach() for p in self.params.values()]  # share memory with the parameters
        own = [p.clone() for p in params]
        torch._foreach_copy_(params, self._copies(decay))
        try:
            yield net
        finally:
            torch._foreach_copy_(params, own)

    def state_dict(self) -> dict[str, Any]:
        """Return all averages: decay (as text) -> parameter name -> tensor."""
        return {repr(d): dict(zip(self.params, copies)) for d, copies in self.copies.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the averages of state_dict(), which must be of the same decays and net."""
        want = [repr(d) for d in self.cfg.decays]
        if sorted(state) != sorted(want):
            raise ValueError(f"the checkpoint averages with the decays {', '.join(state)}, the configuration "
                             f"asks for {', '.join(want)}; set ema.decays as before, or start another --id")
        for decay, copies in self.copies.items():
            saved = state[repr(decay)]
            if list(saved) != list(self.params):
                raise ValueError("the averaged weights in the checkpoint are of another network; "
                                 "use the configuration that it was trained with")
            placed = [fsdp.placed_like(saved[name].to(c.device), c) for name, c in zip(self.params, copies)]
            torch._foreach_copy_(fsdp.locals_of(copies), fsdp.locals_of(placed))

    def _copies(self, decay: float | None) -> list[Tensor]:
        decay = self.cfg.decays[0] if decay is None else decay
        if decay not in self.copies:
            raise ValueError(f"there is no average with decay {decay}; "
                             f"ema.decays has {', '.join(map(repr, self.copies))}")
        return self.copies[decay]
