"""How fast a computation is beside the machine's own limit: operations, seconds, and a matrix product in between."""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

CPU_SIDE, GPU_SIDE = 2048, 8192  # of the matrices that stand for the limit
SHARES = 8                       # products that one measurement of the limit is the median of, on a CPU


def count_flops(run: Callable[[], Any]) -> tuple[int, Any]:
    """Operations of matrix products, convolutions and attention in a call (two for a multiply-add), and its result.

    Older versions of PyTorch's counter know the attention of a GPU but pass over the one of a CPU, and none knows a product
    that is added in place.
    """
    ops = torch.ops.aten
    attention = {ops._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
                 ops._scaled_dot_product_flash_attention_for_cpu_backward:
                     lambda grad, q, k, v, *args, out_shape=None, **options: 5 * _attention_flops(q, k, v) // 2}
    added = {ops.addmm_: lambda to, a, b, *args, out_shape=None, **options: 2 * math.prod(a) * b[1]}
    with FlopCounterMode(display=False, custom_mapping=attention | added) as counter:
        result = run()
    return counter.get_total_flops(), result


def _attention_flops(query, key, value, *args, out_shape=None, **options) -> int:
    """Scores and their sum over the values: the shapes are ... n d, ... m d and ... m e."""
    *batch, n, d = query
    return 2 * torch.Size(batch).numel() * n * key[-2] * (d + value[-1])


class Limit:
    """The rate of a float32 matrix product on a device, in GFLOP a second."""

    def __init__(self, device: torch.device):
        self.device, self.gpu = device, device.type == "cuda"
        side = GPU_SIDE if self.gpu else CPU_SIDE
        self.left, self.right = torch.randn(2, side, side, device=device).unbind(0)
        self.out = torch.empty_like(self.left)
        self.rate()

    def rate(self) -> float:
        seconds = [timed(self._product, self.device) for _ in range(SHARES)]
        return 2e-9 * len(self.left) ** 3 / median(seconds)

    def _product(self) -> Tensor:
        return torch.mm(self.left, self.right, out=self.out)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call until the device is done with it."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    begin = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - begin


def measure(run: Callable[[], Any], gflop: float, device: torch.device, repeats: int = 3) -> dict[str, float]:
    """Time a call that has been made before, by turns with the matrix product, so that what else the machine does befalls both.

    Args:
        gflop: operations of the call, in units of 1e9.

    Returns:
        Medians over the repeats: "seconds" (with "seconds_min" and "seconds_max"), "gflop" as given, "matmul_gflops", and
        "utilisation", the call's rate as a share of that of the products before and after it.
    """
    limit = Limit(device)
    seconds, rates = [], [limit.rate()]
    for _ in range(repeats):
        seconds.append(timed(run, device))
        rates.append(limit.rate())
    shares = [gflop / s / ((before + after) / 2) for s, before, after in zip(seconds, rates, rates[1:])]
    return {"seconds": median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds), "gflop": gflop,
            "utilisation": median(shares), "matmul_gflops": median(rates)}
