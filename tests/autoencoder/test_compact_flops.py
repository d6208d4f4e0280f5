"""The count of the compact autoencoder's operations, beside PyTorch's own."""

import pytest
import torch

from autoencoder.compact_flops import compact_flops
from autoencoder.flops import published_flops
from autoencoder.model import AutoencoderConfig, build_autoencoder
from configs.schema import FOLDER, SCHEMAS, load_config
from tools.speed import count_flops


@pytest.mark.parametrize("sizes, options", [
    ({"frames": 4, "resolution": 16, "depth": 3}, {"fine_channels": 10, "fine_depth": 3}),
    ({"frames": 4, "resolution": [16, 24], "depth": 2}, {"fine_channels": 6, "fine_depth": 1, "plane_depth": 2,
                                                                   "time_patch": 2}),
    ({"frames": 1, "resolution": 16, "depth": 1}, {"fine_channels": 10, "fine_depth": 2, "plane_depth": 0})],
    ids=["odd depths", "time patch", "one frame"])
def test_every_product_is_counted(sizes, options):
    config = AutoencoderConfig(arch="compact", channels=24, patch=4, heads=2, head_dim=8, options=options, **sizes)
    net = build_autoencoder(config)
    with torch.no_grad():
        encoding, latent = count_flops(lambda: net.encode(torch.zeros(1, *config.clip_shape)))
        decoding, _ = count_flops(lambda: net.decode(latent))
    assert compact_flops(config, **options) == (encoding, decoding)


def test_the_fast_autoencoder_makes_the_published_latent_for_a_quarter():
    files = (FOLDER / "autoencoder" / name for name in ("base.yaml", "fast.yaml"))
    base, fast = (load_config(SCHEMAS["first_stage"], file).model for file in files)
    assert (fast.clip_shape, fast.latent_channels, fast.tanh) == (base.clip_shape, base.latent_channels, base.tanh)
    with torch.device("meta"):
        assert build_autoencoder(fast).shape == build_autoencoder(base).shape
    assert sum(compact_flops(fast, **fast.options)) < sum(published_flops(base)) / 4
