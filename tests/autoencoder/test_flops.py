"""The published count of operations, against a counter over the layers without shortcuts."""

import pytest
import torch

from autoencoder.flops import published_flops
from autoencoder.model import AutoencoderConfig, build_autoencoder
from tools.speed import count_flops


@torch.no_grad()
def counted(config: AutoencoderConfig) -> tuple[int, int]:
    net = build_autoencoder(config).eval()
    for pool in net.pools.values():  # all positions of the last layer too, as in PVDM's code
        pool.layers[-1].forward = lambda x, index, layer=pool.layers[-1]: type(layer).forward(layer, x)[:, [index]]
    encoding, latent = count_flops(lambda: net.encode(torch.zeros(1, *config.clip_shape)))
    return encoding, count_flops(lambda: net.decode(latent))[0]


@pytest.mark.parametrize("config", [
    AutoencoderConfig(channels=16, frames=3, resolution=[8, 24], patch=4, depth=2, heads=3, head_dim=4),
    AutoencoderConfig(channels=24, frames=2, resolution=6, patch=2, in_channels=1, latent_channels=5, depth=1, heads=2,
                      head_dim=8, options={"projection_depth": 3, "projection_heads": 2, "projection_mlp": 20})])
def test_it_is_what_the_plain_layers_compute(config):
    assert published_flops(config, **config.options) == counted(config)


def test_the_published_size_takes_the_published_count():
    assert [round(flops / 1e9) for flops in published_flops(AutoencoderConfig())] == [1444, 1158]
