"""Transformer blocks of the triplane autoencoder: attention with rotary positions over time and space."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def frame_frequencies(dim: int) -> Tensor:
    """Radians per frame of the time rotary, dim/2 of them falling from 1 to nearly 1/10000, float64."""
    return 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def grid_scales(dim: int) -> Tensor:
    """Half turns per unit length of the space rotary, dim/4 of them rising from 1 to 5, float64."""
    return torch.logspace(0.0, math.log2(5), dim // 4, base=2, dtype=torch.float64)


def frame_rotary(t: int, dim: int, paired: bool = True) -> Tensor:
    """Rotary table of frame indices (RoFormer, eq. 34): cos and sin stacked, (2 t dim).

    Args:
        t: number of frames.
        dim: features of one head, an even number.
        paired: True gives both features of a pair the same angle, so that attention depends on the distance
            between frames alone. False is PVDM's released layout, where the angles are repeated end to end
            and a pair gets two different ones.
    """
    angles = torch.arange(t, dtype=torch.float64)[:, None] * frame_frequencies(dim)  # t dim/2
    angles = angles.repeat_interleave(2, dim=-1) if paired else torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def grid_rotary(h: int, w: int, dim: int) -> Tensor:
    """Axial rotary table of an h w grid on [-1, 1]^2: cos and sin stacked, (2 (h w) dim).

    The first half of the features turns with the row, the second with the column.
    """
    scales = grid_scales(dim)
    rows = torch.linspace(-1, 1, h, dtype=torch.float64)[:, None] * scales * math.pi  # h dim/4
    columns = torch.linspace(-1, 1, w, dtype=torch.float64)[:, None] * scales * math.pi  # w dim/4
    angles = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1)
    angles = rearrange(angles, "h w d -> (h w) d").repeat_interleave(2, dim=-1)
    return torch.stack([angles.cos(), angles.sin()]).float()


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i+1) of (... n d) by the angles of table (2 n d)."""
    cos, sin = table.to(x.dtype)
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-second, first], dim=-1).flatten(-2) * sin


class Attention(nn.Module):
    """Pre-norm multi-head self-attention with its residual."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:  # b n c -> b n c
        q, k, v = rearrange(self.qkv(self.norm(x)), "b n (three m d) -> three b m n d", three=3, m=self.heads)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(mixed, "b m n d -> b n (m d)"))

    def forward_one(self, x: Tensor, index: int) -> Tensor:  # b n c -> b 1 c
        """The output at one position only: the same numbers as forward(x)[:, index], for less work."""
        normed = self.norm(x)
        asked = slice(index, index + 1 or None)  # -1 is the last position
        to_q, to_kv = self.qkv.weight.tensor_split([self.qkv.out_features // 3])
        q = rearrange(F.linear(normed[:, asked], to_q), "b n (m d) -> b m n d", m=self.heads)
        k, v = rearrange(F.linear(normed, to_kv), "b n (two m d) -> two b m n d", two=2, m=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x[:, asked] + self.out(rearrange(mixed, "b m n d -> b n (m d)"))


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with its residual; gated multiplies half of the features by GELU of the rest."""

    def __init__(self, dim: int, hidden: int, gated: bool):
        super().__init__()
        self.gated = gated
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden * (2 if gated else 1))
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:  # ... c -> ... c
        y = self.up(self.norm(x))
        if self.gated:
            value, gate = y.chunk(2, dim=-1)
            return x + self.down(value * F.gelu(gate))
        return x + self.down(F.gelu(y))


class SpaceTimeLayer(nn.Module):
    """Attention over time at each place, over space in each frame, then a feed-forward (divided, TimeSformer)."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.time = Attention(dim, heads, head_dim)
        self.space = Attention(dim, heads, head_dim)
        self.feed = FeedForward(dim, 4 * dim, gated=True)

    def forward(self, x: Tensor, frame_table: Tensor, grid_table: Tensor) -> Tensor:  # b t h w c
        b, _, h, w, _ = x.shape
        x = self.time(rearrange(x, "b t h w c -> (b h w) t c"), frame_table)
        x = self.space(rearrange(x, "(b h w) t c -> (b t) (h w) c", b=b, h=h), grid_table)
        return self.feed(rearrange(x, "(b t) (h w) c -> b t h w c", b=b, w=w))


class SpaceTimeTransformer(nn.Module):
    """A stack of space-time layers over one fixed token grid."""

    def __init__(self, t: int, h: int, w: int, dim: int, *, depth: int, heads: int, head_dim: int, paired: bool):
        super().__init__()
        self.grad_checkpoint = False
        self.layers = nn.ModuleList(SpaceTimeLayer(dim, heads, head_dim) for _ in range(depth))
        self.register_buffer("frame_table", frame_rotary(t, head_dim, paired), persistent=False)
        self.register_buffer("grid_table", grid_rotary(h, w, head_dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # b t h w c
        for layer in self.layers:
            x = run(layer, x, self.frame_table, self.grid_table, saving=self.grad_checkpoint)
        return x


class PoolLayer(nn.Module):
    """One layer of the pooling transformer."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int):
        super().__init__()
        self.attend = Attention(dim, heads, head_dim)
        self.feed = FeedForward(dim, hidden, gated=False)

    def forward(self, x: Tensor, index: int | None = None) -> Tensor:  # b n c -> b n c, or b 1 c at one index
        return self.feed(self.attend(x) if index is None else self.attend.forward_one(x, index))


class Pool(nn.Module):
    """Collapse a sequence to one vector by a small transformer with a learned query, appended last.

    Args:
        length: tokens of the sequence, without the query.
        read: position whose output is the result: -1 is the query. (PVDM's released weights read 0.)
    """

    def __init__(self, length: int, dim: int, *, depth: int, heads: int, hidden: int, read: int = -1):
        super().__init__()
        self.read = read
        self.grad_checkpoint = False
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.02 * torch.randn(1, length + 1, dim))
        self.layers = nn.ModuleList(PoolLayer(dim, heads, dim // (2 * heads), hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:  # b n c -> b c
        x = torch.cat([x, self.query.to(x.dtype).expand(len(x), -1, -1)], dim=1) + self.position
        *body, last = self.layers
        for layer in body:
            x = run(layer, x, saving=self.grad_checkpoint)
        return run(last, x, self.read, saving=self.grad_checkpoint)[:, 0]


def run(layer: nn.Module, *args, saving: bool) -> Tensor:
    """Call a layer; saving keeps only its inputs for the backward pass and computes the rest again."""
    if saving and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False)
    return layer(*args)
