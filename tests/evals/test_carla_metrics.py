"""WD and PO against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm, t

from evals.carla_metrics import SpeedConfig, Speeds, compare_speeds, jackknife, point_speeds

CFG = SpeedConfig()


def straight(speed, length=50, fps=10.0):
    """A car at a constant speed in m/s: t 2."""
    return np.outer(np.arange(length) * speed / fps, [0.6, -0.8])


def side(*videos):
    return [Speeds(str(number), np.asarray(values, float)) for number, values in enumerate(videos)]


@pytest.mark.parametrize("gap, fps", [(1, 10.0), (10, 10.0), (10, 25.0)])
def test_a_car_at_a_constant_speed_has_that_point_speed(gap, fps):
    speeds = point_speeds(straight(4.5, fps=fps), SpeedConfig(gap=gap, fps=fps))
    assert len(speeds) == 50 - gap
    np.testing.assert_allclose(speeds, 4.5)


def test_a_point_speed_is_over_the_gap_and_not_along_the_way():
    there_and_back = np.array([[0.0, 0], [5, 0], [0, 0], [5, 0], [0, 0]])
    assert point_speeds(there_and_back, SpeedConfig(gap=2)).tolist() == [0, 0, 0]
    assert point_speeds(there_and_back, SpeedConfig(gap=1)).tolist() == [50] * 4


def test_speeds_between_given_frames_are_left_out_and_no_others():
    coords = np.cumsum(np.random.default_rng(0).normal(size=(9, 2)), axis=0)
    every = point_speeds(coords, SpeedConfig(gap=2))
    kept = point_speeds(coords, SpeedConfig(gap=2), given=[0, 1, 2, 3, 8])
    np.testing.assert_array_equal(kept, every[2:])  # 0 to 2 and 1 to 3 are given; 6 to 8 is half made
    assert len(point_speeds(coords, SpeedConfig(gap=2), given=[30])) == 7


def test_speeds_that_are_all_higher_by_so_much_are_so_far_away():
    true = np.random.default_rng(0).uniform(0, 5, (4, 100))
    result = compare_speeds(side(*true), side(*(true + 1.25)), CFG)
    assert result["wd"]["mean"] == pytest.approx(1.25) == result["wd_all"]["mean"]
    assert result["po"]["mean"] == 0 and (result["wd"]["n"], result["wd"]["n_real"]) == (4, 4)


def test_gaussians_of_one_mean_differ_by_their_spread():
    grid = (np.arange(20_000) + 0.5) / 20_000
    narrow, wide = norm.ppf(grid, 5, 0.2), norm.ppf(grid, 5, 0.7)
    wd = compare_speeds(side(narrow), side(wide), CFG)["wd"]["mean"]
    assert wd == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=1e-3)  # |s1 - s2| E|z|


def test_the_same_speeds_in_another_order_and_number_are_no_distance_apart():
    values = np.random.default_rng(0).uniform(0, 8, 60)
    result = compare_speeds(side(values), side(values[::-1], np.repeat(values, 3)), CFG)
    assert result["wd"]["mean"] == pytest.approx(0, abs=1e-12)


def test_planted_outliers_are_counted_and_weigh_nothing_in_wd():
    true, made = [np.full(50, 3.0)] * 2, [np.full(50, 4.0), np.full(50, 4.0)]
    made[1] = np.r_[np.full(44, 4.0), np.full(6, 104.0)]
    result = compare_speeds(side(*true), side(*made), CFG)
    assert result["po"]["mean"] == pytest.approx(6)
    assert result["wd"]["mean"] == pytest.approx(1)
    assert result["wd_all"]["mean"] == pytest.approx(0.94 * 1 + 0.06 * 101)


def test_outliers_of_the_data_are_told_beside_and_left_out_too():
    result = compare_speeds(side([3.0] * 9 + [50.0]), side([3.0] * 10), CFG)
    assert (result["po"]["mean"], result["po"]["real"]) == (0, pytest.approx(10)) and result["wd"]["mean"] == 0


def test_the_limit_itself_is_no_outlier():
    values = [1.0, 4.0, np.nextafter(4.0, 5)]
    assert compare_speeds(side([1.0]), side(values), SpeedConfig(limit=4.0))["po"]["mean"] == pytest.approx(100 / 3)


def test_a_side_of_outliers_alone_is_an_error_that_tells_the_shares():
    with pytest.raises(ValueError, match=r"speed.limit=10 m/s.* 0 % of the real ones and 100 % of the made ones"):
        compare_speeds(side([3.0]), side([30.0]), CFG)


def test_the_interval_is_that_of_a_mean_difference_where_the_distance_is_one():
    rng = np.random.default_rng(0)
    low, high = rng.uniform(1, 2, 12), rng.uniform(5, 6, 12)  # one speed a video, the made ones all faster
    half = jackknife(side(*low[:, None]), side(*high[:, None]))
    assert half == pytest.approx(t.ppf(0.975, 11) * np.std(high - low, ddof=1) / np.sqrt(12))


def test_one_video_a_side_says_nothing_about_the_spread():
    result = compare_speeds(side([1.0, 2.0]), side([2.0, 3.0]), CFG)
    assert result["wd"]["ci95"] is None and result["po"]["ci95"] is None


def test_samples_of_one_video_are_no_more_videos():
    made = side([1, 20.0], [1, 2, 3, 4.0], [2, 3, 30, 30.0])
    once, twice = (compare_speeds(side([1.0, 2]), samples, CFG)["po"] for samples in (made, made * 2))
    assert twice["ci95"] == pytest.approx(once["ci95"]) and twice["mean"] == once["mean"]


@pytest.mark.parametrize("name", ["gap", "fps", "limit"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"speed.{name} must be above 0, got 0"):
        SpeedConfig(**{name: 0})
