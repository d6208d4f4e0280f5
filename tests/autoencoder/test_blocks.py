"""The autoencoder's transformer blocks against the same mathematics written as loops."""

import cmath
import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autoencoder import blocks
from autoencoder.blocks import (
    Attention,
    FeedForward,
    Pool,
    PoolLayer,
    SpaceTimeLayer,
    SpaceTimeTransformer,
    frame_frequencies,
    frame_rotary,
    grid_rotary,
    grid_scales,
    in_pieces,
    rotate,
    run,
)
from autoencoder.planes import PlaneShape

DIM, HEADS, HEAD = 12, 3, 16
GRID = PlaneShape(3, 2, 4)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def spread(module):
    """Parameters far from their start, where a wrong bias or norm weight would show."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return module.double()


def normed(x, norm):
    """Layer norm of one vector."""
    centred = x - x.mean()
    return centred / ((centred**2).mean() + norm.eps).sqrt() * norm.weight + norm.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attended(layer, x, table=None, paired=True):
    """Attention of one sequence n c, head by head and query by query."""
    size = layer.qkv.out_features // 3 // layer.heads
    projected = torch.stack([layer.qkv.weight @ normed(token, layer.norm) for token in x])
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(layer.heads):
            q, k, v = (projected[:, (part * layer.heads + head) * size:][:, :size] for part in range(3))
            if table is not None:
                q, k = rotate(q, table, paired), rotate(k, table, paired)
            scores = torch.stack([q[i] @ key for key in k]) / math.sqrt(size)
            weights = scores.exp() / scores.exp().sum()
            heads.append(sum(weight * value for weight, value in zip(weights, v)))
        rows.append(x[i] + layer.out.weight @ torch.cat(heads) + layer.out.bias)
    return torch.stack(rows)


def fed(layer, x):
    """Feed-forward of one vector."""
    y = layer.up.weight @ normed(x, layer.norm) + layer.up.bias
    if layer.gated:
        half = len(y) // 2
        y = y[:half] * gelu(y[half:])
    else:
        y = gelu(y)
    return x + layer.down.weight @ y + layer.down.bias


# --- rotary positions ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("dim", [2, 8, 64])
def test_frame_frequencies_are_roformers(dim):
    wanted = [10000 ** (-2 * i / dim) for i in range(dim // 2)]
    torch.testing.assert_close(frame_frequencies(dim), torch.tensor(wanted, dtype=torch.float64))


def test_grid_scales_rise_geometrically_from_1_to_5():
    assert grid_scales(32).tolist() == pytest.approx([5 ** (i / 7) for i in range(8)])


@pytest.mark.parametrize("paired, frequency_of", [(True, lambda feature: feature // 2), (False, lambda feature: feature % 4)])
def test_frame_table_holds_the_angle_of_each_feature(paired, frequency_of):
    cos, sin = frame_rotary(5, 8, paired)
    for t in range(5):
        for feature in range(8):
            angle = t * 10000 ** (-2 * frequency_of(feature) / 8)
            assert (float(cos[t, feature]), float(sin[t, feature])) == pytest.approx((math.cos(angle), math.sin(angle)))


def test_grid_table_turns_half_of_the_features_by_row_and_half_by_column():
    h, w, dim = 3, 5, 8
    cos, sin = (table.reshape(h, w, dim) for table in grid_rotary(h, w, dim))
    for row in range(h):
        for column in range(w):
            for feature in range(dim):
                scale = (1, 5)[feature % 4 // 2]
                place = row / (h - 1) if feature < 4 else column / (w - 1)
                angle = math.pi * scale * (2 * place - 1)
                here = row, column, feature
                assert (float(cos[here]), float(sin[here])) == pytest.approx((math.cos(angle), math.sin(angle)))


def test_rotation_is_a_complex_product_of_each_pair():
    x, table = random(4, 8), frame_rotary(4, 8)
    turned = rotate(x, table)
    for t in range(4):
        for pair in range(4):
            angle = t * 10000 ** (-2 * pair / 8)
            value = complex(*x[t, 2 * pair:2 * pair + 2].tolist()) * cmath.exp(1j * angle)
            assert complex(*turned[t, 2 * pair:2 * pair + 2].tolist()) == pytest.approx(value)


def test_the_released_rotation_uses_each_features_own_angle():
    x, (cos, sin) = random(3, 4), frame_rotary(3, 4, paired=False)
    wanted = torch.stack([x[:, 0] * cos[:, 0] - x[:, 1] * sin[:, 0], x[:, 1] * cos[:, 1] + x[:, 0] * sin[:, 1],
                          x[:, 2] * cos[:, 2] - x[:, 3] * sin[:, 2], x[:, 3] * cos[:, 3] + x[:, 2] * sin[:, 3]], dim=1)
    torch.testing.assert_close(rotate(x, torch.stack([cos, sin]), paired=False), wanted)


@pytest.mark.parametrize("table", [frame_rotary(6, 8), grid_rotary(2, 3, 8)], ids=["frames", "grid"])
def test_rotation_keeps_lengths_and_is_undone_by_the_opposite_angle(table):
    x = random(2, 5, 6, 8)  # any leading axes
    turned = rotate(x, table)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(turned, torch.stack([table[0], -table[1]])), x)


def test_rotation_has_the_gradient_of_its_definition_and_writes_each_head_together():
    x, table = random(2, 6, 3, 8).requires_grad_(), frame_rotary(6, 8)
    heads = x.transpose(1, 2)  # b m n d, but not so in memory
    assert rotate(heads, table).is_contiguous()
    assert torch.autograd.gradcheck(lambda x: rotate(x.transpose(1, 2), table), x)


def test_rotation_keeps_the_precision_of_its_input():
    x, table = random(6, 8), frame_rotary(6, 8)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 0.05)):  # bfloat16 has no complex numbers
        turned = rotate(x.to(dtype), table)
        assert turned.dtype == dtype
        torch.testing.assert_close(turned.double(), rotate(x, table), rtol=0, atol=tolerance)


# --- layers --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("table, paired", [(None, True), (frame_rotary(6, HEAD), True), (frame_rotary(6, HEAD, False), False),
                                           (grid_rotary(2, 3, HEAD), True)], ids=["plain", "frames", "released", "grid"])
def test_attention_is_a_softmax_over_all_positions(table, paired):
    layer, x = spread(Attention(DIM, HEADS, HEAD)), random(2, 6, DIM)
    wanted = torch.stack([attended(layer, row, table, paired) for row in x])
    torch.testing.assert_close(layer(x, table, paired), wanted)


def test_attention_without_positions_follows_any_order():
    layer, x, order = spread(Attention(DIM, HEADS, HEAD)), random(2, 6, DIM), torch.randperm(6)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_is_one_perceptron_for_every_token(gated):
    layer, x = spread(FeedForward(DIM, 7, gated)), random(2, 3, DIM)
    wanted = torch.stack([torch.stack([fed(layer, token) for token in row]) for row in x])
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("paired", [True, False])
def test_a_space_time_layer_looks_along_time_then_within_each_frame(paired):
    layer, x = spread(SpaceTimeLayer(DIM, HEADS, HEAD, paired)), random(2, GRID.t, GRID.h, GRID.w, DIM)
    frames, places = frame_rotary(GRID.t, HEAD, paired), grid_rotary(GRID.h, GRID.w, HEAD)
    wanted = x.clone()
    for i in range(GRID.h):
        for j in range(GRID.w):
            wanted[:, :, i, j] = layer.time(wanted[:, :, i, j], frames, paired)
    for t in range(GRID.t):
        wanted[:, t] = layer.space(wanted[:, t].flatten(1, 2), places).unflatten(1, (GRID.h, GRID.w))
    torch.testing.assert_close(layer(x, frames, places), layer.feed(wanted))


# --- the trunk -----------------------------------------------------------------------------------------------

def trunk(paired=True, depth=2):
    return spread(SpaceTimeTransformer(GRID, DIM, depth=depth, heads=HEADS, head_dim=HEAD, paired=paired))


@pytest.mark.parametrize("paired", [True, False])
def test_the_trunk_is_its_layers_with_the_tables_of_its_grid(paired):
    net, x = trunk(paired), random(2, GRID.t, GRID.h, GRID.w, DIM)
    tables = frame_rotary(GRID.t, HEAD, paired), grid_rotary(GRID.h, GRID.w, HEAD)
    wanted = net.layers[1](net.layers[0](x, *tables), *tables)
    torch.testing.assert_close(net(x), wanted, atol=1e-5, rtol=1e-5)  # it keeps its tables in single precision


@pytest.mark.parametrize("axes", [(1,), (2, 3)], ids=["time", "space"])
def test_what_does_not_change_along_time_or_space_still_does_not(axes):
    x = random(2, GRID.t, GRID.h, GRID.w, DIM).mean(axes, keepdim=True).expand(2, GRID.t, GRID.h, GRID.w, DIM)
    made = trunk()(x)
    torch.testing.assert_close(made, made.mean(axes, keepdim=True).expand_as(made))


def test_frames_and_places_are_told_apart():
    net, x = trunk(), random(1, GRID.t, GRID.h, GRID.w, DIM)
    for axis in (1, 2, 3):
        assert (net(x.flip(axis)).flip(axis) - net(x)).abs().max() > 1e-3


def test_position_tables_follow_from_the_grid_and_are_in_no_file():
    net = trunk()
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
    assert {name for name, _ in net.named_buffers()} == {"frame_table", "grid_table"}


# --- pooling -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("read", [-1, 0, 2])
@pytest.mark.parametrize("depth", [1, 3])
def test_pooling_reads_one_position_of_a_transformer_with_the_query_last(read, depth):
    pool, x = spread(Pool(5, 16, depth=depth, heads=2, hidden=9, read=read)), random(4, 5, 16)
    wanted = []
    for row in x:
        tokens = torch.cat([row, pool.query[0]]) + pool.position[0]
        for layer in pool.layers:
            tokens = torch.stack([fed(layer.feed, token) for token in attended(layer.attend, tokens)])
        wanted.append(tokens[read])
    torch.testing.assert_close(pool(x), torch.stack(wanted))


def test_pooling_does_not_care_in_which_order_tokens_and_their_positions_come():
    pool, x, order = spread(Pool(5, 16, depth=2, heads=2, hidden=9)), random(3, 5, 16), torch.randperm(5)
    before = pool(x)
    with torch.no_grad():
        pool.position[:, :5] = pool.position[:, order].clone()
    torch.testing.assert_close(pool(x[:, order]), before)


@pytest.mark.parametrize("index", [0, 3, -1])
def test_a_pooling_layer_at_one_position_is_that_of_all(index):
    layer, x = spread(PoolLayer(16, 2, 4, 9)), random(3, 5, 16)
    torch.testing.assert_close(layer(x, index)[:, 0], layer(x)[:, index])


@pytest.mark.parametrize("layer", [FeedForward(DIM, 8, True), FeedForward(DIM, 8, False), Attention(DIM, HEADS, HEAD)])
def test_without_gradients_the_numbers_and_the_input_stay(layer):
    layer, x = spread(layer), random(2, 5, DIM)
    before, wanted = x.clone(), layer(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer(x[:, ::2]), layer(x[:, ::2].contiguous()))  # does not lie together
    assert torch.equal(x, before)


# --- memory --------------------------------------------------------------------------------------------------

class Counted(torch.nn.Linear):
    """Knows how many sequences each call brought."""

    def __init__(self):
        super().__init__(2, 2)
        self.calls = []

    def forward(self, x, *args):
        self.calls.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize("saving, grad, calls", [(False, True, 1), (True, True, 2), (True, False, 1)])
def test_saving_computes_again_only_where_there_is_a_gradient(saving, grad, calls):
    layer, x = Counted(), torch.randn(3, 2, requires_grad=grad)
    with torch.set_grad_enabled(grad):
        out = run(layer, x, saving=saving)
        if grad:
            out.sum().backward()
            torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 2))
    assert len(layer.calls) == calls


@pytest.mark.parametrize("shape, parts", [((5, 4, 2), [2, 2, 1]), ((5, 2, 2, 2), [2, 2, 1]), ((2, 4, 2), [2]),
                                          ((3, 20, 2), [1, 1, 1]), ((9, 2), [8, 1])])
def test_a_cpu_takes_so_many_tokens_at_once(monkeypatch, shape, parts):
    monkeypatch.setattr(blocks, "PIECE", 8)
    layer, x = Counted(), torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(layer, x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    assert layer.calls == parts


@pytest.mark.parametrize("saving", [False, True])
def test_training_in_pieces_has_the_gradients_of_all_at_once(monkeypatch, saving):
    layer, x = SpaceTimeLayer(DIM, HEADS, HEAD, True), random(2, GRID.t, GRID.h, GRID.w, DIM)
    tables, found = (frame_rotary(GRID.t, HEAD), grid_rotary(GRID.h, GRID.w, HEAD)), []
    spread(layer)
    for piece, keep in ((1 << 20, False), (GRID.h * GRID.w, saving)):
        monkeypatch.setattr(blocks, "PIECE", piece)
        layer.zero_grad()
        layer(x, *tables, keep).square().mean().backward()
        found.append([p.grad.clone() for p in layer.parameters()])
    for whole, pieces in zip(*found):
        torch.testing.assert_close(pieces, whole)


class Calls(TorchDispatchMode):
    """Counts the calls of attention and of matrix products."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count["attention" if func in blocks.ATTENTIONS else func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_saving_computes_linear_layers_again_but_no_attention():
    layer = SpaceTimeLayer(DIM, HEADS, HEAD, True).double()
    tables = frame_rotary(GRID.t, HEAD), grid_rotary(GRID.h, GRID.w, HEAD)
    found = {}
    for saving in (False, True):
        with Calls() as calls:
            layer(random(1, GRID.t, GRID.h, GRID.w, DIM).requires_grad_(), *tables, saving).sum().backward()
        found[saving] = calls.count
    assert found[True]["attention"] == found[False]["attention"] == 2
    assert found[True]["gelu"] == 2 * found[False]["gelu"] == 2
