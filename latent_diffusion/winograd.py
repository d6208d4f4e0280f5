"""3x3 convolutions with fewer multiplications on a CPU: minimal filtering of tiles (Winograd 1980; Lavin and Gray, CVPR 2016).

A convolution is a product of polynomials: at m + 2 points it is a product of numbers. So m x m outputs take (m + 2)^2
multiplications a channel in place of 9 m^2, and these are matrix products over the tiles of all planes. The points (with 0 and
infinity) decide how rounding grows; those chosen keep a quarter of the error of 0, +-1, +-2 (see docs/performance.md).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Size = tuple[int, int, int]  # n h w of a sheet; rows of tokens are those of all sheets, one after the other
POINTS = {2: (0, 1, -1), 4: (0, 0.5 ** 0.5, -0.5 ** 0.5, 2 ** 0.5, -2 ** 0.5)}  # by side of a tile of outputs

# Costs in multiply-adds of a matrix product in the same time, as measured (docs/performance.md).
READ, MAKE = 28, 40                 # reading a weight, and making a transformed one
PER_INPUT, PER_OUTPUT = 140, 90     # of a number of a transformed tile
PER_CALL = 1e7
KEEP = 16                           # transformed weights are kept up to so many for each number of the input


class Plan(NamedTuple):
    """How a layer is computed."""
    tile: int = 0       # side m of the tiles' outputs; 0 = the plain convolution
    keep: bool = False  # the transformed weights


def cheapest(sizes: Sequence[Size], inputs: int, outputs: int, *, frozen: bool) -> Plan:
    """The fastest way of a layer of so many channels.

    The transformed weights of a frozen layer are kept where they are few beside the positions: on the smallest grids, which
    read weights most of the time, they would take more memory than all others.
    """
    rows = sum(map(math.prod, sizes))
    costs = {Plan(): 9 * (rows + READ) * inputs * outputs}
    for m in POINTS:
        keep = frozen and (m + 2) ** 2 * outputs <= KEEP * rows
        tiles = sum(n * -(-h // m) * -(-w // m) for n, h, w in sizes)
        ends = tiles * (PER_INPUT * inputs + PER_OUTPUT * outputs)
        products = (tiles + READ + (0 if keep else MAKE)) * inputs * outputs
        costs[Plan(m, keep)] = PER_CALL + (m + 2) ** 2 * (products + ends)
    return min(costs, key=costs.get)


class Transforms(NamedTuple):
    """Linear maps of what is flattened, q = (m + 2)^2; products in between are elementwise in q."""
    read: np.ndarray    # q q, of the inputs that a tile sees
    weight: np.ndarray  # q 9
    write: np.ndarray   # m^2 q, to the tile's outputs


@lru_cache
def transforms(m: int) -> Transforms:
    """Toom and Cook's: the values at the points, and (transposed) the way back."""
    points = np.array(POINTS[m])
    others = [np.delete(points, i) for i in range(m + 1)]
    scale = np.array([math.prod(p - others[i]) for i, p in enumerate(points)])
    infinity = np.eye(m + 2)[-1:]
    read = np.stack([np.append(np.poly(o)[::-1], 0) for o in others] + [np.poly(points)[::-1]])
    weight = np.concatenate([points[:, None] ** np.arange(3) / scale[:, None], infinity[:, -3:]])
    write = np.concatenate([points[:, None] ** np.arange(m), infinity[:, -m:]]).T
    return Transforms(*(np.kron(matrix, matrix) for matrix in (read, weight, write)))


class Places(NamedTuple):
    """Where tiles lie: numbers of tokens (one behind all of them is outside), or of a tile's numbers, flat."""
    seen: np.ndarray     # (q tiles) tokens
    made: np.ndarray     # (m^2 tiles) tokens
    own: np.ndarray      # of each token: where in `made`
    covering: np.ndarray  # (tokens + 1) 4: where in `seen`; (q tiles), behind all, where fewer tiles see a token


@lru_cache(maxsize=256)
def places(m: int, *sizes: Size) -> Places:
    found, first, outside = [], 0, sum(map(math.prod, sizes))
    for n, h, w in sizes:
        here = np.arange(first, first + n * h * w).reshape(n, h, w)
        padded = np.pad(here, ((0, 0), (1, 1 + -h % m), (1, 1 + -w % m)), constant_values=outside)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (m + 2, m + 2), axis=(1, 2))[:, ::m, ::m]
        found.append(windows.reshape(-1, m + 2, m + 2))
        first += n * h * w
    tiles = np.concatenate(found).transpose(1, 2, 0)  # m + 2, m + 2, tiles
    seen, made = tiles.ravel(), tiles[1:-1, 1:-1].ravel()
    order = np.argsort(seen, kind="stable")[:np.count_nonzero(seen < outside)]
    token = seen[order]
    covering = np.full((outside + 1, 4), len(seen))
    covering[token, np.arange(len(token)) - np.searchsorted(token, token)] = order
    return Places(seen, made, np.argsort(made, kind="stable")[:outside], covering)


class Convolution(torch.autograd.Function):
    """Tokens with a row of zeros behind (r + 1, ci), weight (co ci 3 3) and bias (co) -> r co.

    Nothing else is kept for the backward pass: transforms are made again.

    Args:
        m: side of the tiles' outputs.
        sizes: of the sheets.
        kept: what transformed(weight, m) gave, else it is made.
    """

    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, bias: Tensor, m: int, sizes: tuple[Size, ...],
                kept: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.m, ctx.sizes = m, sizes
        products = torch.bmm(_read(tokens, m, sizes), _at_points(weight, m).transpose(1, 2) if kept is None else kept)
        made = (_matrix(transforms(m).write, tokens) @ products.flatten(1)).view(-1, len(weight))      # (m^2 tiles) co
        return made.index_select(0, torch.from_numpy(places(m, *sizes).own)).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (tokens, weight), m, sizes = ctx.saved_tensors, ctx.m, ctx.sizes
        maps, where = transforms(m), places(m, *sizes)
        if len(where.made) > len(grad):  # some are outside
            grad = torch.cat([grad, grad.new_zeros(1, grad.shape[1])])
        made = F.embedding(torch.from_numpy(where.made), grad).view(m * m, -1)
        products = (_matrix(maps.write.T, grad) @ made).unflatten(1, (-1, len(weight)))                # q tiles co
        of_tokens = of_weight = None
        if ctx.needs_input_grad[0]:
            seen = grad.new_empty(len(where.seen) + 1, tokens.shape[1])
            seen[-1] = 0
            read = torch.bmm(products, _at_points(weight, m)).flatten(1)
            torch.mm(_matrix(maps.read.T, grad), read, out=seen[:-1].view_as(read))
            of_tokens = F.embedding_bag(torch.from_numpy(where.covering), seen, mode="sum")
        if ctx.needs_input_grad[1]:
            of_points = torch.bmm(products.transpose(1, 2), _read(tokens, m, sizes))                    # q co ci
            taps = _matrix(maps.weight.T, grad) @ of_points.transpose(0, 1)                             # co 9 ci
            of_weight = taps.unflatten(1, (3, 3)).permute(0, 3, 1, 2)
        return of_tokens, of_weight, grad.sum(0) if ctx.needs_input_grad[2] else None, None, None, None


def transformed(weight: Tensor, m: int) -> Tensor:
    """Weights as the products of a forward pass read them fastest: q ci co."""
    return _at_points(weight, m).transpose(1, 2).contiguous()


def _matrix(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.dtype)


def _read(tokens: Tensor, m: int, sizes: tuple[Size, ...]) -> Tensor:
    """The tiles' inputs at the points: q tiles ci."""
    tiles = F.embedding(torch.from_numpy(places(m, *sizes).seen), tokens).unflatten(0, ((m + 2) ** 2, -1))
    return (_matrix(transforms(m).read, tokens) @ tiles.flatten(1)).view_as(tiles)


def _at_points(weight: Tensor, m: int) -> Tensor:
    """Weights at the points: q co ci, a view of co q ci as channels-last weights lie."""
    return (_matrix(transforms(m).weight, weight) @ weight.permute(0, 2, 3, 1).flatten(1, 2)).transpose(0, 1)


class Kept(NamedTuple):
    """Transformed weights, and of what they are: the same memory, held so that no other weights can come to lie there."""
    source: Tensor
    version: int
    m: int
    weights: Tensor

    def serves(self, weight: Tensor, m: int) -> bool:
        own = self.source.data_ptr(), self.source.dtype, self.version, self.m
        return own == (weight.data_ptr(), weight.dtype, weight._version, m)


KEPT: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()  # by layer


def kept(conv: nn.Conv2d, m: int) -> Tensor:
    """Transformed weights of a frozen layer: those of the call before, or new ones where its weights have changed."""
    weight = conv.weight.detach()
    if conv not in KEPT or not KEPT[conv].serves(weight, m):
        KEPT[conv] = Kept(weight, weight._version, m, transformed(weight, m))
    return KEPT[conv].weights
