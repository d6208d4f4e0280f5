"""Processes and devices: one device rule, and calls that are right in one process and in many."""

import contextlib
import datetime
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tools import fsdp
from tools.launch import Launch
from tools.memory import keep_freed_memory

Number = TypeVar("Number", Tensor, float)
STRATEGIES = ("ddp", "fsdp")
BACKENDS = ("auto", "gloo", "nccl")


@dataclass(frozen=True)
class DistConfig:
    strategy: str = "ddp"  # ddp: every process holds the whole model; fsdp: a part of it, for what does not fit
    backend: str = "auto"  # gloo | nccl; auto is nccl on GPUs, gloo on CPUs

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(f'dist.strategy must be {" or ".join(STRATEGIES)}, got "{self.strategy}"')
        if self.backend not in BACKENDS:
            raise ValueError(f'dist.backend must be {", ".join(BACKENDS)}, got "{self.backend}"')


def launched() -> bool:
    """Whether this process is one of several."""
    return Launch.read().world > 1


def start(cfg: DistConfig | None = None) -> torch.device:
    """Join the processes that torchrun, mpirun or srun started (if any) and return this process's device."""
    # Numbers below 1e-38 count as zero: a CPU computes with them up to a hundred times slower, and a trained network's
    # saturated units are full of them. Threads inherit this, so it comes before the first of them.
    torch.set_flush_denormal(True)
    keep_freed_memory()
    launch, backend = Launch.read(), cfg.backend if cfg else "auto"
    if launch.world > 1 and not _on():
        if backend == "nccl" and not torch.cuda.is_available():
            raise ValueError("dist.backend=nccl needs GPUs, and there are none here; leave it at auto, or set gloo")
        if torch.cuda.is_available():
            if launch.local_world > torch.cuda.device_count():
                gpus = torch.cuda.device_count()
                raise ValueError(f"{launch.local_world} processes on a machine with {gpus} GPUs; "
                                 f"start {gpus} on it (torchrun --nproc_per_node={gpus})")
            torch.cuda.set_device(launch.local_rank)
        if backend == "auto":
            backend = "nccl" if torch.cuda.is_available() else "gloo"
        where = {"init_method": launch.address, "rank": launch.rank, "world_size": launch.world} if launch.address else {}
        # validation and sampling run on one process while the others wait
        torch.distributed.init_process_group(backend, timeout=datetime.timedelta(hours=4), **where)
    return device()


def stop() -> None:
    """Leave the process group, if there is one."""
    if _on():
        torch.distributed.destroy_process_group()


def _on() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _local_rank() -> int:
    return Launch.read().local_rank


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


def all_gather_object(value: Any) -> list[Any]:
    """Return the values of all processes (any picklable objects), by their ranks."""
    if not _on():
        return [value]
    values: list[Any] = [None] * world()
    torch.distributed.all_gather_object(values, value)
    return values


def wrap(net: nn.Module, cfg: DistConfig | None = None) -> nn.Module:
    """Return the module to call forward on: the net itself, or its DDP wrapper, which averages gradients.

    With dist.strategy=fsdp it is the net itself, sharded in place (see fsdp.py), which averages them too. So for the
    gradient of (a sum over the global batch) / total, each process calls backward on its own sum times world() / total.
    """
    if world() == 1:
        return net
    if cfg and cfg.strategy == "fsdp":
        fsdp.shard(net, device())
        return net
    # Buffers are not broadcast in forward: an adversarial step calls forward twice before backward, and a
    # buffer that changes in between breaks its graph.
    return DistributedDataParallel(net, device_ids=[_local_rank()] if torch.cuda.is_available() else None,
                                   broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def sync(ddp: nn.Module, on: bool):
    """Run forward and backward, exchanging gradients only if `on`: for the last micro-batch of a step."""
    if fsdp.is_sharded(ddp):
        ddp.set_requires_gradient_sync(on)
    waits = contextlib.nullcontext() if on or not isinstance(ddp, DistributedDataParallel) else ddp.no_sync()
    with waits:
        yield
