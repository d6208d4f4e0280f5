"""LPIPS against the lpips package itself, with backbones that are drawn."""

import warnings

import lpips
import numpy as np
import pytest
import torch
from torchvision.models import alexnet, vgg16

from evals.lpips import LPIPS, SmallLPIPS, VggLPIPS, load_lpips


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, build in (("alex", alexnet), ("vgg", vgg16)):
            with torch.device("meta"):
                shapes = {k: v.shape for k, v in build().state_dict().items() if k.startswith("features.")}
            draw = torch.Generator().manual_seed(0)
            torch.save({k: torch.randn(s, generator=draw) * (2 / s[1:].numel()) ** 0.5 if len(s) > 1 else torch.zeros(s)
                        for k, s in shapes.items()}, folder / f"{name}.pth")
    return folder


@pytest.fixture(scope="module")
def package(files):
    """The package's own networks with these backbones, and its own calls frame by frame."""
    def build(name):
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")
            for draw in ("normal_", "kaiming_normal_", "kaiming_uniform_"):  # of 140 million weights that are not looked at
                patch.setattr(torch.nn.init, draw, lambda tensor, *args, **kwargs: tensor)
            net = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)  # the heads come with the package
        backbone = torch.load(files / f"{name}.pth")
        for key, value in net.net.state_dict().items():
            value.copy_(backbone["features." + key.split(".", 1)[1]])
        return net
    nets = {name: build(name) for name in ("alex", "vgg")}

    def score(name, real, fake):
        with torch.no_grad():
            return [nets[name](lpips.im2tensor(r), lpips.im2tensor(f)).item() for r, f in zip(real.numpy(), fake.numpy())]
    return score


def pair(h=40, w=36, t=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, t, h, w, 3), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("name, size", [("alex", (40, 36)), ("alex", (64, 64)), ("alex", (150, 220)), ("vgg", (40, 36))])
def test_values_are_those_of_the_package(name, size, files, package, monkeypatch):
    real, fake = pair(*size)
    metric = (LPIPS if name == "alex" else VggLPIPS)(path=files / f"{name}.pth")
    monkeypatch.setattr("evals.lpips._AT_ONCE", 2 * size[0] * size[1])  # two frames at once
    metric.update(real[None], fake[None])
    result = metric.compute()
    np.testing.assert_allclose(result["per_frame"], package(name, real, fake), rtol=1e-5)
    assert result["settings"]["network"].endswith(name) and result["mean"] > 0.01


def test_equal_frames_score_zero_and_smaller_is_better(files):
    real, _ = pair()
    metric = LPIPS(path=files / "alex.pth")
    metric.update(real[None], real[None])
    assert metric.compute()["mean"] < 1e-12 and not metric.higher_is_better


def test_a_video_gives_the_same_bits_in_any_batch(files):
    (real, fake), other = pair(seed=1), pair(seed=2)
    alone, together = LPIPS(path=files / "alex.pth"), LPIPS(path=files / "alex.pth")
    alone.update(real[None], fake[None])
    together.update(torch.stack([other[0], real]), torch.stack([other[1], fake]))
    assert alone.compute()["per_frame"] == list(together._rows[1][1])


def test_samples_of_one_video_are_compared_with_it(files, package):
    real, fake = pair(t=1, seed=3)
    other = pair(t=1, seed=4)
    metric = LPIPS(path=files / "alex.pth")
    metric.update(torch.stack([real, real, other[0]]), torch.stack([fake, other[1], fake]), videos=["a", "a", "a"])
    expected = [package("alex", r, f)[0] for r, f in ((real, fake), (real, other[1]), (other[0], fake))]
    assert sorted(row[0] for _, row in metric._rows) == pytest.approx(sorted(expected), rel=1e-5)
    assert metric.compute()["best_of_k"]["mean"] == pytest.approx(min(expected), rel=1e-5)


def test_mcvds_sees_128_pixels(files, package):
    from PIL import Image
    real, fake = pair(64, 48, t=1)
    metric = SmallLPIPS(path=files / "alex.pth")
    metric.update(real[None], fake[None])
    small = [torch.from_numpy(np.array(Image.fromarray(v[0].numpy()).resize((128, 128), Image.BILINEAR)))[None]
             for v in (real, fake)]
    assert metric.compute()["mean"] == pytest.approx(package("alex", *small)[0], rel=2e-3)  # Pillow rounds in between


def test_grey_is_three_equal_channels(files):
    real, fake = (v[None] for v in pair(t=1))
    grey, colour = LPIPS(path=files / "alex.pth"), LPIPS(path=files / "alex.pth")
    grey.update(real[..., :1], fake[..., :1])
    colour.update(real[..., :1].expand(real.shape), fake[..., :1].expand(fake.shape))
    assert grey.compute()["mean"] == pytest.approx(colour.compute()["mean"])


def test_nothing_is_drawn_or_downloaded(files, monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: pytest.fail("downloads"))
    before = torch.get_rng_state()
    load_lpips("alex", files / "alex.pth")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("call, words", [
    (lambda files: LPIPS(net="squeeze", path=files / "alex.pth"), 'one of alex, vgg, got "squeeze"'),
    (lambda files: LPIPS(path=files / "vgg.pth"), "no alex backbone for lpips: it has no features.0.weight"),
    (lambda files: LPIPS(path=files / "alex.pth").update(*torch.zeros(2, 1, 1, 30, 40, 3, dtype=torch.uint8)),
     "at least 31 pixels a side, got 40x30"),
])
def test_errors_say_what_is_wrong(files, call, words):
    with pytest.raises(ValueError, match=words):
        call(files)


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="download --name lpips-vgg"):
        VggLPIPS()
