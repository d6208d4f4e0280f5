"""The reader of released weights, on small state dicts in the names of the release."""

import json

import pytest
import torch

from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.pvdm import (
    is_pvdm_autoencoder,
    position_tables,
    pvdm_config,
    read_pvdm_autoencoder,
    released_key,
)
from tests.golden.fill import GOLDEN

CONFIG = AutoencoderConfig(
    channels=16, frames=3, resolution=[8, 12], patch=4, latent_channels=5, in_channels=1, depth=2, heads=3, head_dim=8,
    options={"projection_depth": 3, "projection_heads": 4, "projection_mlp": 20, "released": True})


@pytest.fixture
def net():
    return build_autoencoder(CONFIG).eval()


@pytest.fixture
def state(net):
    theirs = {released_key(key): value for key, value in net.state_dict().items()}
    for key in theirs:
        if key.startswith(("pre_", "post_")) and key.endswith("weight"):
            theirs[key] = theirs[key][..., None, None]
    return theirs | position_tables(CONFIG)


def test_names_are_those_of_the_release():
    config = AutoencoderConfig(channels=64, options={"released": True})
    with torch.device("meta"):
        ours = {released_key(key) for key in build_autoencoder(config).state_dict()}
    theirs = json.loads((GOLDEN / "pvdm_autoencoder_keys.json").read_text())
    assert ours == {key for key, entry in theirs.items() if entry["learnable"]}
    assert set(position_tables(config)) == {key for key, entry in theirs.items() if not entry["learnable"]}


def test_the_names_of_planes_are_set_right(net, state):
    # theirs: yt keeps t and w, so that it pools h; xt keeps t and h, so that it pools w
    assert released_key("pools.tw.position") == "yt_pos_embedding" and state["yt_pos_embedding"].shape[1] == 1 + 2
    assert released_key("pools.th.position") == "xt_pos_embedding" and state["xt_pos_embedding"].shape[1] == 1 + 3
    assert net.pools["tw"].read == 0, "the released output is the first token's"


def test_sizes_are_read_off_the_shapes(state):
    assert pvdm_config(state) == CONFIG


@pytest.mark.parametrize("wrap", [
    lambda s: s,
    lambda s: {f"module.{key}": value for key, value in s.items()},
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": {f"module.{key}": value for key, value in s.items()}},
])
def test_wrapped_states_are_read(net, state, wrap):
    assert is_pvdm_autoencoder(wrap(state))
    clip = torch.rand(1, *CONFIG.clip_shape) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(read_pvdm_autoencoder(wrap(state))(clip).clip, net(clip).clip, rtol=0, atol=0)


def test_half_precision_files_give_a_float32_model(state):
    halved = {key: value if "rot_emb" in key else value.bfloat16() for key, value in state.items() if key != "coords"}
    read = read_pvdm_autoencoder(halved | {"coords": state["coords"]})
    assert {p.dtype for p in read.parameters()} == {torch.float32}


def test_other_states_are_told_apart():
    assert not is_pvdm_autoencoder({"diffusion_model.time_embed.0.weight": torch.zeros(1)})
    assert not is_pvdm_autoencoder({"state_dict": {"conv.weight": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"not a PVDM autoencoder: .* its 1 keys \(such as conv.weight\)"):
        read_pvdm_autoencoder({"conv.weight": torch.zeros(1)})


def test_missing_and_unexpected_keys_are_listed(state):
    for i in range(7):
        state[f"extra.{i}"] = torch.zeros(1)
    del state["pre_xy.bias"], state["encoder.layers.1.2.norm.bias"]
    with pytest.raises(ValueError) as error:
        read_pvdm_autoencoder(state)
    assert "2 keys (encoder.layers.1.2.norm.bias, pre_xy.bias) missing" in str(error.value)
    assert "7 keys (extra.0, extra.1, extra.2, extra.3, extra.4, ...) unexpected" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_of_another_shape_is_named(state):
    state["decoder.layers.0.1.fn.to_out.0.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match=r"decoder.layers.0.1.fn.to_out.0.bias has shape \[9\], .* \[16\]"):
        read_pvdm_autoencoder(state)


def test_a_file_without_the_sizes_is_refused(state):
    del state["to_pixel.1.weight"]
    with pytest.raises(ValueError, match=r"to_pixel.1.weight is missing"):
        read_pvdm_autoencoder(state)


@pytest.mark.parametrize("key", ["encoder.frame_rot_emb.inv_freqs", "decoder.image_rot_emb.scales", "coords"])
def test_another_position_table_is_refused(state, key):
    state[key] = state[key] + 1e-3
    with pytest.raises(ValueError, match=f"{key} is not the position table"):
        read_pvdm_autoencoder(state)
