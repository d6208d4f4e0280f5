"""The reader of released U-Nets, on small state dicts in the names of the release."""

import re

import pytest
import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.pvdm import PUBLISHED_SHAPE, infer_config, is_pvdm_unet, our_key, read_pvdm_unet
from latent_diffusion.unet import Norm, PlanesUNet, UNetConfig

SHAPE = PlaneShape(3, 4, 6)
CONFIG = UNetConfig(width=32, mult=(1, 2), res_blocks=1, attention=(2,), norm_groups=32)
LATENT = 4  # channels
BLOCK = "diffusion_model.input_blocks.1.0."


def unet(in_channels: int = LATENT) -> PlanesUNet:
    """A U-Net of which every layer speaks."""
    torch.manual_seed(in_channels)
    net = PlanesUNet(CONFIG, SHAPE, LATENT, in_channels)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def release(net: PlanesUNet) -> dict[str, torch.Tensor]:
    """Its state as PVDM writes it: attention projections are convolutions of length 1."""
    theirs = {release_key(key): value for key, value in net.state_dict().items()}
    theirs = {key: value[..., None] if key.endswith((".qkv.weight", ".proj_out.weight")) else value
              for key, value in theirs.items()}
    if net.in_channels > LATENT:
        theirs = {"zeros": torch.zeros(1, LATENT, net.shape.total)} | theirs
    return {f"diffusion_model.{key}": value for key, value in theirs.items()}


@pytest.fixture
def state():
    """Of a model that sees the clip before."""
    return release(unet(2 * LATENT))


def inputs():
    return *torch.randn(2, 2, LATENT, SHAPE.total), torch.tensor([3, 977])


# --- what is computed ----------------------------------------------------------------------------------------

@torch.no_grad()
def test_the_clip_before_follows_on_the_channels(state):
    net, (x, past, t) = read_pvdm_unet(state, SHAPE), inputs()
    assert net.cond and net.shape == SHAPE
    torch.testing.assert_close(net(x, t, past), unet(2 * LATENT)(torch.cat([x, past], 1), t))


@torch.no_grad()
def test_no_clip_before_is_one_of_zeros(state):
    net, (x, past, t) = read_pvdm_unet(state, SHAPE), inputs()
    torch.testing.assert_close(net(x, t), net(x, t, torch.zeros_like(past)))
    assert (net(x, t) - net(x, t, past)).abs().max() > 1e-3


@torch.no_grad()
def test_an_unconditional_model_takes_no_clip_before():
    net, (x, past, t) = read_pvdm_unet(release(unet()), SHAPE), inputs()
    assert not net.cond
    torch.testing.assert_close(net(x, t), unet()(x, t))
    with pytest.raises(ValueError, match=r"unconditional \(4 input channels\): leave `past` out"):
        net(x, t, past)


def test_half_precision_files_give_a_float32_model(state):
    net = read_pvdm_unet({key: value.half() for key, value in state.items()}, SHAPE)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    torch.testing.assert_close(net.net.conv_in.bias, state["diffusion_model.input_blocks.0.0.bias"], atol=1e-3, rtol=0)


# --- what is taken for one -----------------------------------------------------------------------------------

@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {f"module.model.{key}": value for key, value in state.items()},
    lambda state: {key.removeprefix("diffusion_model."): value for key, value in state.items()},
    lambda state: {"model": state},
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {"state_dict": {"model": {f"module.{key}": value for key, value in state.items()}}},
])
def test_wrappers_and_prefixes_are_undone(state, wrap):
    wrapped = wrap(state)
    assert is_pvdm_unet(wrapped)
    torch.testing.assert_close(read_pvdm_unet(wrapped, SHAPE).net.state_dict(), unet(2 * LATENT).state_dict(), rtol=0, atol=0)


def test_the_state_that_is_read_stays_as_it_was(state):
    keys = list(state)
    read_pvdm_unet(state, SHAPE)
    assert list(state) == keys


@pytest.mark.parametrize("other", [{}, {"weight": torch.zeros(1)}, [1], None, {"state_dict": 3}])
def test_other_files_are_not_taken_for_a_unet(other):
    assert not is_pvdm_unet(other)
    with pytest.raises(ValueError, match=r"not a PVDM U-Net: .*lacks time_embed"):
        read_pvdm_unet(other)


# --- what does not fit ---------------------------------------------------------------------------------------

def test_missing_and_unexpected_keys_are_listed(state):
    state[BLOCK + "bonus"] = state.pop(BLOCK + "in_layers.2.bias")
    for i in range(6):
        state[f"diffusion_model.extra{i}"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        read_pvdm_unet(state, SHAPE)
    text = str(error.value)
    assert "1 missing: down.0.blocks.0.conv1.bias" in text and "7 unexpected: down.0.blocks.0.bonus, extra0" in text
    assert "extra3, ..." in text and "extra4" not in text and "\n" not in text


def test_a_tensor_of_another_shape_is_named(state):
    state[BLOCK + "emb_layers.1.bias"] = torch.zeros(9)
    with pytest.raises(ValueError, match=r"down\.0\.blocks\.0\.emb\.bias \(9,\) for \(64,\)"):
        read_pvdm_unet(state, SHAPE)


def test_channels_that_are_no_condition_are_refused(state):
    state["diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 3 * LATENT, 3, 3)
    with pytest.raises(ValueError, match="reads 12 channels and writes 4"):
        read_pvdm_unet(state, SHAPE)


def test_a_torn_way_up_is_refused(state):
    torn = {key: value for key, value in state.items() if "output_blocks.3." not in key}
    with pytest.raises(ValueError, match="3 output_blocks for 2 levels"):
        read_pvdm_unet(torn, SHAPE)


# --- sizes ---------------------------------------------------------------------------------------------------

def test_without_a_shape_the_clip_is_the_published_one():
    assert read_pvdm_unet(release(unet())).shape == PUBLISHED_SHAPE
    assert PUBLISHED_SHAPE.total == 2048  # the published 4 x 2048 latent


def test_another_latent_size_asks_for_its_shape(state):
    with pytest.raises(ValueError, match=f"made for {SHAPE.total} latent positions, .* 2048: pass shape"):
        read_pvdm_unet(state)


@pytest.mark.parametrize("cfg", [
    UNetConfig(width=32, mult=(1,), res_blocks=1, attention=(1,)),
    UNetConfig(width=32, mult=(1, 3), res_blocks=3, attention=()),
    UNetConfig(width=64, mult=(1, 2, 2), res_blocks=2, attention=(4,)),
    UNetConfig(width=256),
])
def test_sizes_are_read_from_key_shapes(cfg):
    with torch.device("meta"):
        state = PlanesUNet(cfg, PlaneShape(4, 8, 8), 4).state_dict()
    released = {release_key(key): value for key, value in state.items()}
    found = infer_config(released)
    assert (found.width, found.mult, found.res_blocks) == (cfg.width, cfg.mult, cfg.res_blocks)
    assert sorted(found.attention) == sorted(cfg.attention)
    assert Norm(cfg.width, found.norm_groups).num_groups == 32
    assert [our_key(key) for key in released] == list(state)


def release_key(key):
    """Inverse of our_key, written apart from it."""
    key = re.sub(r"^down\.(\d+)", lambda m: f"down.{int(m[1]) + 1}", key)  # there, 0 is conv_in
    for ours, theirs in [
        (r"^down\.(\d+)\.blocks\.", r"input_blocks.\1."), (r"^down\.(\d+)\.mix\.", r"input_attns.\1."),
        (r"^up\.(\d+)\.blocks\.", r"output_blocks.\1."), (r"^up\.(\d+)\.mix\.", r"output_attns.\1."),
        (r"^middle\.blocks\.", "middle_block."), (r"^middle\.mix\.", "mid_attn."),
        (r"^conv_in\.", "input_blocks.0.0."), (r"^norm_out\.", "out.0."), (r"^conv_out\.", "out.2."),
        (r"\.norm1\.", ".in_layers.0."), (r"\.conv1\.", ".in_layers.2."), (r"\.emb\.", ".emb_layers.1."),
        (r"\.norm2\.", ".out_layers.0."), (r"\.conv2\.", ".out_layers.3."),
        (r"\.skip\.", ".skip_connection."), (r"\.out\.", ".proj_out."),
    ]:
        key = re.sub(ours, theirs, key)
    return key
