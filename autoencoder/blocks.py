"""Transformer blocks of the triplane autoencoder: attention with rotary positions over time and space."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from autoencoder.planes import PlaneShape

PIECE = 8192        # tokens that a CPU takes through a layer at once
ATTENTIONS = {getattr(torch.ops.aten, f"_scaled_dot_product_{name}").default for name in (
    "flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    if hasattr(torch.ops.aten, f"_scaled_dot_product_{name}")}
CUDA_BATCH = 2**15  # sequences of one attention call: its CUDA kernels fail from 2^16 on


def frame_frequencies(dim: int) -> Tensor:
    """Radians per frame of the time rotary, dim/2 of them falling from 1 to nearly 1/10000, float64."""
    return 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


def grid_scales(dim: int) -> Tensor:
    """Half turns per unit length of the space rotary, dim/4 of them rising from 1 to 5, float64."""
    return torch.logspace(0.0, math.log2(5), dim // 4, base=2, dtype=torch.float64)


def frame_rotary(t: int, dim: int, paired: bool = True) -> Tensor:
    """Rotary table of frame indices (RoFormer, eq. 34): cos and sin stacked, (2 t dim), float64.

    Args:
        t: number of frames.
        dim: features of one head, an even number.
        paired: True gives both features of a pair the same angle, so that attention depends on the distance
            between frames alone. False is PVDM's released layout, where the angles are repeated end to end
            and a pair gets two different ones.
    """
    angles = torch.arange(t, dtype=torch.float64)[:, None] * frame_frequencies(dim)  # t dim/2
    angles = angles.repeat_interleave(2, dim=-1) if paired else torch.cat([angles, angles], dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def grid_rotary(h: int, w: int, dim: int) -> Tensor:
    """Axial rotary table of an h w grid on [-1, 1]^2: cos and sin stacked, (2 (h w) dim), float64.

    The first half of the features turns with the row, the second with the column.
    """
    scales = grid_scales(dim)
    rows = torch.linspace(-1, 1, h, dtype=torch.float64)[:, None] * scales * math.pi  # h dim/4
    columns = torch.linspace(-1, 1, w, dtype=torch.float64)[:, None] * scales * math.pi  # w dim/4
    angles = torch.cat([rows[:, None].expand(h, w, -1), columns[None].expand(h, w, -1)], dim=-1)
    angles = rearrange(angles, "h w d -> (h w) d").repeat_interleave(2, dim=-1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, table: Tensor, paired: bool = True) -> Tensor:
    """Turn the pairs (2i, 2i+1) of x (... n d) by the angles of table (2 n d).

    Args:
        paired: the table has one angle for each pair, so that a turn is one complex product (four times as
            fast where the precision has complex numbers).
    """
    cos, sin = table.to(x.dtype)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    if paired and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        return Turn.apply(x, torch.complex(cos[:, even], sin[:, even]))
    first, second = x[..., even], x[..., odd]
    return torch.stack([first * cos[:, even] - second * sin[:, even],
                        second * cos[:, odd] + first * sin[:, odd]], dim=-1).flatten(-2)


class Turn(torch.autograd.Function):
    """Pairs of features (b m n d) as complex numbers, times turns (n d/2).

    It reads x as it lies, writes each head together (see attend), and gives gradients as they came: no copies between.
    """

    @staticmethod
    def forward(context, x: Tensor, turns: Tensor) -> Tensor:
        context.save_for_backward(turns)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        torch.mul(_pairs(x), turns, out=_pairs(out))
        return out

    @staticmethod
    def backward(context, grad: Tensor) -> tuple[Tensor, None]:
        return torch.view_as_real(_pairs(grad) * context.saved_tensors[0].conj()).flatten(-2), None


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


class Attention(nn.Module):
    """Pre-norm multi-head self-attention with its residual."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, rotary: Tensor | None = None, paired: bool = True) -> Tensor:  # b n c
        q, k, v = self._heads(self.norm(x), self.qkv.weight.chunk(3))
        if rotary is not None:
            q, k = rotate(q, rotary, paired), rotate(k, rotary, paired)
        mixed = attend(q, k, v)
        return add_linear(x, rearrange(mixed, "b m n d -> b n (m d)"), self.out)

    def forward_one(self, x: Tensor, index: int) -> Tensor:  # b n c -> b 1 c
        """The output at one position only: the same numbers as forward(x)[:, index], for less work."""
        normed = self.norm(x)
        asked = slice(index, index + 1 or None)  # -1 is the last position
        to_q, *to_kv = self.qkv.weight.chunk(3)
        [q], (k, v) = self._heads(normed[:, asked], [to_q]), self._heads(normed, to_kv)
        mixed = attend(q, k, v)
        return add_linear(x[:, asked], rearrange(mixed, "b m n d -> b n (m d)"), self.out)

    def _heads(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:  # b n c -> b m n d each
        """Projections one by one: to join their gradients takes longer than what one product of all saves."""
        return [F.linear(x, weight).unflatten(-1, (self.heads, -1)).transpose(1, 2) for weight in weights]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # b m n d each
    """Each head's rows lie together in memory: a power of two apart they evict each other from a cache."""
    return F.scaled_dot_product_attention(q.contiguous(), k.contiguous(), v.contiguous())


class FeedForward(nn.Module):
    """Pre-norm perceptron with its residual; gated: half of the features times GELU of the other half."""

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
            return add_linear(x, value * F.gelu(gate), self.down)
        return add_linear(x, F.gelu(y), self.down)


class SpaceTimeLayer(nn.Module):
    """Attention over time at each place, then over space in each frame, then feed-forward (TimeSformer)."""

    def __init__(self, dim: int, heads: int, head_dim: int, paired: bool):
        super().__init__()
        self.paired = paired
        self.time = Attention(dim, heads, head_dim)
        self.space = Attention(dim, heads, head_dim)
        self.feed = FeedForward(dim, 4 * dim, gated=True)

    def forward(self, x: Tensor, frame_table: Tensor, grid_table: Tensor, saving: bool = False) -> Tensor:  # b t h w c
        b, _, h, w, _ = x.shape
        x = rearrange(x, "b t h w c -> (b h w) t c")
        x = in_pieces(self.time, x, frame_table, self.paired, saving=saving)
        x = rearrange(x, "(b h w) t c -> (b t) (h w) c", b=b, h=h)
        x = in_pieces(self.space, x, grid_table, saving=saving)
        x = in_pieces(self.feed, x, saving=saving)
        return rearrange(x, "(b t) (h w) c -> b t h w c", b=b, w=w)


class SpaceTimeTransformer(nn.Module):
    """A stack of space-time layers over one fixed token grid.

    Args:
        grid: tokens along time, height and width.
        paired: see frame_rotary.
    """

    def __init__(self, grid: PlaneShape, dim: int, *, depth: int, heads: int, head_dim: int,
                 paired: bool = True):
        super().__init__()
        self.grad_checkpoint = False
        self.layers = nn.ModuleList(SpaceTimeLayer(dim, heads, head_dim, paired) for _ in range(depth))
        self.register_buffer("frame_table", frame_rotary(grid.t, head_dim, paired).float(), persistent=False)
        self.register_buffer("grid_table", grid_rotary(grid.h, grid.w, head_dim).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # b t h w c
        for layer in self.layers:
            x = layer(x, self.frame_table, self.grid_table, self.grad_checkpoint)
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
        return in_pieces(self.pool, x)

    def pool(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.query.to(x.dtype).expand(len(x), -1, -1)], dim=1) + self.position
        *body, last = self.layers
        for layer in body:
            x = run(layer, x, saving=self.grad_checkpoint)
        return run(last, x, self.read, saving=self.grad_checkpoint)[:, 0]


def add_linear(x: Tensor, y: Tensor, linear: nn.Linear) -> Tensor:
    """x + linear(y). On a CPU the product is added where x and the bias are: one pass over memory in place of three."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return x + linear(y)
    return (x + linear.bias).flatten(0, -2).addmm_(y.flatten(0, -2), linear.weight.T).view_as(x)


def run(layer: nn.Module, *args, saving: bool) -> Tensor:
    """Call a layer; saving keeps only its inputs and what attention made for the backward pass, and computes the rest again.

    Attention is half of the operations of a layer with 1024 places, but its result a twentieth of what a layer makes.
    """
    if saving and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False, context_fn=_CONTEXTS)
    return layer(*args)


def _policy(context, op, *args, **options) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in ATTENTIONS else CheckpointPolicy.PREFER_RECOMPUTE


_CONTEXTS = partial(create_selective_checkpoint_contexts, _policy)


def in_pieces(layer: Callable[..., Tensor], x: Tensor, *args, saving: bool = False) -> Tensor:
    """Call a layer on x (b ... c), whose batch axis it treats as independent, in as many pieces as is best.

    A CPU takes a few at a time: the same numbers with a working set that fits the cache, so a third faster where nothing
    is kept for a backward pass, and in a fraction of the memory.

    Args:
        saving: see run.
    """
    piece = CUDA_BATCH
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        piece = max(1, PIECE // math.prod(x.shape[1:-1]))
    if len(x) <= piece:
        return run(layer, x, *args, saving=saving)
    return torch.cat([run(layer, part, *args, saving=saving) for part in x.split(piece)])
