"""I3D against the golden logits, the files that are read, and TensorFlow's padding."""

import numpy as np
import pytest
import torch

from evals.i3d import LEAST_FRAMES, load_i3d, pool_same, same_padding
from tests.golden.fill import GOLDEN, golden_clip, golden_state


@pytest.fixture(scope="module")
def state():
    return golden_state(GOLDEN / "i3d_keys.json", gain=1.0)


@pytest.fixture(scope="module")
def i3d(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("i3d") / "i3d.pt"
    torch.save({f"module.{key}": value for key, value in state.items() if "num_batches" not in key}, path)
    return load_i3d(path)


@pytest.fixture(scope="module")
def frames():
    return ((golden_clip(2, 3, 16, 96, 128).double() + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1)


@pytest.fixture(scope="module")
def logits(i3d, frames):
    return i3d.features(frames)


def test_logits_are_those_of_the_release(logits):
    golden = np.load(GOLDEN / "i3d.npz")["i3d_logits"]
    np.testing.assert_allclose(logits, golden, atol=1e-5)


def test_a_video_gives_the_same_bits_alone(i3d, frames, logits):
    assert torch.equal(i3d.features(frames[1:]), logits[1:]) and not logits.requires_grad


def test_settings_say_which_file_it_was(i3d):
    assert i3d.settings["weights"] == "i3d.pt" and len(i3d.settings["sha256"]) == 12 and "crop" in i3d.settings["resize"]


def test_ten_frames_are_enough_and_nine_are_not(i3d):
    assert i3d.features(torch.zeros(1, LEAST_FRAMES, 8, 8, 1, dtype=torch.uint8)).shape == (1, 400)
    with pytest.raises(ValueError, match=r"at least 10 frames.*got 9"):
        i3d.features(torch.zeros(1, 9, 8, 8, 3, dtype=torch.uint8))


class Script(torch.nn.Module):
    """Answers what it was asked: mean pixel, and the three flags."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False,
                return_features: bool = False) -> torch.Tensor:
        flags = torch.tensor([float(rescale), float(resize), float(return_features)])
        return torch.cat([x.mean((2, 3, 4)), flags.expand(len(x), 3)], dim=1)


def test_a_torchscript_file_gets_plain_pixels_and_its_flags(tmp_path):
    torch.jit.script(Script()).save(str(tmp_path / "i3d_torchscript.pt"))
    frames = torch.zeros(3, 10, 4, 4, 3, dtype=torch.uint8)
    frames[..., 1], frames[2] = 200, 7
    answer = load_i3d(tmp_path / "i3d_torchscript.pt").features(frames)
    assert answer.tolist() == [[0, 200, 0, 1, 1, 1]] * 2 + [[7, 7, 7, 1, 1, 1]]


@pytest.mark.parametrize("size", [7, 8, 9, 112])
@pytest.mark.parametrize("kernel, stride", [(1, 1), (2, 2), (3, 1), (3, 2), (7, 2)])
def test_same_padding_gives_one_output_a_stride(size, kernel, stride):
    (front, back), = same_padding((size,), (kernel,), (stride,))
    assert (size + front + back - kernel) // stride + 1 == -(-size // stride) and back - front in (0, 1)


def test_pooling_takes_what_its_window_holds():
    x = torch.rand(1, 1, 5, 6, 7)
    pooled = pool_same(x, (3, 3, 3), (2, 2, 2))
    assert pooled.shape[2:] == (3, 3, 4)
    assert pooled[0, 0, 0, 0, 0] == x[0, 0, :2, :3, :2].max()  # 5: zeros on both sides, 6: only behind, 7: both
    assert pooled[0, 0, 2, 2, 3] == x[0, 0, 3:, 4:, 5:].max()


@pytest.mark.parametrize("payload, words", [({"a": 1}, "no I3D"), ([1], "no I3D"),
                                            ({"conv.weight": torch.zeros(2)}, "missing: Conv3d_1a_7x7.conv3d.weight")])
def test_another_file_is_refused(tmp_path, payload, words):
    torch.save(payload, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=words):
        load_i3d(tmp_path / "x.pt")


def test_missing_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no such file; give i3d_pretrained_400.pt"):
        load_i3d(tmp_path / "none.pt")
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"i3d_pretrained_400.pt.*download --name i3d"):
        load_i3d()
