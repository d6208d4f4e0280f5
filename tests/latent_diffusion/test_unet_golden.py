"""PVDM's released U-Nets: golden outputs, sizes from key shapes, wrappers and refusals."""

import re

import numpy as np
import pytest
import torch

from autoencoder.planes import PlaneShape
from latent_diffusion.pvdm import infer_config, is_pvdm_unet, our_key, read_pvdm_unet
from latent_diffusion.unet import Norm, PlanesUNet, UNetConfig
from tests.golden.fill import GOLDEN, golden_state, golden_wave

COND, UNCOND = "pvdm_unet", "pvdm_unet_uncond"


@pytest.fixture(scope="module")
def states():
    return {name: golden_state(GOLDEN / f"{name}_keys.json", gain=1.0) for name in (COND, UNCOND)}


@pytest.mark.parametrize("name, output, conditional", [
    (COND, "eps_cond", True), (COND, "eps_uncond", False), (UNCOND, "eps", False)])
def test_output_is_that_of_the_release(states, name, output, conditional):
    net = read_pvdm_unet(states[name]).eval()
    x = golden_wave(2, 4, 2048)
    past = 0.7 * x.flip(-1) if conditional else None
    with torch.no_grad():
        eps = net(x, torch.tensor([3, 977]), past)
    truth = torch.from_numpy(np.load(GOLDEN / f"{name}.npz")[output])
    torch.testing.assert_close(eps, truth, atol=1e-4, rtol=0)


def test_past_of_an_unconditional_model_is_refused(states):
    net = read_pvdm_unet(states[UNCOND])
    x = golden_wave(1, 4, 2048)
    with pytest.raises(ValueError, match="unconditional"):
        net(x, torch.tensor([3]), x)


@pytest.mark.parametrize("wrap", [
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {key.removeprefix("diffusion_model."): value for key, value in state.items()},
    lambda state: {"model": state},
    lambda state: {"state_dict": state, "epoch": 3},
])
def test_wrappers_are_undone(states, wrap):
    state = wrap(states[COND])
    assert is_pvdm_unet(state)
    plain, wrapped = read_pvdm_unet(states[COND]).state_dict(), read_pvdm_unet(state).state_dict()
    torch.testing.assert_close(plain, wrapped, rtol=0, atol=0)


def test_every_tensor_is_taken_and_none_is_left_over(states):
    net = read_pvdm_unet(states[UNCOND])
    taken = sum(p.numel() for p in net.parameters())
    assert taken == sum(value.numel() for value in states[UNCOND].values())


def test_missing_and_extra_keys_are_named(states):
    state = dict(states[UNCOND])
    block = "diffusion_model.input_blocks.1.0."
    state[block + "bonus"] = state.pop(block + "in_layers.2.bias")
    with pytest.raises(ValueError, match=r"conv1\.bias.*bonus"):
        read_pvdm_unet(state)


@pytest.mark.parametrize("other", [{}, {"weight": torch.zeros(1)}, [1], None, {"state_dict": 3}])
def test_other_files_are_not_taken_for_a_unet(other):
    assert not is_pvdm_unet(other)


def test_another_latent_size_asks_for_its_shape(states):
    state = dict(states[COND])
    state["diffusion_model.zeros"] = torch.zeros(1, 4, 512)
    with pytest.raises(ValueError, match="512 latent positions"):
        read_pvdm_unet(state)
    net = read_pvdm_unet(state, PlaneShape(16, 16, 8))
    assert net.shape.total == 16 * 8 + 16 * 8 + 16 * 16


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
