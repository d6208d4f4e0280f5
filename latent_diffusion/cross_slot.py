"""Attention between the clips (slots) of a window, the only place where they meet.

After Harvey et al. 2022 (FDM), whose frames attend to each other at every pixel, biased by their distance in time. Here
a slot is a clip with three planes: on `hw` the slots attend to each other at each (h, w); on `tw` and `th` all time rows of
all slots do at each w (or h), so that the last row of a clip meets the first of the next.

Slots that are known as a whole look at each other only. So nothing of them depends on what is made, and their keys and
values can be computed once (Memory) for all network evaluations of a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autoencoder.planes import PlaneShape
from latent_diffusion.attention import Attention
from latent_diffusion.sheets import Sheets, project

if TYPE_CHECKING:
    from latent_diffusion.unet import UNetConfig

BIAS_WIDTH = 32


class Memory:
    """Slots that are known and all done with: where they are, and their keys and values in each layer."""

    def __init__(self, start: Tensor, there: Tensor):
        self.start, self.there = start, there                       # b g, as in SlotView
        self.kept: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}  # by plane, b m heads (g r) d each
        self.roomy: dict[tuple[nn.Module, int], tuple[Tensor, Tensor]] = {}  # the same with room for others behind

    def joined(self, layer: nn.Module, plane: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of these slots and of others behind them, b m heads ((g + s) r) d each.

        Where nothing is kept for a backward pass the others are written behind these, which are not copied again; so the
        result lasts until the layer's next call.
        """
        pairs = tuple(zip(self.kept[layer][plane], (keys, values)))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return tuple(torch.cat(pair, dim=3) for pair in pairs)
        count, room = pairs[0][0].shape[3], self.roomy.get((layer, plane))
        if room is None or room[0].shape[3] != count + keys.shape[3] or room[0].dtype != keys.dtype:
            room = self.roomy[layer, plane] = tuple(torch.cat(pair, dim=3) for pair in pairs)
            self.kept[layer][plane] = tuple(held[:, :, :, :count] for held in room)  # the memory is not needed twice
        for held, own in zip(room, (keys, values)):
            held[:, :, :, count:] = own
        return room


class SlotView:
    """Which slots the batch axis holds, (b s) of them, and who looks at whom.

    Args:
        shape: token grid of a slot.
        groups: planes of each sheet.
        frames: of a slot.
        start: b s, first frame of each slot; only differences matter.
        whole: b s bool, the slots that are known as a whole.
        there: b s bool; the others are padding, at which nobody looks.
        memory: of slots beside these, all known.
        keep: remember the biases, which depend on places alone: once for all network evaluations of a window.
    """

    def __init__(self, shape: PlaneShape, groups: list[list[int]], frames: int, start: Tensor, whole: Tensor, there: Tensor,
                 memory: Memory | None = None, keep: bool = False):
        self.shape, self.groups, self.frames, self.memory = shape, groups, frames, memory
        self.start, self.whole, self.there = start.float(), whole, there
        self.biases: dict[tuple[nn.Module, int, bool], Tensor] | None = {} if keep else None
        self.recording: Memory | None = None
        self.last: nn.Module | None = None

    def begin_recording(self, last: nn.Module) -> Memory:
        """From now on layers leave their keys and values here; `last` does nothing else, since nothing follows."""
        assert self.memory is None, "known slots look at each other only, so they go through the network together"
        self.recording, self.last = Memory(self.start, self.there), last
        return self.recording

    def allowed(self) -> Tensor:
        """Who looks at whom: b s (g + s) bool. A slot always sees itself, padding too, lest its softmax be empty."""
        itself = torch.eye(self.start.shape[1], dtype=torch.bool, device=self.start.device)
        seen = (self.there[:, None] & (self.whole[:, None] | ~self.whole[:, :, None])) | itself
        if self.memory is None:
            return seen
        return torch.cat([self.memory.there[:, None].expand(-1, seen.shape[1], -1), seen], dim=2)

    def apart(self, rows: int) -> Tensor:
        """Frames from each row of these slots to each row that they may look at: b (s r) ((g + s) r)."""
        middle = _row_middles(self.shape.t, rows, self.frames, self.start)
        there = (self.start[:, :, None] + middle).flatten(1)
        seen = there
        if self.memory is not None:
            seen = torch.cat([(self.memory.start[:, :, None] + middle).flatten(1), there], dim=1)
        return seen[:, None] - there[:, :, None]

    def bias(self, layer: CrossSlotAttention, rows: int, time: bool) -> Tensor:
        """What is added to the logits of a layer, b 1 heads (s r) ((g + s) r); -inf where nobody may look."""
        key = (layer, rows, time)
        if self.biases is not None and key in self.biases:
            return self.biases[key]
        bias = layer.distance_bias(self.apart(rows), time)
        allowed = self.allowed().repeat_interleave(rows, 1).repeat_interleave(rows, 2)
        bias = bias.masked_fill(~allowed[:, None], -torch.inf)[:, None]
        if self.biases is not None:
            self.biases[key] = bias
        return bias


def _row_middles(t: int, rows: int, frames: int, like: Tensor) -> Tensor:
    """Middle frame of each time row of a clip, from its first frame on; a whole clip's for a single row.

    Rows are halved level by level, the last alone where they are odd.
    """
    size = 1
    while -(-t // size) > rows:
        size *= 2
    edges = (torch.arange(rows + 1, device=like.device, dtype=like.dtype) * size).clamp(max=t)
    return (edges[1:] + edges[:-1]) / 2 * frames / t


def distance_features(apart: Tensor) -> Tensor:
    """Signed log distance, its sides apart (FDM, app. A): (...) -> (... 3)."""
    ahead, behind = apart.clamp(min=0).log1p(), (-apart).clamp(min=0).log1p()
    return torch.stack([ahead, behind, (apart == 0).to(apart)], dim=-1)


class CrossSlotAttention(Attention):
    """Residual attention of the slots of a window, silent at first; the norm sees one plane of one slot."""

    def __init__(self, channels: int, cfg: UNetConfig):
        super().__init__(channels, cfg)
        self.place = nn.Sequential(nn.Linear(3, BIAS_WIDTH), nn.SiLU(), nn.Linear(BIAS_WIDTH, 2 * cfg.heads))

    def distance_bias(self, apart: Tensor, time: bool) -> Tensor:  # b q k -> b heads q k
        bias = self.place(distance_features(apart).to(self.place[0].weight.dtype))
        return bias.chunk(2, dim=-1)[int(time)].permute(0, 3, 1, 2)

    def forward(self, sheets: Sheets, view: SlotView) -> Sheets:
        out, kept, biases = [], [], {}
        b, s = view.start.shape
        normed = [self.norm(x).to(x.dtype).permute(0, 2, 3, 1) for x in sheets]
        for x, projected, group in zip(sheets, project(self.qkv, normed), view.groups):  # x: (b s k) c r w
            qkv = projected.unflatten(0, (b, s, len(group)))  # b s k r w (heads 3 d)
            changes = []
            for plane, own in zip(group, qkv.unbind(2)):
                q, k, v = self._sequences(own if plane else own.flatten(2, 3)[:, :, None])
                kept.append((k, v))
                if view.last is self:
                    continue
                time, rows = plane > 0, q.shape[3] // s
                if time not in biases:  # alike on tw and th
                    biases[time] = view.bias(self, rows, time).to(q.dtype)
                if view.memory is not None:
                    k, v = view.memory.joined(self, len(kept) - 1, k, v)
                y = _attend(q, k, v, biases[time])                                        # b m heads (s r) d
                y = y.unflatten(3, (s, rows)).permute(0, 3, 4, 1, 2, 5).flatten(4)        # b s r m c
                changes.append(y.reshape(b, s, *x.shape[-2:], -1))
            if changes:
                change = self.out(torch.stack(changes, dim=2).flatten(0, 2))
                out.append(x + change.permute(0, 3, 1, 2))
        if view.recording is not None:
            view.recording.kept[self] = kept
        return out if view.last is not self else sheets

    def _sequences(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """b s r m (heads 3 d) -> queries, keys and values, b m heads (s r) d each."""
        qkv = qkv.unflatten(-1, (self.heads, 3, -1)).permute(5, 0, 3, 4, 1, 2, 6)  # 3 b m heads s r d
        q, k, v = qkv.flatten(4, 5).unbind(0)
        return self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention with a bias, of which a part may be -inf, but no whole row.

    The sequences are a few rows long. PyTorch's fused attention does not take five axes; what it does instead scales all
    keys and looks for empty rows each time.
    """
    logits = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)) + bias
    return torch.matmul(logits.softmax(-1).to(v.dtype), v)
