import numpy as np
import pytest
import torch
from PIL import Image

from evals.features import exact, is_torchscript, load_torchscript, one_by_one, resized


@pytest.mark.parametrize("shape, target", [((20, 30), (10, 15)), ((30, 20), (15, 10)), ((7, 9), (10, 13)),
                                           ((10, 10), (10, 10))])
def test_crop_is_the_middle_of_a_plain_bilinear_resize(shape, target):
    frames = torch.randint(0, 256, (2, 3, *shape, 3), dtype=torch.uint8)
    whole = torch.nn.functional.interpolate(frames[1, 2].permute(2, 0, 1)[None].float(), target, mode="bilinear")[0]
    top, left = ((n - 10) // 2 for n in target)
    torch.testing.assert_close(resized(frames, 10, crop=True)[1, :, 2], whole[:, top:top + 10, left:left + 10])


def test_stretching_sees_the_whole_frame():
    frames = torch.zeros(1, 1, 8, 16, 1, dtype=torch.uint8)
    frames[..., :4, :] = 200  # the left quarter
    assert resized(frames, 8, crop=False).shape == (1, 3, 1, 8, 8)
    assert resized(frames, 8, crop=False).mean() == 50 and resized(frames, 8, crop=True).mean() == 0


def test_enlarging_agrees_with_pillow():
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((31, 31), Image.BILINEAR), float)
    ours = resized(torch.from_numpy(image)[None, None], 31, crop=True)[0, :, 0].permute(1, 2, 0)
    np.testing.assert_allclose(ours, pillow, atol=1)


def test_a_cpu_looks_at_one_video_at_a_time():
    frames = torch.arange(3).view(3, 1)
    pieces = list(one_by_one(frames))
    assert [len(piece) for piece in pieces] == [1, 1, 1] and torch.equal(torch.cat(pieces), frames)


def test_exact_puts_the_precision_back():
    before = torch.get_float32_matmul_precision()
    with exact():
        assert torch.is_inference_mode_enabled() and torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before and not torch.is_inference_mode_enabled()


def test_scripts_are_told_from_states(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "script.pt"))
    (tmp_path / "text.pt").write_text("no archive")
    assert [is_torchscript(tmp_path / f"{name}.pt") for name in ("state", "script", "text")] == [False, True, False]


def test_a_damaged_script_is_one_line(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.script(torch.nn.ReLU()).save(str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="damaged TorchScript file"):
        load_torchscript(path)
