"""Processes and devices: one device rule, and calls that are right in one process and in many."""

import contextlib
import datetime
import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Number = TypeVar("Number", Tensor, float)
STRATEGIES = ("ddp",)


@dataclass(frozen=True)
class DistConfig:
    strategy: str = "ddp"  # every process holds the whole model

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(f'dist.strategy must be {" or ".join(STRATEGIES)}, got "{self.strategy}"')


def start() -> torch.device:
    """Join the processes that torchrun started (if any) and return this process's device."""
    # Numbers below 1e-38 count as zero: a CPU computes with them up to a hundred times slower, and a trained network's
    # saturated units are full of them. Threads inherit this, so it comes before the first of them.
    torch.set_flush_denormal(True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _on():
        local, here = _local_rank(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if torch.cuda.is_available():
            if here > torch.cuda.device_count():
                raise ValueError(f"{here} processes on a machine with {torch.cuda.device_count()} GPUs; "
                                 f"use torchrun --nproc_per_node={torch.cuda.device_count()}")
            torch.cuda.set_device(local)
        # validation and sampling run on one process while the others wait
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo",
                                             timeout=datetime.timedelta(hours=4))
    return device()


def stop() -> None:
    """Leave the process group, if there is one."""
    if _on():
        torch.distributed.destroy_process_group()


def _on() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    """Return the number of this process (0 if alone)."""
    return torch.distributed.get_rank() if _on() else 0


def world() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if _on() else 1


def is_main() -> bool:
    """Tell whether this process is the one that writes."""
    return rank() == 0


def device() -> torch.device:
    """Return the device of this process: its GPU, or the CPU."""
    return torch.device("cuda", _local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def barrier() -> None:
    """Wait until every process is here."""
    if _on():
        torch.distributed.barrier(device_ids=[_local_rank()] if torch.cuda.is_available() else None)


def all_reduce_sum(value: Number) -> Number:
    """Return the sum of a tensor (on its device) or of a number over all processes."""
    if not _on():
        return value
    if not isinstance(value, Tensor):
        return all_reduce_sum(torch.tensor(value, dtype=torch.float64)).item()
    total = value.detach().to(device(), copy=True)
    torch.distributed.all_reduce(total)
    return total.to(value.device)


def broadcast_object(value: Any) -> Any:
    """Return the first process's value (any picklable object) in every process."""
    if not _on():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=device())
    return box[0]


def wrap(net: nn.Module) -> nn.Module:
    """Return the module to call forward on: the net itself, or its DDP wrapper, which averages gradients.

    So for the gradient of (a sum over the global batch) / total, each process calls backward on its own
    sum times world() / total.
    """
    if world() == 1:
        return net
    # Buffers are not broadcast in forward: an adversarial step calls forward twice before backward, and a
    # buffer that changes in between breaks its graph.
    return DistributedDataParallel(net, device_ids=[_local_rank()] if torch.cuda.is_available() else None,
                                   broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def sync(ddp: nn.Module, on: bool):
    """Run forward and backward, exchanging gradients only if `on`: for the last micro-batch of a step."""
    waits = contextlib.nullcontext() if on or not isinstance(ddp, DistributedDataParallel) else ddp.no_sync()
    with waits:
        yield
