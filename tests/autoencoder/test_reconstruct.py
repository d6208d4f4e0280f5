"""The command reconstruct: what it writes, for videos of any length."""

import json

import numpy as np
import pytest
import torch
from fakes import PixelNet, autoencoder, autoencoder_payload, first_config, video

from autoencoder.codec import Codec, load_autoencoder
from autoencoder.reconstruct import in_clips, reconstruct, through
from evals.protocol import METRICS
from tools import checkpoint, dist
from tools.video import to_clip, to_frames


@pytest.mark.parametrize("length", [4, 5, 7, 8, 11, 12])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_any_length_comes_through_whole(length, batch_size):
    codec, frames = Codec(PixelNet()), video(1, length, (2, 2), 1)[0]
    recon, latent = through(codec, frames, batch_size)
    assert torch.equal(recon, frames)
    clips = -(-length // 4)
    assert latent.shape == (1, clips * codec.shape.total)
    last = to_clip(frames[None, -4:])  # the last clip ends with the video
    torch.testing.assert_close(latent[None, :, -codec.shape.total:], codec.encode(last))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pth"
    checkpoint.save(path, autoencoder_payload(autoencoder(first_config())))
    return path


def run(model, source, out, **options):
    reconstruct(**dict(first_model=str(model), weights="ema", input=str(source), out=str(out), resize=False,
                       batch_size=None) | options)


def test_files_hold_what_the_contract_says(model, tmp_path, capsys):
    videos = {"a": video(1, 4)[0], "b": video(1, 9, seed=1)[0]}
    (tmp_path / "in").mkdir()
    for name, frames in videos.items():
        np.save(tmp_path / "in" / f"{name}.npy", frames.numpy())
    run(model, tmp_path / "in", tmp_path / "out")
    codec, psnr = load_autoencoder(model), METRICS.get("psnr")()
    for name, frames in videos.items():
        recon, latent = (np.load(tmp_path / "out" / kind / f"{name}.npy") for kind in ("recon", "latent"))
        assert recon.shape == frames.shape and recon.dtype == np.uint8 and latent.dtype == np.float32
        first = codec.encode(to_clip(frames[None, :4]))
        torch.testing.assert_close(torch.from_numpy(latent)[None, :, :codec.shape.total], first, atol=1e-5, rtol=1e-4)
        assert (torch.from_numpy(recon[:4]) != to_frames(codec.decode(first))[0]).float().mean() < 1e-3
        psnr.update(frames[None], torch.from_numpy(recon)[None])
        assert (tmp_path / "out" / "videos" / f"{name}.mp4").is_file()
    record = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert record["metrics"]["psnr"]["mean"] == pytest.approx(psnr.compute()["mean"])
    assert record["videos"]["b"]["frames"] == 9 and record["weights_hash"] == codec.weights_hash
    assert str(tmp_path / "out") in capsys.readouterr().out


def test_other_sizes_need_resize(model, tmp_path):
    np.save(tmp_path / "wide.npy", video(1, 4, (20, 32))[0].numpy())
    with pytest.raises(ValueError, match=r"20x32.*--resize"):
        run(model, tmp_path / "wide.npy", tmp_path / "out")
    run(model, tmp_path / "wide.npy", tmp_path / "out", resize=True)
    assert np.load(tmp_path / "out" / "recon" / "wide.npy").shape == (4, 16, 16, 3)


@pytest.mark.parametrize("flag", ["first_model", "input", "out"])
def test_missing_flags_are_named(model, tmp_path, flag):
    with pytest.raises(ValueError, match=f"--{flag}"):
        reconstruct(**dict(first_model=str(model), weights="ema", input=str(tmp_path), out=str(tmp_path), resize=False,
                           batch_size=None) | {flag: None})


def test_a_short_video_is_refused(model, tmp_path):
    np.save(tmp_path / "short.npy", video(1, 3)[0].numpy())
    with pytest.raises(ValueError, match=r"3 frames.*4"):
        run(model, tmp_path / "short.npy", tmp_path / "out")


def test_training_videos_without_a_baseline_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"--data SHAPES.*--baseline linear"):
        run(model, tmp_path, tmp_path / "out", data="SHAPES")


def test_only_the_main_process_works(model, tmp_path, monkeypatch):
    monkeypatch.setattr(dist, "rank", lambda: 1)
    run(model, tmp_path / "absent", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_more_than_a_batch_is_float_at_once():
    sizes = []

    def call(clips):
        sizes.append(len(clips))
        return clips

    frames = video(1, 18, (2, 2))[0]
    assert torch.equal(in_clips(frames, 4, call, 2), frames) and sizes == [2, 2, 1]
