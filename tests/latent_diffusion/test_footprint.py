from dataclasses import replace
from functools import cache

import pytest
import torch

from autoencoder.model import AutoencoderConfig, build_autoencoder
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.footprint import Footprint, autoencoder_footprint, memory, traffic, unet_footprint
from latent_diffusion.unet import UNetConfig
from tools import dry_run
from tools.speed import count_flops

MODEL = AutoencoderConfig(channels=32, frames=4, resolution=32, heads=2, head_dim=16, depth=2,
                          options={"projection_depth": 1, "projection_heads": 2, "projection_mlp": 32})
UNET = UNetConfig(width=32, mult=(1, 2), res_blocks=1, attention=(2, 1), heads=2)
CONCAT = {"name": "concat", "sees": ["past"], "mask": False}
COUNT = Footprint(parameters=1000, block=100, rest=200, frozen=50, clips=2, forward_flops=1, step_flops=3, activations=600,
                  alone=700)


@cache
def autoencoder(**options):
    return autoencoder_footprint(MODEL, **options)


@cache
def unet(grad_checkpoint=False, **options):
    return unet_footprint(replace(UNET, grad_checkpoint=grad_checkpoint), CONCAT, MODEL, **options)


def test_the_published_unet():
    with dry_run.hollow(lambda: LatentDenoiser(UNetConfig(), CONCAT, AutoencoderConfig().grid, 4, 16)) as net, torch.no_grad():
        flops, _ = count_flops(lambda: net(torch.empty(1, 4, 2048), torch.empty(1)))
        assert sum(p.numel() for p in net.parameters()) == 528_273_412
    assert round(flops / 1e9) == 243


def test_the_published_decoder():
    with dry_run.hollow(lambda: build_autoencoder(AutoencoderConfig())) as net, torch.no_grad():
        flops, _ = count_flops(lambda: net.decode(torch.empty(1, 4, 2048)))
        assert sum(p.numel() for p in net.parameters()) == 62_064_399
    assert round(flops / 1e9) == 1158


def test_a_backward_pass_takes_two_forward_ones():
    assert autoencoder().step_flops == pytest.approx(3 * autoencoder().forward_flops, rel=0.1)


def test_checkpointing_takes_up_to_a_third_more_time_and_less_memory():
    plain, saving = autoencoder(), autoencoder(grad_checkpoint=True)
    # what attention made is kept, and the last product of each part is not needed again
    assert 1.1 * plain.step_flops < saving.step_flops < 4 / 3 * plain.step_flops
    assert saving.activations < 0.8 * plain.activations and saving.parameters == plain.parameters
    assert unet(grad_checkpoint=True, clips=8).activations < unet(clips=8).activations


@pytest.mark.parametrize("count", [autoencoder, unet])
def test_activations_grow_with_the_clips(count):
    few, many = count(clips=8), count(clips=16)
    assert many.activations == pytest.approx(2 * few.activations, rel=0.15) and many.step_flops == few.step_flops


def test_blocks_and_the_rest_are_the_whole():
    count = autoencoder()
    with torch.device("meta"):
        net = build_autoencoder(MODEL)
    layers = [*net.encoder.layers, *net.decoder.layers, *(layer for pool in net.pools.values() for layer in pool.layers)]
    inside = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert (count.block, count.rest, count.parameters) == (max(inside), count.parameters - sum(inside),
                                                           sum(p.numel() for p in net.parameters()))


def test_the_autoencoder_lies_beside_the_unet():
    assert unet(clips=8).frozen == autoencoder().parameters


def test_gradients_come_as_activations_go():
    count = unet(clips=8)
    assert max(count.activations, 4 * count.parameters) <= count.alone <= count.activations + 4 * count.parameters


def test_a_condition_that_looks_at_values_is_refused():
    with pytest.raises(ValueError, match=r"condition.name=window .*; take concat"):
        unet_footprint(UNET, {"name": "window"}, MODEL)


def test_memory_of_one_process_and_of_ddp():
    for part in (memory(COUNT, averages=2), memory(COUNT, "ddp", 8, averages=2), memory(COUNT, "fsdp", 1, averages=2)):
        assert part == (4000, 4000, 8000, 8000, 200, 0, 600)
        assert part.total == 24800 and part.state == 24200


def test_shards_of_all_processes_are_the_whole():
    for n in (2, 8):
        part = memory(COUNT, "fsdp", n)
        assert [n * size for size in part[:4]] == [4000, 4000, 8000, 4000]
        assert part.gathered == 4 * (200 + 3 * 100) and part.frozen == 200
    assert memory(COUNT, "fsdp", 8, accumulate=True).gathered == part.gathered + 4000


def test_traffic_of_a_ring():
    # N processes: a sum passes all N parts but one around, twice; a gathering and a scattering once
    assert traffic(COUNT, "ddp", 2) == 4000 and traffic(COUNT, "ddp", 4) == 6000 and traffic(COUNT, "ddp", 1) == 0
    assert traffic(COUNT, "fsdp", 2) == (2 * 800 + 200 + 1000) * 4 / 2
    assert traffic(COUNT, "fsdp", 2, micro_batches=3) - traffic(COUNT, "fsdp", 2) == 2 * (2 * 800 + 200) * 4 / 2
    assert traffic(COUNT, "ddp", 2, micro_batches=3) == traffic(COUNT, "ddp", 2)
