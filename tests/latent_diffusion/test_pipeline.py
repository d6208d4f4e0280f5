"""The Python interface: what it takes, what it gives, and what it says where it cannot."""

import numpy as np
import pytest
import torch
from fakes import NearNet, NextNet, fake_model, video

from latent_diffusion.pipeline import VideoDiffusion

T, GREY = 4, 2 / 255


@pytest.fixture
def model():
    return VideoDiffusion(fake_model(NextNet(start=50 * GREY - 1, step=3 * GREY)))


def wanted(frames, length):
    """What the fake network makes of the first clip."""
    rows = [frames[:, i % T].int() + 3 * (i // T) for i in range(length)]
    return torch.stack(rows, 1).clamp(max=255).to(torch.uint8)


def test_frames_come_as_tensor_array_or_single_video(model):
    frames = video(2, T, (2, 2), 1)
    made = model.predict(frames, T, steps=2)
    assert made.dtype == torch.uint8 and made.device.type == "cpu" and torch.equal(made, wanted(frames, 2 * T))
    assert torch.equal(model.predict(frames.numpy(), T, steps=2), made)
    assert torch.equal(model.predict(frames[1], T, steps=2), made[1:])
    flipped = np.ascontiguousarray(frames.numpy()[:, ::-1])[:, ::-1]  # negative strides
    assert torch.equal(model.predict(flipped, T, steps=2), made)


def test_frames_come_as_a_file(model, tmp_path):
    frames = video(1, T, (2, 2), 1)
    np.save(tmp_path / "past.npy", frames[0].numpy())
    assert torch.equal(model.predict(tmp_path / "past.npy", 3, steps=2), wanted(frames, T + 3))
    assert torch.equal(model.predict(str(tmp_path / "past.npy"), 3, steps=2), wanted(frames, T + 3))


@pytest.mark.parametrize("count, frames", [(1, None), (3, 1), (2, 4), (2, 11)])
def test_generate_makes_videos_of_any_length(model, count, frames):
    made = model.generate(count, frames=frames, steps=1)
    assert made.shape == (count, frames or T, 2, 2, 1)
    assert (made[:, 0] == 50).all()


@pytest.mark.parametrize("past, count", [(T, 1), (T, T), (2 * T, 5)])
def test_predict_gives_past_and_future(model, past, count):
    frames = video(2, past, (2, 2), 1)
    made = model.predict(frames, count, steps=1)
    assert made.shape == (2, past + count, 2, 2, 1)
    assert torch.equal(made[:, :past], frames)


def test_masks_come_for_each_video_or_for_all(model):
    frames, known = video(2, 2 * T, (2, 2), 1), torch.arange(2 * T) < T
    made = model.complete(frames, known, steps=1)
    for same in (known.expand(2, -1), known.numpy(), known.tolist(), [known.tolist()] * 2):
        assert torch.equal(model.complete(frames, same, steps=1), made)
    assert torch.equal(frames, video(2, 2 * T, (2, 2), 1))  # as they were


def test_videos_of_one_call_may_know_different_frames(model):
    frames = video(4, 3 * T, (2, 2), 1)
    lengths = [T, 2 * T, 0, T]
    known = torch.arange(3 * T) < torch.tensor(lengths)[:, None]
    made = model.complete(frames, known, steps=2)
    for row, length in enumerate(lengths):
        alone = model.complete(frames[row], known[row], steps=2, ids=[(row, 0)])
        assert torch.equal(made[row], alone[0])
        assert torch.equal(made[row, :length], frames[row, :length])


def test_ids_decide_the_noise():
    model, blank, nothing = VideoDiffusion(fake_model(NextNet(noise=0.3))), video(3, T, (2, 2), 1), [False] * T
    made = model.complete(blank, nothing, steps=1)
    assert torch.equal(model.complete(blank, nothing, steps=1, ids=[(2, 0), (1, 0), (0, 0)]), made.flip(0))
    assert torch.equal(model.generate(3, steps=1), made)


def test_progress_adds_up_to_all_evaluations(model):
    shown = []
    known = torch.arange(3 * T) < torch.tensor([T, 2 * T, T])[:, None]
    model.complete(video(3, 3 * T, (2, 2), 1), known, steps=5, progress=shown.append)
    assert sum(shown) == (2 + 1 + 2) * 5


@pytest.mark.parametrize("frames, known, message", [
    (torch.zeros(1, 8, 2, 2, 1), [True] * 4 + [False] * 4, r"torch.float32 .* 0 to 255"),
    (video(1, 8, (2, 3), 1), [True] * 4 + [False] * 4, r"h w c = \(2, 2, 1\).*resize_crop"),
    (video(1, 8, (2, 2), 3), [True] * 4 + [False] * 4, r"\(2, 2, 1\)"),
    (video(1, 8, (2, 2), 1)[0, 0, 0], [True] * 4 + [False] * 4, "batch, time, height, width, channels"),
    (video(1, 8, (2, 2), 1).movedim(-1, 2)[:, :, :, :1], [True] * 4 + [False] * 4, "the order is batch"),
    ([[1, 2], [3, 4]], [True, False], "list"),
    (video(1, 8, (2, 2), 1), [True] * 4, r"b t = \(1, 8\)"),
    (video(1, 8, (2, 2), 1), [1] * 4 + [0] * 4, r'int64 .* known="0-3,12"'),
    (video(2, 8, (2, 2), 1), torch.ones(3, 8, dtype=torch.bool), r"\(3, 8\)"),
    ("nowhere.mp4", [True] * 4, "nowhere.mp4"),
])
def test_frames_and_masks_of_another_kind_are_refused(model, frames, known, message):
    with pytest.raises(ValueError, match=message):
        model.complete(frames, known)


def test_the_rest_is_refused_too(model):
    frames, known = video(2, 2 * T, (2, 2), 1), torch.arange(2 * T) < T
    with pytest.raises(ValueError, match="1 ids for 2 videos"):
        model.complete(frames, known, ids=[(0, 0)])
    with pytest.raises(ValueError, match="count=0"):
        model.predict(frames, 0)
    with pytest.raises(ValueError, match="at least one frame"):
        model.generate(1, frames=0)
    for wrong in (lambda: model.generate(-1), lambda: model.generate(0), lambda: model.generate(1, frames=-2),
                  lambda: model.predict(frames, 2.0), lambda: model.predict_backward(frames, "3"),
                  lambda: model.interpolate(frames, frames, None)):
        with pytest.raises(ValueError, match=r"at least one (video|frame), got (count|frames)=.*give a whole number"):
            wrong()
    for wrong in (lambda: model.predict(frames[:, :0], 3), lambda: model.predict_backward(frames[:, :0], 3),
                  lambda: model.interpolate(frames, frames[:, :0], 3)):
        with pytest.raises(ValueError, match="needs at least one given frame, got a video of none; use generate"):
            wrong()
    with pytest.raises(ValueError, match=r"guide must be a model, got 'weak.pth'; give VideoDiffusion.load"):
        model.generate(1, guidance=1.0, guide="weak.pth")
    with pytest.raises(ValueError, match="no model at"):
        VideoDiffusion.load("nowhere/at/all")


def test_autocast_reaches_the_denoiser_and_only_it(model):
    seen = []
    model.model.net.register_forward_pre_hook(lambda net, args: seen.append(torch.is_autocast_enabled("cpu")))
    decode = model.model.codec.decode
    model.model.codec.decode = lambda latent: (seen.append(torch.is_autocast_enabled("cpu")), decode(latent))[1]
    model.generate(1, steps=2, autocast=True)
    assert seen == [True, True, False]
    seen.clear()
    model.generate(1, steps=1)
    assert seen == [False, False]


def test_the_named_tasks_are_masks_of_one_and_the_same():
    near = VideoDiffusion(fake_model(NearNet()))
    frames = video(2, 10, (2, 2), 1)

    def same(made, known):
        mask = torch.zeros(made.shape[1], dtype=torch.bool)
        mask[known] = True
        assert torch.equal(made, near.complete(frames[:, :made.shape[1]], mask, steps=1))
        return made

    same(near.predict(frames[:, :3], 5, steps=1), [0, 1, 2])
    one = video(1, 10, (2, 2), 1)[0]
    assert torch.equal(near.interpolate(one[0], one[7].numpy(), 6, steps=1), near.interpolate(one[:1], one[7:8], 6, steps=1))
    held = same(near.interpolate(frames[:, :1], frames[:, 7:10], 6, steps=1), [0, 7, 8, 9])
    assert torch.equal(held[:, :1], frames[:, :1]) and torch.equal(held[:, 7:], frames[:, 7:])
    same(near.infill(frames, "0-1,-2", steps=1), [0, 1, 8])
    same(near.infill(frames, [True] * 3 + [False] * 7, steps=1), [0, 1, 2])
    same(near.predict_backward(frames[:, 7:], 7, steps=1), [7, 8, 9])
    for wrong in (lambda: near.predict_backward(frames, 0), lambda: near.interpolate(frames, frames, 0),
                  lambda: near.interpolate(frames, frames[:1], 2)):
        with pytest.raises(ValueError, match=r"interpolate|predict_backward"):
            wrong()
