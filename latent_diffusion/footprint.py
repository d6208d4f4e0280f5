"""What training one of the two networks takes: memory, operations and traffic, counted from the real code (see dry_run.py)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoencoder.model import AutoencoderConfig, build_autoencoder
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.unet import UNetConfig
from tools import dry_run, fsdp
from tools.speed import count_flops

FLOAT = 4  # bytes; weights, gradients, moments and averages are float32
MOMENTS = 2  # of AdamW


class Footprint(NamedTuple):
    """Of one network and one micro-batch of `clips`. Bytes are those of the process where nothing is shared."""
    parameters: int
    block: int         # parameters of the largest block, that sharded training gathers at a time
    rest: int          # parameters outside of all blocks, gathered for the whole of a step
    frozen: int        # parameters that are not trained: the autoencoder beside the U-Net
    clips: int
    forward_flops: int  # of one clip; two for a multiply-add
    step_flops: int     # of one clip: forward and backward, and what is computed again
    activations: int    # bytes at the peak, gradients of parameters left out
    alone: int          # bytes at the peak of one process, with the gradients, which come as the activations go


def autoencoder_footprint(config: AutoencoderConfig, *, clips: int = 1, grad_checkpoint: bool = False) -> Footprint:
    """One update of the first stage, without perceptual network and critics."""
    def make() -> nn.Module:
        net = build_autoencoder(config)
        if grad_checkpoint:
            net.grad_checkpoint = True
        return net

    with dry_run.hollow(make) as net:
        return _count(net, lambda n: net(torch.empty(n, *config.clip_shape)).clip, clips)


def unet_footprint(config: UNetConfig, condition: Mapping[str, Any], autoencoder: AutoencoderConfig, *,
                   clips: int = 1) -> Footprint:
    """One update of the second stage on latents; the frozen autoencoder lies beside."""
    with torch.device("meta"):
        codec = build_autoencoder(autoencoder)
    shape, channels, frames = codec.shape, autoencoder.latent_channels, autoencoder.frames

    def make() -> LatentDenoiser:
        return LatentDenoiser(config, condition, shape, channels, frames)

    with dry_run.hollow(make) as net:
        if net.condition.observes:
            raise ValueError(f"condition.name={condition['name']} decides by what is known, which cannot be counted without "
                             "numbers; take concat, spade or implicit, or measure with --exp bench --only train_unet")
        count = _count(net, lambda n: net(torch.empty(n, channels, shape.total), torch.empty(n)), clips)
    return count._replace(frozen=size_of(codec))


def _count(net: nn.Module, forward: Callable[[int], Tensor], clips: int) -> Footprint:
    def step() -> None:
        forward(clips).square().mean().backward()

    alone = dry_run.peak(step)        # this makes the gradients, into which the next ones go
    activations = dry_run.peak(step)
    there, out = count_flops(lambda: forward(1))  # apart: the counter keeps what checkpointing lets go
    back, _ = count_flops(out.square().mean().backward)
    blocks = [size_of(block) for block in fsdp.blocks(net)]
    total = size_of(net)
    return Footprint(total, max(blocks, default=0), total - sum(blocks), 0, clips, there, there + back, activations, alone)


def size_of(net: nn.Module) -> int:
    """Parameters of a net."""
    return sum(p.numel() for p in net.parameters())


class Memory(NamedTuple):
    """Bytes of one process at the peak of an update."""
    weights: float
    gradients: float
    moments: float
    averages: float
    frozen: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return sum(self)

    @property
    def state(self) -> float:
        """All that does not depend on the number of clips."""
        return self.total - self.activations


def memory(count: Footprint, strategy: str = "ddp", processes: int = 1, *, averages: int = 1,
           accumulate: bool = False) -> Memory:
    """What a process holds.

    Args:
        averages: how many of the weights are kept (ema.decays).
        accumulate: several micro-batches make an update: sharded training then sums whole gradients until the last.
    """
    whole = FLOAT * count.parameters
    if strategy == "ddp" or processes == 1:
        return Memory(whole, whole, MOMENTS * whole, averages * whole, FLOAT * count.frozen, 0, count.activations)
    share = whole / processes
    # two blocks are there at once, the next one being fetched, and the gradient of one on its way
    gathered = FLOAT * (count.rest + 3 * count.block) + (whole if accumulate else 0)
    return Memory(share, share, MOMENTS * share, averages * share, FLOAT * count.frozen, gathered, count.activations)


def traffic(count: Footprint, strategy: str, processes: int, *, micro_batches: int = 1) -> float:
    """Bytes that a process sends (and receives) in an update, by rings.

    DDP sums the gradients once (a ring passes them twice). FSDP gathers blocks for the forward and for the backward pass
    of every micro-batch, and the rest of the net once for both; it sums and scatters the gradients once.
    """
    whole, ring = FLOAT * count.parameters, (processes - 1) / processes
    if strategy == "ddp":
        return 2 * ring * whole
    gathered = FLOAT * (2 * (count.parameters - count.rest) + count.rest)
    return ring * (micro_batches * gathered + whole)
