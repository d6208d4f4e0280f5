"""The benchmark of cached latents tells where the time of a step goes."""

import time

import pytest
from fakes import PixelNet, diffusion_config

from autoencoder.codec import Codec
from latent_diffusion.bench_latents import Seconds, _summary, measure

SLOW = 0.05  # seconds that a clip takes to encode


class SlowNet(PixelNet):
    def encode(self, clip):
        time.sleep(SLOW * len(clip))
        return super().encode(clip)


@pytest.fixture(scope="module")
def measured():
    cfg = diffusion_config("unet.mult=[1]", "unet.attention=[1]", "data.options.length=9", "data.options.count=2",
                           "loop.batch_size=2", "mask={name: fixed, known: '0-3'}")
    return measure(cfg, Codec(SlowNet()), steps=3, warmup=1, windows_per_video=1, draws=1)


def test_the_encoder_is_in_the_live_step_and_not_in_the_cached_one(measured):
    assert measured["live"]["encoder_seconds"] > 4 * SLOW  # past and target of two windows
    assert measured["cached"]["encoder_seconds"] < measured["live"]["encoder_seconds"]
    assert measured["live"]["step_seconds"] > measured["live"]["encoder_seconds"]


def test_shares_are_of_the_step():
    rows = [Seconds(1.0, 2.0, 10.0), Seconds(2.0, 2.0, 8.0), Seconds(0.0, 1.0, 10.0)]  # shares 0.3, 0.5 and 0.1
    assert _summary(rows) == {"step_seconds": 10.0, "data_seconds": 1.0, "encoder_seconds": 2.0, "share": pytest.approx(0.3)}


def test_steps_of_both_kinds_and_the_cache_are_told(measured):
    assert all(0 < measured[kind]["share"] < 1 for kind in ("live", "cached"))
    assert measured["speed"] == measured["live"]["step_seconds"] / measured["cached"]["step_seconds"]
    assert (measured["cache"]["windows"], measured["cache"]["clips"]) == (2, 4)
    assert measured["cache"]["seconds"] > 4 * SLOW
