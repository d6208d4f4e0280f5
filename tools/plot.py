"""Curves of a run as a PNG, from its metrics.jsonl."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tools.files import replacing
from tools.log import read_metrics

COLUMNS = 3


def curves(metrics: str | Path) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Group a metrics.jsonl by what is measured: "loss" -> {"train": (steps, values), "validate": ...}."""
    groups: dict = defaultdict(dict)
    for record in read_metrics(metrics):
        if record["value"] is not None:
            stage, _, name = record["name"].rpartition("/")
            steps, values = groups[name].setdefault(stage or "run", ([], []))
            steps.append(record["step"])
            values.append(record["value"])
    return dict(groups)


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a log scale shows more of these values than a linear one."""
    return min(values) > 0 and max(values) > 30 * min(values)


def plot(metrics: str | Path, out: str | Path) -> None:
    """Draw each metric over the steps into the PNG `out`; without any metric nothing is written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    groups = curves(metrics)
    if not groups:
        return
    columns = min(COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (name, lines) in zip(axes, sorted(groups.items())):
        for stage, (steps, values) in sorted(lines.items()):
            axis.plot(steps, values, label=stage, linewidth=1, marker="." if len(steps) < 20 else None)
        every = [v for _, values in lines.values() for v in values]
        if spans_decades(every):
            axis.set_yscale("log")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    for axis in list(figure.axes)[len(groups):]:
        axis.set_visible(False)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
