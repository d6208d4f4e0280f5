"""Weights in shards: every process keeps a part of each tensor and borrows the rest for as long as a block computes.

FSDP2 does the work (torch.distributed.fsdp.fully_shard). Where nothing is sharded, every function here does nothing.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

try:
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
except ImportError:  # before torch 2.6
    FSDPModule = DTensor = fully_shard = distribute_tensor = None


def shard(net: nn.Module, device: torch.device) -> None:
    """Split the parameters of a net over all processes, in place; it is then called as before, by all of them.

    The entries of its outermost module lists are gathered one at a time, the rest of it as a whole. Make optimizers
    and averages afterwards.
    """
    if fully_shard is None:
        raise ValueError(f"dist.strategy=fsdp needs torch 2.6 or newer, got {torch.__version__}; use dist.strategy=ddp")
    plain = _without_weights(net)
    for p in net.parameters():
        p.data = p.data.contiguous()  # FSDP2 takes no other layout
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks(net):
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    net.plain = (plain,)  # in a tuple, since a module would become a part of the net


def blocks(net: nn.Module) -> list[nn.Module]:
    """Entries of the outermost module lists: what a trunk is made of."""
    if isinstance(net, nn.ModuleList):
        return list(net)
    return [block for child in net.children() for block in blocks(child)]


def _without_weights(net: nn.Module) -> nn.Module:
    """The same modules and buffers, with parameters that have shapes but no storage."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in net.parameters()}
    return copy.deepcopy(net, empty)


def is_sharded(value: Any) -> bool:
    """Whether a tensor is a shard, or a module holds some."""
    return FSDPModule is not None and isinstance(value, (FSDPModule, DTensor))


def local(value: Tensor) -> Tensor:
    """This process's part of a tensor, of the same storage; of a whole tensor, itself."""
    return value.detach().to_local() if is_sharded(value) else value


def locals_of(values: Iterable[Tensor]) -> list[Tensor]:
    """`local` of each."""
    return [local(value) for value in values]


def placed_like(value: Tensor, own: Tensor) -> Tensor:
    """A tensor that every process has whole, cut as `own` is; a whole `own` leaves it as it is."""
    if not is_sharded(own) or is_sharded(value):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of a state dict, one after the other; all processes call this, and only the first gets those of shards."""
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    whole = {}
    for name, value in state.items():
        if is_sharded(value):
            value = value.detach().full_tensor()
            if not first:
                continue
            value = value.cpu()
        whole[name] = value
    return whole


def whole_copy(net: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A plain module like `net` was before it was sharded, with the weights of a gathered state dict."""
    plain = copy.deepcopy(net.plain[0])
    plain.load_state_dict(state, assign=True)
    return plain.to(next(net.parameters()).device).train(net.training)
