"""Operations are counted as by hand, and a rate is a share of the matrix product's."""

import time

import pytest
import torch

from tools import speed
from tools.speed import Limit, count_flops, measure, timed

CPU = torch.device("cpu")


@pytest.mark.parametrize("grad, times", [(False, 2), (True, 2 + 5)])  # backward: scores again, then two products for each
def test_attention_counts_on_a_cpu(grad, times):
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=grad) for n in (5, 7, 7))

    def attend():
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.sum().backward() if grad else out
    flops, _ = count_flops(attend)
    assert flops == times * (2 * 2 * 3 * 5 * 7 * 8)


def test_matrix_products_and_convolutions_count_and_the_result_comes_back():
    linear, conv = torch.nn.Linear(4, 6), torch.nn.Conv2d(2, 3, 3, padding=1)
    x, image = torch.randn(5, 4), torch.randn(1, 2, 4, 7)
    flops, (y, z) = count_flops(lambda: (linear(x), conv(image)))
    assert flops == 2 * 5 * 4 * 6 + 2 * 3 * 4 * 7 * 2 * 9
    torch.testing.assert_close(y, linear(x))
    torch.testing.assert_close(z, conv(image))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(speed, "CPU_SIDE", 64)


def test_utilisation_is_the_share_of_the_rate_of_the_product(small, monkeypatch):
    # a clock that runs with the operations of the product, one a nanosecond
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    def product(self):
        now[0] += 2 * 64**3 / 1e9
    monkeypatch.setattr(Limit, "_product", product)

    def call():
        now[0] += 3.0
    result = measure(call, gflop=1.5, device=CPU, repeats=2)
    assert result["matmul_gflops"] == pytest.approx(1)
    assert result["seconds"] == result["seconds_min"] == pytest.approx(3)
    assert result["utilisation"] == pytest.approx(0.5)


def test_seconds_are_of_the_wall(small):
    assert timed(lambda: time.sleep(0.05), CPU) >= 0.05


def test_a_call_is_made_as_often_as_asked(small):
    calls = []
    result = measure(lambda: calls.append(1), gflop=1, device=CPU, repeats=4)
    assert len(calls) == 4 and result["gflop"] == 1
    assert result["seconds_min"] <= result["seconds"] <= result["seconds_max"]
