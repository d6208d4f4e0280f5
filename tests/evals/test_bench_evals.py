import sys

import pytest
import torch

from evals.bench_evals import Case, measure


@pytest.fixture(scope="module")
def result():
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("evals.bench_evals.ENOUGH", 0)
    monkeypatch.setattr("evals.bench_evals.TURN", 0)
    before = torch.get_num_threads(), torch.get_rng_state()
    result = measure(cases={"small": Case(videos=1, frames=4, size=48, samples=2)}, repeats=1)
    monkeypatch.undo()
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert result.keys() == {"small"}
    return result


@pytest.mark.parametrize("name", ["psnr", "ssim", "lpips"])
def test_both_ways_give_the_same_values(result, name):
    assert result["small"][name]["difference"] < 1e-5


def test_speedup_is_of_the_times_told(result):
    result = result["small"]
    parts = [result[name] for name in ("psnr", "ssim", "lpips")]
    for part in (*parts, result["all"]):
        assert part["speedup"] == pytest.approx(part["loop_seconds"] / part["seconds"])
    assert result["all"]["seconds"] == pytest.approx(sum(part["seconds"] for part in parts))
    assert result["all"]["speedup"] > 0


def test_operations_of_lpips_are_fewer_than_alexnets_for_each_sample_and_once_for_the_true_video(result):
    # Multiply-adds of AlexNet's five convolutions at 48x48; the first, with strides, is made as it is.
    sides, maps = (11, 5, 2, 2, 2), ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
    first, *others = (2 * side ** 2 * c * d * k ** 2 for side, (c, d, k) in zip(sides, maps))
    lpips = result["small"]["lpips"]
    assert 1.5 * first < lpips["gflop"] * 1e9 < 1.5 * (first + sum(others) / 1.5)
    assert lpips["speedup_limit"] == pytest.approx(lpips["loop_seconds"] * lpips["matmul_gflops"] / lpips["gflop"])


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[test\]"'):
        measure()
