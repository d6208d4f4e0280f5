"""The maps that LPIPS compares, on a CPU: AlexNet or VGG16 on many frames at once, each convolution by PyTorch's own or by
`evals.convolve`, whichever is faster.

Maps are h w n c, frames beside each other: what the products at frequencies read and write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from evals.convolve import CyclicConv, cheapest, direct_operations

_BLOCK = 1 << 15  # pixels of the frames that go through the first layers at once, so that maps stay in the cache
_GAIN = 1.5       # times fewer operations, from which the products at frequencies are faster

Step = Callable[[Tensor], Tensor]


class Trunk:
    """A network for frames of one size.

    Args:
        slices: layers up to each level; the very first is a convolution.
        size: h, w of frames.
        shift, scale: of the colours; the network sees (pixel - shift) / scale of pixels in [-1, 1].
    """

    def __init__(self, slices: Sequence[nn.Sequential], size: Sequence[int], shift: Tensor, scale: Tensor):
        layers = [(layer, level) for level, part in enumerate(slices) for layer in part]
        (first, _), *rest = layers
        # The network's zeros around a frame are the grey `centre`; with black at -128 the numbers stay small.
        centre = (127.5 * (1 + shift.double())).flatten() - 128
        weight = first.weight.double() / (127.5 * scale.double()).view(1, -1, 1, 1)
        bias = first.bias.double() - weight.sum((2, 3)) @ centre
        self._padding = first.padding[0]
        size = [s + 2 * self._padding for s in size]
        self._grey = centre.float().expand(1, *size, -1).contiguous()
        step, size = _library(weight.float(), bias.float(), size, first.stride[0], 0)
        steps = [step]
        for layer, _ in rest:
            step, size = _step(layer, size)
            steps.append(step)
        last = {level: i for i, (_, level) in enumerate(layers)}
        levels = [level if last[level] == i else None for i, (_, level) in enumerate(layers)]
        cut = next((i for i, step in enumerate(steps) if isinstance(step, CyclicConv)), len(steps))
        plan = list(zip(steps, levels))
        self._first, self._then = plan[:cut], plan[cut:]

    def __call__(self, frames: Tensor, video: int) -> Iterator[tuple[int, slice, Tensor]]:
        """Yield level, which frames, and their maps, h' w' n d.

        Args:
            frames: uint8 n h w c.
            video: frames of a video, the first of which is the first of a piece.
        """
        count = min(video, -(-video * frames[0, ..., 0].numel() // _BLOCK))
        edges = [start + round(i * video / count) for start in range(0, len(frames), video) for i in range(count)]
        halfway = []
        for start, stop in pairwise([*edges, len(frames)]):
            x = yield from _run(self._first, self._pixels(frames[start:stop]), slice(start, stop))
            halfway.append(x)
        if self._then:
            yield from _run(self._then, torch.cat(halfway, dim=2), slice(0, len(frames)))

    def _pixels(self, frames: Tensor) -> Tensor:  # uint8 n h w c -> h w n 3 with a border
        (_, h, w, _), p = frames.shape, self._padding
        x = self._grey.new_empty(len(frames), *self._grey.shape[1:]).copy_(self._grey)
        x[:, p:p + h, p:p + w] = frames.bitwise_xor(128).view(torch.int8)  # u - 128, in eight bits
        return rearrange(x, "n h w c -> h w n c")


def _run(plan: Sequence[tuple[Step, int | None]], x: Tensor, frames: slice) -> Iterator[tuple[int, slice, Tensor]]:
    for step, level in plan:
        x = step(x)
        if level is not None:
            yield level, frames, x
    return x


def _step(layer: nn.Module, size: list[int]) -> tuple[Step, list[int]]:
    """What a layer does to maps of this size, and the size that they have then."""
    if isinstance(layer, nn.ReLU):
        return _rectify, size
    if isinstance(layer, nn.MaxPool2d):
        return _pool(layer.kernel_size, layer.stride, size)
    padding, stride = layer.padding[0], layer.stride[0]
    if stride == 1:
        operations = cheapest(layer.weight.shape, size, padding)[1]
        if _GAIN * operations < direct_operations(layer.weight.shape, size, padding):
            conv = CyclicConv(layer.weight, layer.bias, size, padding=padding)
            return conv, conv.outputs
    return _library(layer.weight, layer.bias, size, stride, padding)


def _rectify(x: Tensor) -> Tensor:
    if x.is_contiguous():
        return x.relu_()
    return torch.clamp(x, min=0, out=torch.empty_like(x, memory_format=torch.contiguous_format))  # from the library's n h w c


def _library(weight: Tensor, bias: Tensor, size: list[int], stride: int, padding: int) -> tuple[Step, list[int]]:
    weight = weight.contiguous(memory_format=torch.channels_last)

    def step(x: Tensor) -> Tensor:
        x = rearrange(x, "h w n c -> n c h w").contiguous(memory_format=torch.channels_last)
        return rearrange(F.conv2d(x, weight, bias, stride, padding), "n c h w -> h w n c")
    return step, [(s + 2 * padding - k) // stride + 1 for s, k in zip(size, weight.shape[2:])]


def _pool(side: int, stride: int, size: list[int]) -> tuple[Step, list[int]]:
    outputs = [(s - side) // stride + 1 for s in size]

    def step(x: Tensor) -> Tensor:
        for dim in (1, 0):
            first, second, *rest = (x.narrow(dim, i, stride * (outputs[dim] - 1) + 1).unfold(dim, 1, stride)[..., 0]
                                    for i in range(side))
            x = torch.maximum(first, second)
            for other in rest:
                torch.maximum(x, other, out=x)
        return x
    return step, outputs
