"""The command `bench`: speed and memory of each part, beside the matrix product of the same machine in the same minute."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from latent_diffusion import bench_samplers
from latent_diffusion.bench_parts import PARTS, Settings
from tools import dist
from tools.log import write_text
from tools.registry import nearest

COLUMNS = {"seconds": "{:.3f}", "gflop": "{:.1f}", "utilisation": "{:.2f}", "peak_mb": "{:.0f}"}


def bench(settings: Settings, *, only: str | None = None, out: str | None = None) -> dict[str, Any]:
    """Measure parts, each in a process of its own; print a table and the JSON, and write that to a file, if one is given.

    The file is written after every part, so that what was measured is kept when a later one fails. The curves of samplers
    are drawn beside it: a PNG of the same name.
    """
    names = chosen(only)
    if settings.model and "samplers" not in names:
        raise ValueError(f"--model is read by the part samplers alone, got --only {only}; leave it out, or add samplers")
    results: dict[str, Any] = {}
    report: dict[str, Any] = {}
    for name in tqdm(names, desc="measuring", unit="part"):
        results[name] = alone(name, settings)
        report = summary(results)
        if out:
            write_text(Path(out), json.dumps(report, indent=1) + "\n")
            if name == "samplers":
                bench_samplers.plot(results[name], Path(out).with_suffix(".png"))
    print(table(results))
    print(json.dumps(report))
    return report


def chosen(only: str | None) -> list[str]:
    """Names of parts, from a comma-separated list, in the order of PARTS; None = all."""
    if only is None:
        return list(PARTS)
    names = [name.strip() for name in only.split(",")]
    for name in names:
        if name not in PARTS:
            raise ValueError(f'--only names no part "{name}"{nearest(name, list(PARTS))}; parts: {", ".join(PARTS)}')
    return [name for name in PARTS if name in names]


def alone(name: str, settings: Settings) -> dict[str, Any]:
    """Measure a part in a new process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measured, name, settings).result()
        except BrokenProcessPool:
            raise ValueError(f"bench {name}: its process ended without a result; if it printed no reason, the machine has too "
                             "little memory: leave it out with --only, or choose smaller configurations") from None


def measured(name: str, settings: Settings) -> dict[str, Any]:
    dist.start()
    return PARTS[name](settings)


def summary(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is written: the results, and the machine that they are of."""
    rates = [result["matmul_gflops"] for result in results.values() if "matmul_gflops" in result]
    device = dist.device()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return {"results": dict(results), "matmul_gflops": median(rates) if rates else None, "device": where,
            "torch": torch.__version__}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Parts of the models as rows, and below what else was measured, a number a line."""
    rows: list[Sequence[str]] = [("part", *COLUMNS)]
    more: list[str] = []
    for name, result in results.items():
        if name == "samplers":
            more.append(bench_samplers.table(result))
        elif "utilisation" in result:
            rows.append((name, *(form.format(result[key]) for key, form in COLUMNS.items())))
        else:
            more += [f"{name}.{key} = {value}" for key, value in _leaves(result)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in rows]
    return "\n".join([*(lines if len(rows) > 1 else []), *more])


def _leaves(result: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in result.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return found
