"""What the parts of the benchmark run, on the tiny configurations."""

import pytest
import torch
from fakes import diffusion_config, first_config

from autoencoder.blocks import PoolLayer
from latent_diffusion import bench_parts
from latent_diffusion.bench_parts import SAMPLE_STEPS, Settings, make_codec, make_net
from tools import speed
from tools.speed import count_flops


@pytest.fixture(scope="module")
def settings():
    return Settings(first_config(), diffusion_config("unet.mult=[1]", "unet.attention=[1]"), repeats=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(speed, "CPU_SIDE", 64)


@pytest.fixture
def calls(monkeypatch):
    """What is timed, run under the counter of operations."""
    counted = []

    def timed(call, settings, *, gflop):
        counted.append((count_flops(call)[0] / 1e9, gflop))
        return {}
    monkeypatch.setattr(bench_parts, "_timed", timed)
    return counted


@pytest.fixture
def unabridged(monkeypatch):
    """Compute all positions of a pooled sequence, as the published count has it."""
    forward = PoolLayer.forward
    monkeypatch.setattr(PoolLayer, "forward",
                        lambda self, x, index=None: forward(self, x) if index is None else forward(self, x)[:, [index]])


@pytest.mark.parametrize("part", ["encode", "decode", "unet", "sample"])
def test_the_operations_told_are_those_that_are_timed(settings, calls, unabridged, part):
    getattr(bench_parts, part)(settings)
    ((done, told),) = calls
    assert done == pytest.approx(told, rel=2e-3)  # sampling reads a context once for all evaluations


@pytest.mark.parametrize("part", ["train_autoencoder", "train_unet"])
def test_an_update_is_worth_about_three_passes(settings, calls, unabridged, part):
    getattr(bench_parts, part)(settings)
    ((done, told),) = calls
    assert done == pytest.approx(told, rel=0.1)  # the input needs no gradient; attention's scores are made again


@pytest.mark.parametrize("condition", [{"name": "concat", "sees": ["past"]}, {"name": "window", "slots": 3}])
def test_an_update_of_the_second_stage_moves_its_weights(monkeypatch, condition):
    settings = Settings(first_config(), diffusion_config("unet.mult=[1]", "unet.attention=[]", "optim.warmup=0"), repeats=1)
    settings = settings._replace(second=bench_parts.replace(settings.second, condition=condition))
    nets, make = [], make_net
    monkeypatch.setattr(bench_parts, "make_net", lambda s: nets.append(make(s)) or nets[0])
    result = bench_parts.train_unet(settings)
    before = make(settings).state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in nets[0].state_dict().items())
    assert result["seconds"] > 0 and result["peak_mb"] > 0


def test_sampling_evaluates_the_network_as_often_as_it_says(settings, monkeypatch):
    calls, make = [], make_net

    def counting(s):
        net = make(s)
        net.unet.register_forward_hook(lambda *args: calls.append(1))
        return net
    monkeypatch.setattr(bench_parts, "make_net", counting)
    monkeypatch.setattr(bench_parts, "_timed", lambda call, settings, **options: calls.clear() or call() is None or {})
    assert bench_parts.sample(settings)["steps"] == SAMPLE_STEPS == len(calls)


def test_the_network_fits_the_latents_of_the_autoencoder(settings):
    codec, net = make_codec(settings.first), make_net(settings)
    assert (net.shape, net.channels, net.frames) == (codec.shape, codec.channels, codec.frames)


def test_samplers_are_compared_on_the_model_and_the_data_that_are_given(settings, monkeypatch):
    asked = {}
    monkeypatch.setattr(bench_parts.bench_samplers, "measure", lambda **options: asked.update(options) or {})
    bench_parts.samplers(settings._replace(model="run", data_path="videos"))
    assert asked == {"model": "run", "data": "SHAPES", "data_path": "videos"}


def test_long_videos_are_made_by_their_own_networks(settings, monkeypatch):
    sizes = []
    monkeypatch.setattr(bench_parts.bench_long, "measure", lambda model: sizes.append(model.model.net.unet.cfg.width))
    wide = diffusion_config("unet.mult=[1]", "unet.attention=[1]", "unet.width=32")
    for long in (None, (settings.first, wide)):
        bench_parts.long_video(settings._replace(long=long))
    assert sizes == [settings.second.unet.width, 32]


def test_videos_are_made_where_none_are_given(settings):
    assert bench_parts.data(settings)["kinds"]["mp4"]["files"] == 2
