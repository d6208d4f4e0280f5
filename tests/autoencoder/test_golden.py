"""PVDM's released numbers: weights under its names give its latent and its reconstruction."""

import numpy as np
import pytest
import torch

from autoencoder.pvdm import read_pvdm_autoencoder
from tests.golden.fill import GOLDEN, golden_clip, golden_state


@pytest.fixture(scope="module")
def net():
    return read_pvdm_autoencoder(golden_state(GOLDEN / "pvdm_autoencoder_keys.json", gain=0.5))


@torch.no_grad()
def test_latent_and_reconstruction_are_those_of_the_release(net):
    golden = {key: torch.from_numpy(value) for key, value in np.load(GOLDEN / "pvdm_autoencoder.npz").items()}
    latent = net.encode(golden_clip(1, 3, 16, 256, 256))
    torch.testing.assert_close(latent, golden["latent"], rtol=0, atol=1e-4)
    clip = net.decode(latent)
    frames = clip[0].transpose(0, 1)  # t c h w
    torch.testing.assert_close(frames[..., ::8, ::8], golden["reconstruction_s8"], rtol=0, atol=1e-4)
