"""Attention among the clips of a window, token by token, and what its bias knows."""

import math

import pytest
import torch

from autoencoder.planes import PlaneShape, unpack
from latent_diffusion.cross_slot import CrossSlotAttention, Memory, SlotView, distance_features
from latent_diffusion.sheets import equal_planes, to_sheets
from latent_diffusion.unet import UNetConfig

FRAMES = 6


def middles(t, rows):
    """Middle frame of each time row of a clip, its rows halved until they are as few."""
    spans = [(i, i + 1) for i in range(t)]
    while len(spans) > rows:
        pairs = [spans[i:i + 2] for i in range(0, len(spans), 2)]
        spans = [(pair[0][0], pair[-1][1]) for pair in pairs]
    return [(first + end) / 2 * FRAMES / t for first, end in spans]


def by_hand(layer, x, start, whole, there, time, t):
    """The attention of one sample, token by token: x is s c r w (r = 1 where there is no time)."""
    s, c, r, w = x.shape
    head = c // layer.heads
    rows = middles(t, r) if time else [FRAMES / 2]
    normed = torch.stack([layer.norm(slot[None])[0] for slot in x])
    q, k, v = layer.qkv(normed.permute(0, 2, 3, 1)).unflatten(-1, (layer.heads, 3, head)).unbind(4)  # s r w heads d
    q, k = layer.norm_q(q), layer.norm_k(k)
    out = torch.zeros(s, r, w, layer.heads, head, dtype=x.dtype)
    first = layer.heads if time else 0
    for column in range(w):
        for i in range(s):
            for row in range(r):
                seen = [(j, other) for j in range(s) for other in range(r)
                        if i == j or (there[j] and (whole[j] or not whole[i]))]
                for h in range(layer.heads):
                    logits = []
                    for j, other in seen:
                        d = torch.tensor(start[j] + rows[other] - start[i] - rows[row], dtype=torch.float32)
                        bias = layer.place(distance_features(d).double())[first + h]
                        logits.append(q[i, row, column, h] @ k[j, other, column, h] / math.sqrt(head) + bias)
                    share = torch.stack(logits).softmax(0)
                    out[i, row, column, h] = sum(p * v[j, other, column, h] for p, (j, other) in zip(share, seen))
    return x + layer.out(out.flatten(3)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("shape", [PlaneShape(3, 4, 2), PlaneShape(2, 2, 2), PlaneShape(1, 2, 3)])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_it_is_the_attention_over_gathered_tokens(shape, qk_norm):
    torch.manual_seed(0)
    cfg = UNetConfig(width=8, heads=2, mult=(1,), attention=(), zero_out=False, qk_norm=qk_norm)
    layer = CrossSlotAttention(8, cfg).double()
    x = torch.randn(2, 3, 8, shape.total, dtype=torch.float64)
    start = torch.tensor([[0, 5, 40], [7, 2, 2]])
    whole, there = torch.tensor([[True, False, False], [False, True, True]]), torch.tensor([[True] * 3, [True, False, True]])
    whole &= there
    groups = equal_planes(shape)
    view = SlotView(shape, groups, FRAMES, start, whole, there)
    made = layer(to_sheets(x.flatten(0, 1), shape, groups), view)
    for sheet, group in zip(made, groups):
        for plane, own in zip(group, sheet.unflatten(0, (2, 3, len(group))).unbind(2)):
            for b in range(2):
                given = unpack(x[b], shape)[plane]
                if plane:
                    wanted = by_hand(layer, given, start[b].tolist(), whole[b], there[b], True, shape.t)
                else:
                    flat = by_hand(layer, given.flatten(2)[:, :, None], start[b].tolist(), whole[b], there[b], False, shape.t)
                    wanted = flat[:, :, 0].unflatten(2, (shape.h, shape.w))
                torch.testing.assert_close(own[b], wanted)


def test_rows_of_a_halved_grid_stand_for_the_frames_that_they_cover():
    view = SlotView(PlaneShape(5, 2, 2), [[0], [1], [2]], 10, torch.tensor([[0, 20]]), *torch.ones(2, 1, 2, dtype=torch.bool))
    assert view.apart(3)[0, 0].tolist() == [0, 4, 7, 20, 24, 27]  # middles 2, 6 and 9
    assert view.apart(1)[0, 1].tolist() == [-20, 0]
    assert view.apart(5)[0, 4, 5] == 12  # from the last row of the first clip, at 9, to the first of the second


def test_the_bias_knows_distance_and_direction():
    far = distance_features(torch.tensor([0.0, 3.0, -3.0]))
    assert torch.equal(far, torch.tensor([[0, 0, 1], [math.log(4), 0, 0], [0, math.log(4), 0]]))


def remembered(layer):
    memory = Memory(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    memory.kept[layer] = [tuple(torch.randn(1, 3, 2, 4, 5) for _ in range(2)) for _ in range(2)]
    return memory, [tuple(x.clone() for x in pair) for pair in memory.kept[layer]]


@pytest.mark.parametrize("grad", [True, False])
def test_what_is_remembered_stands_before_what_is_new(grad):
    memory, known = remembered(layer := torch.nn.Identity())
    with torch.set_grad_enabled(grad):
        for count in (2, 2, 3):  # three evaluations, the last of more slots
            for plane, pair in enumerate(known):
                new = [torch.randn(1, 3, 2, count, 5) for _ in range(2)]
                for made, held, own in zip(memory.joined(layer, plane, *new), pair, new):
                    assert torch.equal(made, torch.cat([held, own], dim=3))


@torch.no_grad()
def test_known_keys_are_copied_once():
    memory, _ = remembered(layer := torch.nn.Identity())
    places = [memory.joined(layer, 0, *torch.randn(2, 1, 3, 2, 1, 5))[0].data_ptr() for _ in range(3)]
    assert len(set(places)) == 1 and memory.kept[layer][0][0].data_ptr() == places[0]  # and held once
