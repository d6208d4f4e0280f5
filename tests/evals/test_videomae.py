"""VideoMAE against torch's own transformer layers with the same weights."""

import math

import pytest
import torch
from torch import nn

from evals.videomae import load_videomae, positions

WIDTH, DEPTH, HEADS, HIDDEN, SIZE, PATCH = 24, 2, 3, 40, 12, (2, 4, 4)


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(0)
    shapes = {"patch_embed.proj.weight": (WIDTH, 3, *PATCH), "patch_embed.proj.bias": (WIDTH,),
              "fc_norm.weight": (WIDTH,), "fc_norm.bias": (WIDTH,), "head.weight": (5, WIDTH), "head.bias": (5,)}
    for i in range(DEPTH):
        shapes |= {f"blocks.{i}.{key}": shape for key, shape in {
            "norm1.weight": (WIDTH,), "norm1.bias": (WIDTH,), "norm2.weight": (WIDTH,), "norm2.bias": (WIDTH,),
            "attn.q_bias": (WIDTH,), "attn.v_bias": (WIDTH,), "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,), "mlp.fc1.weight": (HIDDEN, WIDTH),
            "mlp.fc1.bias": (HIDDEN,), "mlp.fc2.weight": (WIDTH, HIDDEN), "mlp.fc2.bias": (WIDTH,)}.items()}
    return {key: torch.randn(shape, generator=draw) * 0.3 for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def net(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("videomae") / "vit.pth"
    torch.save({"module": {key: value.half() for key, value in state.items()}}, path)
    return load_videomae(path, size=SIZE, heads=HEADS)


def layer(state, i):
    """A pre-norm layer of torch with the weights of block i."""
    made = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0, activation="gelu", layer_norm_eps=1e-6,
                                      batch_first=True, norm_first=True).eval()
    part = lambda key: state[f"blocks.{i}.{key}"]  # noqa: E731
    made.load_state_dict({
        "self_attn.in_proj_weight": part("attn.qkv.weight"),
        "self_attn.in_proj_bias": torch.cat([part("attn.q_bias"), torch.zeros(WIDTH), part("attn.v_bias")]),
        "self_attn.out_proj.weight": part("attn.proj.weight"), "self_attn.out_proj.bias": part("attn.proj.bias"),
        "linear1.weight": part("mlp.fc1.weight"), "linear1.bias": part("mlp.fc1.bias"),
        "linear2.weight": part("mlp.fc2.weight"), "linear2.bias": part("mlp.fc2.bias"),
        **{f"norm{n}.{kind}": part(f"norm{n}.{kind}") for n in (1, 2) for kind in ("weight", "bias")}})
    return made


@torch.no_grad()
def test_features_are_those_of_torchs_transformer(state, net):
    state = {key: value.half().float() for key, value in state.items()}
    frames = torch.randint(0, 256, (2, 16, SIZE, SIZE, 3), dtype=torch.uint8)
    clip = frames.permute(0, 4, 1, 2, 3).float() / 255
    tokens = nn.functional.conv3d(clip, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], PATCH)
    tokens = tokens.flatten(2).mT  # time, then rows, then columns
    angle = lambda n, j: n / 10000 ** (2 * (j // 2) / WIDTH)  # noqa: E731
    tokens = tokens + torch.tensor([[math.cos(angle(n, j)) if j % 2 else math.sin(angle(n, j)) for j in range(WIDTH)]
                                    for n in range(tokens.shape[1])])
    for i in range(DEPTH):
        tokens = layer(state, i)(tokens)
    expected = nn.functional.layer_norm(tokens.mean(1), (WIDTH,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)
    torch.testing.assert_close(net.features(frames), expected, rtol=1e-4, atol=1e-5)
    assert net.dim == WIDTH and "2 layers of 24" in net.settings["network"]


def test_frames_are_stretched(net):
    frames = torch.zeros(1, 16, SIZE, 4 * SIZE, 3, dtype=torch.uint8)
    frames[:, :, :, :2] = 255  # a crop would not see it
    assert not torch.equal(net.features(frames), net.features(torch.zeros_like(frames)))


def test_positions_start_at_zero_and_turn():
    table = positions(3, 4)
    torch.testing.assert_close(table[0], torch.tensor([0.0, 1, 0, 1]))
    torch.testing.assert_close(table[2], torch.tensor([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]))


def test_other_lengths_and_files_are_refused(net, state, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"videos of 16 frames.*got 12"):
        net.features(torch.zeros(1, 12, 8, 8, 3, dtype=torch.uint8))
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="holds no VideoMAE"):
        load_videomae(tmp_path / "x.pth")
    torch.save(state, tmp_path / "y.pth")
    with pytest.raises(ValueError, match="width 24 is not published"):
        load_videomae(tmp_path / "y.pth")
    torch.save({k: v for k, v in state.items() if k != "blocks.1.norm2.bias"}, tmp_path / "z.pth")
    with pytest.raises(ValueError, match=r"missing: blocks.1.norm2.bias"):
        load_videomae(tmp_path / "z.pth", heads=HEADS)
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="download --name videomae"):
        load_videomae()
