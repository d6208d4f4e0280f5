"""Attention over the planes of a clip: on each plane, and over all of them packed into one sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.modulation import Side
from latent_diffusion.sheets import Norm, Sheets, Sizes, as_sheet, as_tokens, project, zeroed

if TYPE_CHECKING:
    from latent_diffusion.unet import UNetConfig

LONG = 1024  # tokens from which on it pays to lay the queries, keys and values of a head together in memory


class Attention(nn.Module):
    """Residual self-attention over tokens; the norm sees the whole sequence."""

    def __init__(self, channels: int, cfg: UNetConfig):
        super().__init__()
        self.heads = cfg.heads
        self.norm = Norm(channels, cfg.norm_groups)
        self.qkv = nn.Linear(channels, 3 * channels)  # output channels: head, then q k v, then features
        self.out = zeroed(nn.Linear(channels, channels), cfg.zero_out)
        head = channels // cfg.heads
        self.norm_q = nn.RMSNorm(head, eps=1e-6) if cfg.qk_norm else nn.Identity()
        self.norm_k = nn.RMSNorm(head, eps=1e-6) if cfg.qk_norm else nn.Identity()

    def branch(self, *sequences: Tensor) -> list[Tensor]:  # b n c each -> b n c each, what is to be added
        qkv = project(self.qkv, [self._normed(x) for x in sequences])
        return project(self.out, [self._mix(x) for x in qkv])

    def _normed(self, tokens: Tensor) -> Tensor:
        x = tokens.transpose(1, 2)[:, :, None]                           # b c 1 n: group norm takes it as it lies
        return self.norm(x)[:, :, 0].transpose(1, 2).to(tokens.dtype)

    def _mix(self, qkv: Tensor) -> Tensor:  # b n (head 3 d) -> b n c
        qkv = qkv.unflatten(-1, (self.heads, 3, -1))                     # b n head 3 d
        q, k, v = qkv.transpose(1, 2).unbind(3)                          # each b head n d
        if q.shape[2] >= LONG:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        x = F.scaled_dot_product_attention(self.norm_q(q).to(v.dtype), self.norm_k(k).to(v.dtype), v)
        return x.transpose(1, 2).flatten(2)


class PlaneAttention(Attention):
    """Every plane attends to itself."""

    def forward(self, sheets: Sheets, side: Side, sizes: Sizes | None) -> Sheets:
        changes = self.branch(*(as_tokens(x, len(x)) for x in sheets))
        return [x + as_sheet(change, x) for x, change in zip(sheets, changes)]


class PackedAttention(Attention):
    """The planes attend to each other: all positions of a sample, in any order, are one sequence."""

    def forward(self, sheets: Sheets, batch: int) -> Sheets:
        parts = [as_tokens(x, batch) for x in sheets]
        tokens = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        change = self.branch(tokens)[0].split([part.shape[1] for part in parts], dim=1)
        return [as_sheet(part + c, x) for part, c, x in zip(parts, change, sheets)]
