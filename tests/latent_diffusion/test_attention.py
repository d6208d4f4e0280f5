"""Attention over tokens against the softmax written out, and what it must not depend on."""

import math

import torch

from latent_diffusion.attention import PackedAttention, PlaneAttention
from latent_diffusion.unet import UNetConfig

CFG = UNetConfig(width=16, heads=4, zero_out=False)


def by_hand(attention, tokens):
    """What is added to the tokens b n c, head by head."""
    normed = attention.norm(tokens.transpose(1, 2)).transpose(1, 2)
    heads = attention.qkv(normed).unflatten(-1, (attention.heads, 3, -1))  # b n head 3 d
    out = []
    for h in range(attention.heads):
        q, k, v = heads[:, :, h].unbind(2)
        out.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    return attention.out(torch.cat(out, -1))


def test_the_branch_is_the_attention_written_out():
    torch.manual_seed(0)
    attention, tokens = PackedAttention(16, CFG).double(), torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(attention.branch(tokens)[0], by_hand(attention, tokens))


def test_planes_attend_alone_or_packed():
    torch.manual_seed(0)
    plane, packed = (kind(16, CFG).double() for kind in (PlaneAttention, PackedAttention))
    sheets = [torch.randn(2, 16, 3, 4, dtype=torch.float64), torch.randn(2, 16, 2, 4, dtype=torch.float64)]
    tokens = [sheet.flatten(2).transpose(1, 2) for sheet in sheets]
    for made, given in zip(plane(sheets, None, None), tokens):
        torch.testing.assert_close(made.flatten(2).transpose(1, 2), given + by_hand(plane, given))
    whole = torch.cat(tokens, 1)
    made = torch.cat([sheet.flatten(2).transpose(1, 2) for sheet in packed(sheets, 2)], 1)
    torch.testing.assert_close(made, whole + by_hand(packed, whole))


def test_qk_norm_ignores_the_size_of_queries_and_keys():
    attention = PackedAttention(16, UNetConfig(width=16, heads=4, qk_norm=True, zero_out=False)).double()
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    before = attention.branch(tokens)[0]
    with torch.no_grad():
        for p in (attention.qkv.weight, attention.qkv.bias):
            p.view(4, 3, 4, -1)[:, :2] *= 1000  # head, then q k v, then features
    torch.testing.assert_close(attention.branch(tokens)[0], before, rtol=1e-3, atol=1e-4)


def test_packed_attention_does_not_see_the_order():
    attention = PackedAttention(16, UNetConfig(width=16, heads=4, zero_out=False)).double()
    tokens, order = torch.randn(2, 9, 16, dtype=torch.float64), torch.randperm(9)
    torch.testing.assert_close(attention.branch(tokens[:, order])[0], attention.branch(tokens)[0][:, order])
