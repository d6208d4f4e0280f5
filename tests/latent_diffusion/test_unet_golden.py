"""PVDM's released U-Nets give the outputs of the published code."""

import numpy as np
import pytest
import torch

from latent_diffusion.pvdm import read_pvdm_unet
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


def test_every_tensor_is_taken_and_none_is_left_over(states):
    net = read_pvdm_unet(states[UNCOND])
    taken = sum(p.numel() for p in net.parameters())
    assert taken == sum(value.numel() for value in states[UNCOND].values())
