"""Changes of clips: exact, a function of the sample alone, and nothing at zero."""

import numpy as np
import pytest
import torch

from autoencoder.augment import augment, translate

ALL = dict(flip=0.5, reverse=0.5, shift=2, held=0.5)


@pytest.fixture
def clip():
    return torch.randn(64, 2, 5, 6, 7, generator=torch.Generator().manual_seed(0))


INDEX = torch.arange(64) * 13 + 5


def test_nothing_at_zero(clip):
    assert torch.equal(augment(clip, INDEX, 0), clip)


def test_a_sample_changes_alike_in_any_batch(clip):
    together = augment(clip, INDEX, 3, **ALL)
    order = torch.randperm(64)
    assert torch.equal(augment(clip[order], INDEX[order], 3, **ALL), together[order])
    for i in range(8):
        assert torch.equal(augment(clip[i:i + 1], INDEX[i:i + 1], 3, **ALL)[0], together[i])
    assert not torch.equal(augment(clip, INDEX, 4, **ALL), together)
    assert not torch.equal(augment(clip, INDEX + 1, 3, **ALL), together)


def test_certain_changes_are_exact(clip):
    assert torch.equal(augment(clip, INDEX, 0, flip=1.0), clip.flip(4))
    assert torch.equal(augment(clip, INDEX, 0, reverse=1.0), clip.flip(2))


@pytest.mark.parametrize("option, axis", [("flip", 4), ("reverse", 2)])
def test_probability_is_met(clip, option, axis):
    index = torch.arange(2000)
    small = clip[:1, :1].expand(2000, 1, 5, 6, 7)
    changed = augment(small, index, 0, **{option: 0.3}).eq(small.flip(axis)).flatten(1).all(1)
    assert abs(float(changed.float().mean()) - 0.3) < 0.04


@pytest.mark.parametrize("down, right", [(0, 0), (2, -3), (-1, 1), (9, -9)])
def test_translation_repeats_edges(clip, down, right):
    moved = translate(clip, torch.full((64,), down), torch.full((64,), right))
    padded = np.pad(clip.numpy(), ((0, 0), (0, 0), (0, 0), (10, 10), (10, 10)), mode="edge")
    assert np.array_equal(moved.numpy(), padded[:, :, :, 10 - down:16 - down, 10 - right:17 - right])


def test_each_clip_moves_by_its_own_shift(clip):
    moved = translate(clip, torch.arange(64) % 5 - 2, torch.arange(64) % 3 - 1)
    alone = translate(clip[7:8], torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(moved[7:8], alone)  # 7 % 5 - 2 = 0 and 7 % 3 - 1 = 0


def test_shifts_are_uniform_within_the_bound():
    ramp = torch.arange(15.0).expand(4000, 1, 1, 15, 15)  # the middle pixel tells how far the columns moved
    columns = 7 - augment(ramp, torch.arange(4000), 0, shift=2)[:, 0, 0, 7, 7]
    rows = 7 - augment(ramp.mT, torch.arange(4000), 0, shift=2)[:, 0, 0, 7, 7]
    for moves in (columns, rows):
        values, counts = moves.unique(return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 700  # of 800
    assert abs(float(torch.corrcoef(torch.stack([rows, columns]))[0, 1])) < 0.05


def test_held_clips_are_filled_from_the_kept_frames():
    frames = (torch.arange(6.0) ** 2)[None, None, :, None, None].expand(500, 1, 6, 1, 1)  # no blend is another frame
    held = augment(frames, torch.arange(500), 0, held=0.5)[:, 0, :, 0, 0]  # b t: what is shown
    kept = held == torch.arange(6) ** 2
    for row, stays in zip(held.tolist(), kept):
        at = stays.nonzero().flatten().numpy()
        np.testing.assert_allclose(row, np.interp(range(6), at, at**2), rtol=1e-6)
    assert 0.3 < float((~kept).any(1).float().mean()) < 0.5  # of those drawn a few keep every frame, or none: as they are
    assert set(kept.sum(1).tolist()) == {1, 2, 3, 4, 5, 6}


def test_one_frame_cannot_be_held():
    clip = torch.randn(4, 1, 1, 2, 2)
    assert torch.equal(augment(clip, torch.arange(4), 0, held=1.0), clip)
