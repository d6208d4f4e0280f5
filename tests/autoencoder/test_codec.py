"""The codec: the only owner of latent statistics, exact at given frames, read from whatever stands for a model."""

import pytest
import torch
from fakes import PixelNet, autoencoder, autoencoder_payload, first_config, video

from autoencoder.codec import Codec, LatentStats, load_autoencoder, per_position
from autoencoder.planes import PlaneShape
from tools import checkpoint
from tools.modelfile import WEIGHTS
from tools.video import to_clip, to_frames

STATS = LatentStats(torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[2.0], [0.25], [4.0]]))


def pixel_codec(stats=STATS, **options):
    return Codec(PixelNet(**options), stats)


def test_statistics_reach_their_planes():
    shape, values = PlaneShape(2, 3, 4), torch.arange(6.0).view(3, 2)
    spread = per_position(values, shape)
    assert spread.shape == (2, shape.total)
    for plane, value in zip(spread.split(shape.sizes, dim=-1), values):
        assert torch.equal(plane, value[:, None].expand_as(plane))


def test_encode_normalises_what_the_net_says():
    codec, clip = pixel_codec(), torch.rand(3, 1, 4, 2, 2) * 2 - 1
    raw = codec.net.encode(clip)
    hw, tw, th = codec.encode(clip).split(codec.shape.sizes, dim=-1)
    raw_hw, raw_tw, raw_th = raw.split(codec.shape.sizes, dim=-1)
    torch.testing.assert_close(hw, (raw_hw - 0.5) / 2)
    torch.testing.assert_close(tw, (raw_tw + 1) / 0.25)
    torch.testing.assert_close(th, (raw_th - 2) / 4)


def test_decode_undoes_encode():
    codec, clip = pixel_codec(), torch.rand(3, 1, 4, 2, 2) * 2 - 1
    torch.testing.assert_close(codec.decode(codec.encode(clip)), clip)


def test_a_stretch_of_clips_is_decoded_in_the_order_of_time():
    codec, clip = pixel_codec(), torch.rand(2, 1, 12, 2, 2) * 2 - 1
    latent = torch.stack([codec.encode(part) for part in clip.split(4, dim=2)], dim=1)  # b s c n
    torch.testing.assert_close(codec.decode(latent), clip)


def test_only_tanh_codecs_have_limits():
    assert pixel_codec().limits is None
    low, high = pixel_codec(tanh=True).limits
    codec = pixel_codec(tanh=True)
    torch.testing.assert_close(low * codec.std + codec.mean, torch.full_like(low, -1))
    torch.testing.assert_close(high * codec.std + codec.mean, torch.full_like(high, 1))


def test_known_frames_come_out_exactly_and_unknown_ones_are_not_looked_at():
    cfg = first_config()
    codec = Codec(autoencoder(cfg))
    frames = video(2, 4)
    known = torch.tensor([[True, False, False, True], [False, True, False, False]])
    latent = codec.encode(to_clip(frames))
    spoiled = torch.where(known[:, :, None, None, None], frames, 255 - frames)
    made = to_frames(codec.decode(latent, frames=spoiled, known=known))
    assert torch.equal(made[known], frames[known])
    assert torch.equal(made, to_frames(codec.decode(latent, frames=frames, known=known)))
    nothing = codec.decode(latent, frames=frames, known=torch.zeros_like(known))
    torch.testing.assert_close(nothing, codec.decode(latent))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="c t h w = 3x4x16x16, got 1x3x5x16x16; cut and resize"):
        Codec(autoencoder(first_config())).encode(torch.zeros(1, 3, 5, 16, 16))
    codec = pixel_codec()
    latent = codec.encode(torch.zeros(1, 1, 4, 2, 2))
    with pytest.raises(ValueError, match="known"):
        codec.decode(latent, frames=torch.zeros(1, 4, 2, 2, 1, dtype=torch.uint8))
    with pytest.raises(ValueError, match="known b t"):
        codec.decode(latent, frames=torch.zeros(1, 4, 2, 2, 1, dtype=torch.uint8), known=torch.ones(1, 3, dtype=torch.bool))


def test_nothing_of_a_codec_learns():
    codec = Codec(autoencoder(first_config()))
    assert not any(p.requires_grad for p in codec.parameters()) and not codec.net.training
    latent = codec.encode(torch.zeros(1, 3, 4, 16, 16, requires_grad=True))
    assert not latent.requires_grad and not codec.decode(latent.requires_grad_()).requires_grad


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder of three different weights, and a step checkpoint of two of them."""
    folder, cfg = tmp_path_factory.mktemp("run"), first_config()
    nets = {weights: autoencoder(cfg, seed) for seed, weights in enumerate(WEIGHTS)}
    stats = {"latent_mean": torch.full((3, 4), 0.5), "latent_std": torch.full((3, 4), 2.0)}
    for weights, net in nets.items():
        checkpoint.save(folder / WEIGHTS[weights], autoencoder_payload(net, **stats) | {"weights": weights})
    common = autoencoder_payload(nets["raw"], **stats)
    stage = {"kind": "autoencoder", "config": common["config"], "net": nets["raw"].state_dict(),
             "ema_weights": nets["ema"].state_dict(), "extra": common["extra"]}
    checkpoint.save(checkpoint.step_path(folder / "checkpoints", 7), {"step": 7, "stage": stage})
    return folder, nets


def same(codec, net):
    return all(torch.equal(a, b) for a, b in zip(codec.net.state_dict().values(), net.state_dict().values(), strict=True))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_run_folder_stands_for_its_weights(run_folder, weights):
    folder, nets = run_folder
    codec = load_autoencoder(folder, weights)
    assert same(codec, nets[weights])
    assert (codec.mean == 0.5).all() and (codec.std == 2.0).all()


def test_files_and_step_checkpoints_load(run_folder):
    folder, nets = run_folder
    assert same(load_autoencoder(folder), nets["ema"])
    assert same(load_autoencoder(folder / "model_best.pth"), nets["best"])
    step = folder / "checkpoints" / "step-00000007.pt"
    assert same(load_autoencoder(step), nets["ema"]) and same(load_autoencoder(step, "raw"), nets["raw"])
    assert load_autoencoder(step).weights_hash == load_autoencoder(folder).weights_hash


def test_other_files_are_refused(tmp_path):
    payload = autoencoder_payload(autoencoder(first_config()))
    checkpoint.save(tmp_path / "diffusion.pth", payload | {"kind": "diffusion"})
    with pytest.raises(ValueError, match="kind diffusion"):
        load_autoencoder(tmp_path / "diffusion.pth")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="neither"):
        load_autoencoder(tmp_path / "foreign.pth")
    less = dict(list(payload["state"].items())[1:])
    checkpoint.save(tmp_path / "less.pth", payload | {"state": less})
    with pytest.raises(ValueError, match="1 missing"):
        load_autoencoder(tmp_path / "less.pth")
