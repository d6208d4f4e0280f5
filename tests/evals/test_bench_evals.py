import sys

import pytest
import torch

from evals.bench_evals import measure


@pytest.fixture(scope="module")
def result():
    before = torch.get_num_threads(), torch.get_rng_state()
    result = measure(videos=1, frames=4, size=48, samples=2, repeats=1)
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    return result


@pytest.mark.parametrize("name", ["psnr", "ssim", "lpips"])
def test_both_ways_give_the_same_values(result, name):
    assert result[name]["difference"] < 1e-5


def test_speedup_is_of_the_times_told(result):
    parts = [result[name] for name in ("psnr", "ssim", "lpips")]
    for part in (*parts, result["all"]):
        assert part["speedup"] == pytest.approx(part["loop_seconds"] / part["seconds"])
    assert result["all"]["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert result["all"]["speedup"] > 1


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[test\]"'):
        measure()
