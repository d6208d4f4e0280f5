"""The tables of a report: what the runs are, their metrics with intervals, and the settings in which they differ."""

from __future__ import annotations

import html
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evals.report_sources import Result, Training

HIGHER = {"psnr", "psnr_pooled", "ssim", "ssim_mcvd", "is", "inception_score", "linear_psnr"}  # the better, the higher
LOWER = {"mse", "lpips", "fvd", "loss"}
ABSENT = "–"
_DECIDES = ("name", "frames_compared", "resolution", "resize", "stride", "selection", "known_frames", "samples_per_video",
            "samples", "ci95")  # of a protocol, besides the videos


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of HTML cells; `numbers` are the columns set to the right."""
    numbers = set(numbers)

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}{' class=number' if i in numbers else ''}>{cell}</{tag}>"
                                for i, cell in enumerate(cells)) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table>\n<thead>{line("th", head)}</thead>\n<tbody>{body}</tbody>\n</table></div>'


def chip(series: int, name: str) -> str:
    """A name with its colour."""
    return f'<span class="chip"><i style="background: var(--s{series})"></i>{html.escape(name)}</span>'


def summary(trainings: Sequence[Training]) -> str:
    """One row a training run: how far it came, how fast, and its validation."""
    rows = []
    for series, run in enumerate(trainings):
        last = max((steps[-1] for lines in run.curves.values() for steps, _ in lines.values()), default=0)
        wanted = run.settings.get("loop.steps")
        rates = run.curves.get("steps_per_second", {}).get("train", ([], []))[1]
        rows.append([chip(series, run.name), run.stage, html.escape(str(run.settings.get("data.name", ABSENT))),
                     f"{last:,}" + (f" of {wanted:,}" if isinstance(wanted, int) and wanted != last else ""),
                     f"{statistics.median(rates):.3g}" if rates else ABSENT, validation(run)])
    return table(["run", "stage", "data", "updates", "updates a second", "validation"], rows, [3, 4])


def validation(run: Training) -> str:
    """The best of each validated metric of which it is known what is better, and where it ended."""
    parts = []
    for name, lines in sorted(run.curves.items()):
        if "validate" not in lines or name not in HIGHER | LOWER:
            continue
        steps, values = lines["validate"]
        best = (max if name in HIGHER else min)(range(len(values)), key=values.__getitem__)
        ended = "" if best == len(values) - 1 else f", last {values[-1]:.4g}"
        parts.append(f"{html.escape(name)} <strong>{values[best]:.4g}</strong> at {steps[best]:,}{ended}")
    return "<br>".join(parts) or ABSENT


def comparable(results: Sequence[Result]) -> list[list[Result]]:
    """Group results that were measured in the same way, so that their numbers may be held against each other."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        protocol, videos = result.protocol, _videos(result)
        groups.setdefault(repr([protocol.get(key) for key in _DECIDES] + [videos]), []).append(result)
    return list(groups.values())


def _videos(result: Result) -> Any:
    """Which true videos a result is of: by name and start where the samples tell, else their folder."""
    sample = result.protocol.get("sample") or {}
    if sample.get("videos"):
        return [[video.get("name"), video.get("start")] for video in sample["videos"]], sample.get("data_stride")
    return result.protocol.get("real")


def described(group: Sequence[Result]) -> str:
    """How the numbers of a group came about, in a line."""
    protocol = group[0].protocol
    if not protocol:
        return "No protocol is told beside these numbers."
    size, frames = protocol.get("resolution"), protocol.get("frames_compared") or []
    parts = [f"{protocol.get('name', 'custom')} protocol", f"frames {spans(frames)}" if frames else "",
             f"{size[1]}×{size[0]} pixels" if isinstance(size, list) and size and isinstance(size[0], int) else "",
             {"exclude": "given frames left out", "include": "given frames counted"}.get(protocol.get("known_frames"), ""),
             f"{protocol['samples_per_video']} samples a video" if protocol.get("samples_per_video") not in (1, None) else ""]
    return html.escape(", ".join(part for part in parts if part)) + "."


def spans(frames: Sequence[int]) -> str:
    """Frame numbers as one writes them: 0-3, 12."""
    runs: list[list[int]] = []
    for frame in sorted(frames):
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def metrics(group: Sequence[Result], colours: Mapping[str, int]) -> str:
    """A row a result, a column a metric: mean ± half a 95 % interval, the best one bold."""
    names = list(dict.fromkeys(name for result in group for name in result.metrics))
    means = {name: [r.metrics[name]["mean"] for r in group if name in r.metrics] for name in names}
    best = {name: (max if name in HIGHER else min)(means[name]) for name in names
            if name in HIGHER | LOWER and len(means[name]) > 1}
    rows = []
    for result in group:
        cells = [_score(result.metrics.get(name), best.get(name)) for name in names]
        pairs = max(metric.get("n", 0) for metric in result.metrics.values())
        rows.append([chip(colours[result.name], result.name), *cells, str(pairs or ABSENT)])
    return table(["result", *map(_arrow, names), "pairs"], rows, range(1, len(names) + 2))


def _arrow(name: str) -> str:
    return html.escape(name) + (" ↑" if name in HIGHER else " ↓" if name in LOWER else "")


def _score(metric: dict[str, Any] | None, best: float | None) -> str:
    if metric is None:
        return ABSENT
    mean, half = metric["mean"], metric.get("ci95")
    places = 2 if abs(mean) >= 10 else 4
    text = f"<strong>{mean:.{places}f}</strong>" if mean == best else f"{mean:.{places}f}"
    return text if half is None else f'{text} <span class="half">± {half:.{places}f}</span>'


def differences(settings: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Keys whose values are not the same in all, with the value of each (ABSENT where it has none)."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    values = ((key, [one.get(key, ABSENT) for one in settings]) for key in keys)
    return [(key, row) for key, row in values if any(value != row[0] for value in row)]


def settings_table(names: Mapping[int, str], settings: Sequence[dict[str, Any]]) -> str:
    """The settings that differ, a column a run."""
    rows = differences(settings)
    if not rows:
        return "<p>All settings are the same.</p>"
    head = ["setting", *(chip(series, name) for series, name in names.items())]
    return table(head, [[f"<code>{html.escape(key)}</code>", *(_value(value) for value in row)] for key, row in rows])


def _value(value: Any) -> str:
    if value == ABSENT:
        return f'<span class="half">{ABSENT}</span>'
    return html.escape("none" if value is None else str(value).lower() if isinstance(value, bool) else str(value))
