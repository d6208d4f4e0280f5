"""Convolutions as products of matrices at the frequencies of a cyclic Fourier transform, for small maps on a CPU: a third to a
tenth of the operations.

A map is cut into tiles, each the work of a cyclic convolution. At one frequency the convolution of many frames is one product
of matrices, (frames x channels in) @ (channels in x channels out). Of two conjugate frequencies one suffices, and the product
of complex numbers is three of real ones (Gauss). Tiles are small, so their transforms are dense matrices. All is well
conditioned, unlike Winograd's points, so float32 keeps its digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

_LONGEST = 16  # cycle that a map is cut for


class Cycle(NamedTuple):
    """One axis of a map, as the work of cyclic convolutions."""
    length: int   # of the cycle
    reads: int    # pixels from which one starts; the rest of its cycle is 0
    outputs: int  # that it gives
    count: int    # tiles
    padding: int  # zeros before the first, which are read; where a cycle goes round them, they need not be


def cycles(size: int, taps: int, padding: int) -> list[Cycle]:
    """The ways to convolve an axis: as a whole, or in tiles that overlap."""
    outputs = size + 2 * padding - taps + 1
    whole = Cycle(size + padding, size, outputs, 1, 0)  # what goes round meets no output
    lengths = range(taps, min(_LONGEST, whole.length - 1) + 1)
    return [whole] + [Cycle(n, n, n - taps + 1, -(-outputs // (n - taps + 1)), padding) for n in lengths]


def cheapest(shape: Sequence[int], size: Sequence[int], padding: int) -> tuple[tuple[Cycle, ...], int]:
    """The cycles of both axes, with weights d c k k and maps h, w, that need the fewest operations for a frame; these."""
    ways = product(*(cycles(s, k, padding) for s, k in zip(size, shape[2:])))
    return min(((axes, _operations(axes, *shape[:2])) for axes in ways), key=lambda way: way[1])


def direct_operations(shape: Sequence[int], size: Sequence[int], padding: int) -> int:
    """Operations of the convolution itself, for a frame: those that do not meet zeros."""
    d, c, *taps = shape
    met = [sum(0 <= i + j - padding < s for i in range(s + 2 * padding - k + 1) for j in range(k)) for s, k in zip(size, taps)]
    return 2 * c * d * math.prod(met)


class CyclicConv:
    """A convolution of stride 1 of maps of one size.

    Args:
        weight: d c k k.
        bias: d.
        size: h, w of the maps.
        padding: zeros on every side, fewer than k.
    """

    def __init__(self, weight: Tensor, bias: Tensor, size: Sequence[int], *, padding: int):
        d, c, *taps = weight.shape
        self.outputs = [s + 2 * padding - k + 1 for s, k in zip(size, taps)]
        self.cycles = cheapest(weight.shape, size, padding)[0]
        lengths = [axis.length for axis in self.cycles]
        kernel = _analysis(lengths, [[padding - axis.padding - i for i in range(k)] for axis, k in zip(self.cycles, taps)])
        self._kernel = (kernel @ weight.double().permute(2, 3, 1, 0).flatten(0, 1).flatten(1)).float().view(-1, c, d)
        self._bias = bias * math.prod(lengths)
        self._into = _analysis(lengths, [range(axis.reads) for axis in self.cycles]).float()
        self._back = _synthesis(lengths, [range(axis.outputs) for axis in self.cycles]).float()

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve frames: float32 h w n c -> h' w' n d."""
        n, c = x.shape[2:]
        if n == 1:  # a product of one row would be rounded otherwise, and a frame differ by the frames beside it
            return self(x.expand(-1, -1, 2, -1))[:, :, :1]
        points = (self._into @ self._cut(x)).view(len(self._into), -1, c)
        made = points @ self._kernel
        made[0] += self._bias  # the mean of the map
        return self._join((self._back @ made.flatten(1)), n)

    def _cut(self, x: Tensor) -> Tensor:  # h w n c -> (pixels of a tile) (tiles n c)
        if all(axis.count == 1 for axis in self.cycles):
            return x.reshape(len(self._into[0]), -1)
        spans = [axis.reads + (axis.count - 1) * axis.outputs for axis in self.cycles]
        wide = x.new_zeros(*spans, *x.shape[2:])
        (top, left), (h, w) = (axis.padding for axis in self.cycles), x.shape[:2]
        wide[top:top + h, left:left + w] = x
        for dim, axis in enumerate(self.cycles):
            wide = wide.unfold(dim, axis.reads, axis.outputs)
        return wide.permute(4, 5, 0, 1, 2, 3).reshape(len(self._into[0]), -1)

    def _join(self, y: Tensor, n: int) -> Tensor:  # (outputs of a tile) (tiles n d) -> h' w' n d
        (i, a), (j, b) = ((axis.outputs, axis.count) for axis in self.cycles)
        y = y.view(i, j, a, b, n, -1).permute(2, 0, 3, 1, 4, 5).reshape(a * i, b * j, n, -1)
        return y[:self.outputs[0], :self.outputs[1]]


def _operations(axes: Sequence[Cycle], d: int, c: int) -> int:
    lengths, reads, outputs, count = (math.prod(values) for values in list(zip(*axes))[:4])
    real = math.prod(2 - axis.length % 2 for axis in axes)  # frequencies that are their own conjugates
    return 2 * count * (real + 3 * (lengths - real) // 2) * (c * d + reads * c + outputs * d)


def _angles(lengths: Sequence[int], places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Angles of the waves at these places (h, w): of those that are their own conjugates, the mean first, and of one of each
    other pair, float64 frequencies x places."""
    waves = list(product(*map(range, lengths)))
    mirrored = [tuple(-f % n for f, n in zip(wave, lengths)) for wave in waves]
    parts = [[w for w, m in zip(waves, mirrored) if w == m], [w for w, m in zip(waves, mirrored) if w < m]]
    grid = torch.cartesian_prod(*(torch.tensor(list(p), dtype=torch.float64) for p in places))
    turn = 2 * math.pi / torch.tensor(lengths, dtype=torch.float64)
    real, pairs = (torch.tensor(part, dtype=torch.float64).view(-1, 2) * turn @ grid.T for part in parts)
    return real, pairs


def _analysis(lengths: Sequence[int], places: Sequence[Sequence[int]]) -> Tensor:
    """Values at places -> what is multiplied: each own conjugate, and of the others the real and imaginary parts, and sums."""
    real, pairs = _angles(lengths, places)
    return torch.cat([real.cos(), pairs.cos(), -pairs.sin(), pairs.cos() - pairs.sin()])


def _synthesis(lengths: Sequence[int], places: Sequence[Sequence[int]]) -> Tensor:
    """Products p -> values at places. A pair is the real part p1 - p2, the imaginary part p3 - p1 - p2, and its conjugate."""
    real, pairs = _angles(lengths, places)
    cos, sin = 2 * pairs.cos(), 2 * pairs.sin()
    return torch.cat([real.cos(), cos + sin, sin - cos, -sin]).T.contiguous() / math.prod(lengths)
