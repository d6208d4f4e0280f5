"""The planes of a latent as batches of pictures (sheets), and the layers that all of the U-Net's blocks are made of."""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from autoencoder.planes import Planes, PlaneShape, pack, unpack
from latent_diffusion import winograd

FEW = 48  # rows up to which a product is faster with the weights on the left


def wide(x: Tensor) -> Tensor:
    """At least float32, for what autocast must not narrow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Norm(nn.GroupNorm):
    """Group norm in float32 whatever autocast says.

    `groups` of them, or gcd(groups, channels) if that does not divide. Left open (0), it is 32 as in PVDM, but
    below 64 channels a group has 8 or more: one of a single channel would erase every plane's mean.
    """

    def __init__(self, channels: int, groups: int = 0, affine: bool = True):
        groups = groups or (32 if channels >= 64 else math.gcd(32, channels // 8 or 1))
        super().__init__(math.gcd(groups, channels), channels, eps=1e-5, affine=affine)

    def forward(self, x: Tensor) -> Tensor:  # b c ... -> wide, same shape
        x = wide(x)
        if not self.affine:
            return F.group_norm(x, self.num_groups, eps=self.eps)
        return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


# Plain views from here on, not einops: torch.compile traces them in seconds, einops in minutes.
Sheets = list[Tensor]           # each (b k) c h w: the k planes of one size, those of a sample side by side
Sizes = list[tuple[int, int]]   # the grid of each sheet


def equal_planes(shape: PlaneShape) -> list[list[int]]:
    """Indices of the planes hw, tw, th, those of equal size together, to be one batch."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, size in enumerate([(shape.h, shape.w), (shape.t, shape.w), (shape.t, shape.h)]):
        groups.setdefault(size, []).append(i)
    return list(groups.values())


def per_plane(value: Tensor, sheet: Tensor) -> Tensor:
    """A value of each sample for each of its planes in a sheet: b c -> (b k) c 1 1."""
    b, c = value.shape
    return value[:, None].expand(b, len(sheet) // b, c).reshape(-1, c, 1, 1)


def as_tokens(sheet: Tensor, batch: int) -> Tensor:
    """The positions of a sheet as sequences: (b k) c h w -> b (k h w) c; a view of a channels-last sheet."""
    return sheet.permute(0, 2, 3, 1).reshape(batch, -1, sheet.shape[1])


def as_sheet(tokens: Tensor, like: Tensor) -> Tensor:
    """Inverse of as_tokens, channels-last."""
    return tokens.reshape(-1, *like.shape[-2:], tokens.shape[-1]).permute(0, 3, 1, 2)


def convolve(conv: nn.Conv2d, sheets: Sheets) -> Sheets:
    """A convolution (1x1, or 3x3 with padding) of every sheet.

    A CPU computes those of many positions by minimal filtering (winograd.py). On small grids with many channels nearly all
    of the time goes into reading weights: it then reads them once for all sheets, in the order in which they lie, by a matrix
    product over the positions' neighbourhoods.
    """
    sizes = tuple((x.shape[0], *x.shape[2:]) for x in sheets)
    rows = sum(map(math.prod, sizes))
    plan = _plan(conv, sheets[0], sizes)
    if not plan.tile and (sheets[0].device.type != "cpu" or rows >= conv.in_channels or torch.compiler.is_compiling()):
        return [conv(x) for x in sheets]
    tokens = [as_tokens(x, 1)[0] for x in sheets]
    if conv.padding[0]:
        tokens.append(tokens[0].new_zeros(1, conv.in_channels))  # all that lies outside
    tokens = torch.cat(tokens)
    if plan.tile:
        kept = winograd.kept(conv, plan.tile) if plan.keep else None
        out = winograd.Convolution.apply(tokens, conv.weight, conv.bias, plan.tile, sizes, kept)
    else:
        if conv.padding[0]:
            tokens = F.embedding(torch.tensor(_neighbours(conv.padding[0], *sizes)), tokens).flatten(1)  # positions (k k c)
        out = few_rows(tokens, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)
    return [as_sheet(part, x) for part, x in zip(out.split([math.prod(size) for size in sizes]), sheets)]


def _plan(conv: nn.Conv2d, x: Tensor, sizes: tuple[winograd.Size, ...]) -> winograd.Plan:
    """How a convolution is computed fastest.

    Other devices and compilers have their own ways, and who watches operations (a counter, or tensors without numbers) is
    shown the plain ones.
    """
    if (conv.kernel_size != (3, 3) or x.device.type != "cpu" or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu") or x.dtype not in (torch.float32, torch.float64)
            or _get_current_dispatch_mode() is not None):
        return winograd.Plan()
    frozen = not conv.weight.requires_grad and not conv.weight.is_inference()
    return winograd.cheapest(sizes, conv.in_channels, conv.out_channels, frozen=frozen)


@lru_cache(maxsize=256)
def _neighbours(reach: int, *sizes: tuple[int, int, int]) -> np.ndarray:
    """Which tokens a convolution sees at each position: (n h w) k k, k = 1 + 2 reach; one behind all tokens lies outside.

    Args:
        sizes: n h w of each sheet; their tokens follow each other.
    """
    found, first, outside = [], 0, sum(map(math.prod, sizes))
    for n, h, w in sizes:
        here = np.arange(first, first + n * h * w).reshape(n, h, w)
        padded = np.pad(here, ((0, 0), (reach, reach), (reach, reach)), constant_values=outside)
        seen = np.lib.stride_tricks.sliding_window_view(padded, (1 + 2 * reach,) * 2, axis=(1, 2))
        found.append(seen.reshape(n * h * w, -1))
        first += n * h * w
    return np.concatenate(found)


def few_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer of r c; a CPU multiplies from the left where so few rows follow that it reads weights most of the time."""
    if x.device.type == "cpu" and 1 < len(x) <= FEW and not torch.compiler.is_compiling():
        return torch.addmm(bias[:, None], weight, x.T).T
    return F.linear(x, weight, bias)


def project(linear: nn.Linear, parts: list[Tensor]) -> list[Tensor]:
    """A linear layer of every tensor (... c); a CPU reads its weights once for all if they are the most that is read."""
    rows = sum(part.numel() // part.shape[-1] for part in parts)
    if parts[0].device.type != "cpu" or rows >= linear.in_features or torch.compiler.is_compiling():
        return [linear(part) for part in parts]
    flat = [part.flatten(0, -2) for part in parts]
    out = few_rows(torch.cat(flat) if len(flat) > 1 else flat[0], linear.weight, linear.bias)
    return [own.unflatten(0, part.shape[:-1]) for own, part in zip(out.split([len(x) for x in flat]), parts)]


def to_sheets(x: Tensor, shape: PlaneShape, groups: list[list[int]]) -> Sheets:
    """b c n -> planes of equal size on one batch axis."""
    planes = unpack(x, shape)
    return [torch.stack([planes[i] for i in group], dim=1).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            for group in groups]


def from_sheets(sheets: Sheets, batch: int, groups: list[list[int]]) -> Tensor:
    """Inverse of to_sheets: sheets -> b c n."""
    planes = [None] * 3
    for group, sheet in zip(groups, sheets):
        for i, plane in zip(group, sheet.unflatten(0, (batch, len(group))).unbind(1)):
            planes[i] = plane
    return pack(Planes(*planes))


def halved(x: Tensor) -> Tensor:
    """The grid of the next level; an odd last row or column is averaged alone."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def pyramid(sheets: Sheets, levels: int) -> list[Sheets]:
    """The same at the size of every level of the trunk."""
    out = [sheets]
    while len(out) < levels:
        out.append([halved(x) for x in out[-1]])
    return out


def zeroed(module: nn.Module, silent: bool = True) -> nn.Module:
    """The last layer of a branch, silent at first."""
    if silent:
        for p in module.parameters():
            nn.init.zeros_(p)
    return module


def time_features(t: Tensor, width: int) -> Tensor:
    """Cosines, then sines, of t at width / 2 frequencies from 1 down to 1 / 10000: b -> b width."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, device=t.device).float())
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


POSITION_OCTAVES = 8                                # periods of 4, 8, ... 512 tokens
POSITION_FEATURES = 3 + 3 * 2 * POSITION_OCTAVES    # which plane; cosines and sines along t, h and w


def position_features(shape: PlaneShape, device: torch.device) -> Planes:
    """Which plane, and where along each axis (zeros along the one it lacks): f h w, f t w, f t h."""
    octaves = 2.0 ** -torch.arange(POSITION_OCTAVES, device=device)
    code = {}
    for axis in "thw":
        angles = math.pi / 2 * octaves[:, None] * torch.arange(getattr(shape, axis), device=device)
        code[axis] = torch.cat([angles.cos(), angles.sin()])  # f length
    return _along_axes(code)


COORDINATES = 3 + 3  # which plane; t, h and w


def coordinates(shape: PlaneShape, device: torch.device) -> Planes:
    """Which plane, and each axis from -1 to 1 (0 on the axis that it lacks): 6 h w, 6 t w, 6 t h."""
    def line(count: int) -> Tensor:
        return torch.linspace(-1, 1, count, device=device) if count > 1 else torch.zeros(1, device=device)
    return _along_axes({axis: line(getattr(shape, axis))[None] for axis in "thw"})


def _along_axes(code: dict[str, Tensor]) -> Planes:
    """Features of each axis (f length), spread over the planes with which plane it is."""
    planes = []
    for i, axes in enumerate(("hw", "tw", "th")):
        rows, columns = (code[axis] for axis in axes)
        grid = {axes[0]: rows[:, :, None], axes[1]: columns[:, None, :]}
        size = (rows.shape[1], columns.shape[1])
        which = torch.eye(3, device=rows.device)[i, :, None, None].expand(3, *size)
        absent = rows.new_zeros(len(rows), 1, 1)
        along = [grid.get(axis, absent).expand(-1, *size) for axis in "thw"]
        planes.append(torch.cat([which, *along]))
    return Planes(*planes)
