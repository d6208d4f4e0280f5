"""Given pixels come out exactly, static pictures are restored, moving ones are left to the codec."""

import pytest
import torch
import torch.nn.functional as F
from einops import repeat

from autoencoder.border import border_jump, nearest_known, paste_known
from tools.video import read_video, to_clip, to_frames


def mask(text):
    """'11..1' -> bool 1 t."""
    return torch.tensor([[c == "1" for c in text]])


def soft(clip):
    """A codec that loses detail: every frame blurred."""
    frames = clip.transpose(1, 2).flatten(0, 1)
    return F.avg_pool2d(frames, 3, 1, 1).unflatten(0, (clip.shape[0], clip.shape[2])).transpose(1, 2)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_nearest_known_on_either_side():
    left, right = nearest_known(mask(".1..1."))
    assert left.tolist() == [[-1, 1, 1, 1, 4, 4]]
    assert right.tolist() == [[1, 1, 4, 4, 4, 6]]


@pytest.mark.parametrize("text", ["1", "11......", "......11", "11...111", ".1.1..1.", "11111111"])
def test_given_frames_are_exact(text):
    known = mask(text)
    truth = noise(1, 3, len(text), 12, 10)
    out = paste_known(soft(truth), truth, known)
    assert torch.equal(out[:, :, known[0]], truth[:, :, known[0]])


@pytest.mark.parametrize("text", ["1.......", ".......1", "1......1", "..1..1.."])
def test_a_static_video_is_restored(text):
    truth = repeat(noise(2, 3, 16, 16), "b c h w -> b c t h w", t=len(text))
    out = paste_known(soft(truth), truth, mask(text).expand(2, -1))
    torch.testing.assert_close(out, truth)


def test_changed_content_is_left_to_the_decoder():
    decoded = noise(1, 3, 6, 16, 16) * 0.2
    decoded[:, :, 2:] += 0.5  # 64 grey levels away from the given frames
    decoded[:, :, 4:] -= 1.0
    out = paste_known(decoded, decoded + 0.1, mask("11...."))
    torch.testing.assert_close(out[:, :, 2:], decoded[:, :, 2:])


def test_each_pixel_is_judged_by_itself():
    truth = repeat(noise(1, 3, 16, 32), "b c h w -> b c t h w", t=5) * 0.5
    decoded = soft(truth)
    decoded[:, :, 1:, :, 16:] += 0.5
    out = paste_known(decoded, truth, mask("1...."), blur=5)
    torch.testing.assert_close(out[..., :14], truth[..., :14])
    torch.testing.assert_close(out[:, :, 1:, :, 18:], decoded[:, :, 1:, :, 18:])


def test_residuals_are_interpolated_in_time():
    # To the gate nothing moves, but the two residuals differ.
    decoded = torch.zeros(1, 1, 5, 8, 8)
    given = decoded.clone()
    given[:, :, 0], given[:, :, 4] = 0.4, 0.8
    out = paste_known(decoded, given, mask("1...1"))
    torch.testing.assert_close(out[0, 0, :, 3, 3], torch.tensor([0.4, 0.5, 0.6, 0.7, 0.8]))


def test_one_side_speaks_for_both_where_the_other_has_changed():
    truth = repeat(noise(1, 3, 16, 16), "b c h w -> b c t h w", t=6) * 0.5
    decoded = soft(truth)
    truth[:, :, 0] += 0.5  # only the first frame is another picture
    decoded[:, :, 0] += 0.5
    out = paste_known(decoded, truth, mask("1....1"))
    torch.testing.assert_close(out, truth)


def test_nothing_known_is_the_identity():
    decoded = noise(2, 3, 4, 8, 8)
    nothing = torch.full_like(decoded, torch.nan)
    assert torch.equal(paste_known(decoded, nothing, mask("....").expand(2, -1)), decoded)


def test_unknown_frames_of_given_are_never_read():
    truth = noise(1, 3, 6, 8, 8)
    known = mask("11...1")
    holes = truth.clone()
    holes[:, :, ~known[0]] = torch.nan
    decoded = soft(truth)
    assert torch.equal(paste_known(decoded, holes, known), paste_known(decoded, truth, known))


def test_samples_do_not_mix():
    truth = noise(3, 3, 6, 12, 12)
    known = torch.cat([mask("11...."), mask("1....1"), mask("......")])
    together = paste_known(soft(truth), truth, known)
    alone = [paste_known(soft(truth[i:i + 1]), truth[i:i + 1], known[i:i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_time_reversal_commutes():
    truth, known = noise(1, 3, 7, 12, 12) * 0.1, mask("11....1")
    out = paste_known(soft(truth), truth, known)
    back = paste_known(soft(truth).flip(2), truth.flip(2), known.flip(1)).flip(2)
    torch.testing.assert_close(out, back)


def test_one_frame_and_grey():
    decoded = noise(2, 1, 1, 8, 8)
    known = torch.tensor([[True], [False]])
    out = paste_known(decoded, -decoded, known)
    assert torch.equal(out[0], -decoded[0]) and torch.equal(out[1], decoded[1])


def psnr(frames, truth):
    return 10 * (255**2 / (frames.float() - truth.float()).square().mean()).log10()


@pytest.mark.parametrize("text", ["1" * 8 + "." * 8, "." * 8 + "1" * 8, "1111" + "." * 8 + "1111"])
def test_real_video_gains_detail_and_does_not_jump(video_data, text):
    known = mask(text)
    paths = sorted((video_data / "metaworld" / "test").glob("*.mp4"))
    if not paths:
        pytest.skip(f"no metaworld episodes in {video_data}")
    for path in paths:
        truth = torch.from_numpy(read_video(path, 30, 46))[None]
        clip = to_clip(truth)
        decoded = soft(clip)
        plain = torch.where(known[:, :, None, None, None], truth, to_frames(decoded))
        out = to_frames(paste_known(decoded, clip, known))
        assert psnr(out[~known], truth[~known]) > psnr(plain[~known], truth[~known]) + 3
        assert border_jump(out, known) < 1.5 * border_jump(truth, known) < border_jump(plain, known)


@pytest.mark.parametrize("options", [{"tau": 0.0}, {"blur": 4}, {"blur": 0}])
def test_nonsense_is_refused(options):
    clip = torch.zeros(1, 3, 2, 8, 8)
    with pytest.raises(ValueError, match="tau"):
        paste_known(clip, clip, mask("1."), **options)


def test_border_jump_counts_only_borders():
    frames = torch.zeros(2, 6, 4, 4, 3, dtype=torch.uint8)
    frames[:, 2:] = 10
    frames[:, 4:] = 30
    known = torch.cat([mask("11...1"), mask("111111")])  # borders 1|2 and 4|5, and none
    jump = border_jump(frames, known)
    assert jump[0] == 5 and jump[1].isnan()
