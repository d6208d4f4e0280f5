"""Several seeds make one number with an interval over them."""

import pytest

from evals.seeds import combine


def result(warning="w", **means):
    metrics = {name: {"mean": mean, "ci95": 9.0, "n": 2} for name, mean in means.items()}
    return {"metrics": metrics, "warnings": [warning], "n": 1}


def test_the_mean_and_the_t_interval_over_seeds():
    joined = combine([result(fvd=1.0, psnr=5.0), result(fvd=2.0), result(fvd=3.0)], [7, 8, 9])
    fvd = joined["metrics"]["fvd"]
    assert fvd["mean"] == 2 and fvd["ci95"] == pytest.approx(4.302653 * (1 / 3) ** 0.5)
    assert fvd["seeds"] == {"seeds": [7, 8, 9], "values": [1.0, 2.0, 3.0], "std": 1.0}
    assert joined["metrics"]["psnr"] == {"mean": 5.0, "ci95": 9.0, "n": 2} and joined["warnings"] == ["w"] and joined["n"] == 1


def test_one_seed_changes_nothing():
    assert combine([result(fvd=1.0)], [0]) == result(fvd=1.0)
