"""C3D's two files; TGANv2's preprocessing against its definition."""

import numpy as np
import pytest
import torch
from torch import nn

from evals.c3d import FRAMES, load_c3d

CHANNELS = {"conv1a": (3, 4), "conv2a": (4, 5), "conv3a": (5, 6), "conv3b": (6, 6), "conv4a": (6, 7), "conv4b": (7, 7),
            "conv5a": (7, 8), "conv5b": (8, 8), "fc6": (8 * 4 * 4, 9), "fc7": (9, 9), "fc8": (9, 101)}


@pytest.fixture(scope="module")
def arrays():
    """Generated weights under TGANv2's names, of a C3D with few channels."""
    rng, found = np.random.default_rng(0), {}
    for name, (inward, outward) in CHANNELS.items():
        shape = (outward, inward, 3, 3, 3) if name.startswith("conv") else (outward, inward)
        found[f"{name}/W"] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) / 2)).astype(np.float32)
        found[f"{name}/b"] = rng.normal(size=outward).astype(np.float32)
    found["fc8/W"] *= 0.01  # or one class takes all
    return found


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("c3d")
    np.savez(path / "conv3d_deepnetA_ucf.npz", **arrays)
    mean = np.random.default_rng(1).uniform(80, 120, (3, FRAMES, 128, 171)).astype(np.float32)
    np.savez(path / "mean2.npz", mean=mean)
    return path


@pytest.fixture(scope="module")
def c3d(folder):
    return load_c3d(folder / "conv3d_deepnetA_ucf.npz")


def test_probabilities_are_those_of_the_layers_in_their_order(c3d, folder, arrays):
    frames = torch.randint(0, 256, (2, FRAMES, 112, 112, 3), dtype=torch.uint8)
    mean = torch.from_numpy(np.load(folder / "mean2.npz")["mean"])[:, :, 8:120, 8:120]
    part = lambda name: [torch.from_numpy(arrays[f"{name}/{kind}"]) for kind in "Wb"]  # noqa: E731
    x = frames.flip(-1).permute(0, 4, 1, 2, 3).float() - mean
    for names, pool in ((["conv1a"], (1, 2, 2)), (["conv2a"], 2), (["conv3a", "conv3b"], 2), (["conv4a", "conv4b"], 2),
                        (["conv5a", "conv5b"], 2)):
        for name in names:
            x = nn.functional.conv3d(x, *part(name), padding=1).relu()
        # Chainer pools what is left over at the end too: one moment, four rows and columns remain.
        x = nn.functional.max_pool3d(x, pool, ceil_mode=True)
    assert x.shape[2:] == (1, 4, 4)
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = nn.functional.linear(x, *part(name)).relu()
    expected = nn.functional.linear(x, *part("fc8")).softmax(1)
    torch.testing.assert_close(c3d.probabilities(frames), expected.double(), rtol=1e-3, atol=1e-6)
    assert expected.max() < 0.99 and c3d.settings["weights"] == "conv3d_deepnetA_ucf.npz"


def test_pixels_come_as_blue_green_red_less_the_mean_video(c3d, folder):
    seen = []
    hook = c3d.net.conv1a.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    frames = torch.zeros(1, FRAMES + 3, 112, 112, 3, dtype=torch.uint8)
    frames[..., 0], frames[:, FRAMES:] = 200, 9
    c3d.probabilities(frames)
    hook.remove()
    mean = torch.from_numpy(np.load(folder / "mean2.npz")["mean"])[:, :, 8:120, 8:120]
    expected = torch.tensor([0.0, 0.0, 200.0]).view(3, 1, 1, 1) - mean
    torch.testing.assert_close(seen[0][0], expected)


def test_corners_of_a_frame_stay_corners(c3d):
    # Chainer resizes with its corners aligned.
    seen = []
    hook = c3d.net.conv1a.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0] + c3d.net.mean))
    frames = torch.randint(0, 256, (1, FRAMES, 5, 7, 3), dtype=torch.uint8)
    c3d.probabilities(frames)
    hook.remove()
    got, wanted = seen[0][0, 0, 3, ::111, ::111], frames[0, 3, ::4, ::6, 2].float()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-3)


class Script(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3, 4)).softmax(1)


def test_a_torchscript_file_gets_plain_pixels(tmp_path):
    torch.jit.script(Script()).save(str(tmp_path / "c3d_ucf101.pt"))
    frames = torch.zeros(2, FRAMES, 4, 4, 3, dtype=torch.uint8)
    frames[1, ..., 2] = 3
    found = load_c3d(tmp_path / "c3d_ucf101.pt").probabilities(frames)
    torch.testing.assert_close(found, torch.tensor([[0, 0, 0.], [0, 0, 3]]).softmax(1).double())


def test_short_videos_and_other_files_are_refused(c3d, folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"at least 16 frames.*got 15"):
        c3d.probabilities(torch.zeros(1, 15, 8, 8, 3, dtype=torch.uint8))
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match=r"mean2.npz beside it"):
        load_c3d(tmp_path / "x.npz")
    (tmp_path / "mean2.npz").write_bytes((folder / "mean2.npz").read_bytes())
    with pytest.raises(ValueError, match="holds no C3D: missing conv1a"):
        load_c3d(tmp_path / "x.npz")
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="download --name c3d"):
        load_c3d()
