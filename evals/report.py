"""The command `report`: one page of curves, videos, metrics and settings of several runs, which opens without a network."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from tqdm import tqdm

from evals.report_curves import Line, svg
from evals.report_sources import Found, Result, Training, find
from evals.report_style import SCRIPT, style
from evals.report_tables import chip, comparable, described, metrics, settings_table, summary
from evals.report_videos import rows, shown, snapshots
from tools import dist
from tools.page import Section, write_page

VIDEOS = 4  # of each folder
MACHINE = ("clips_per_second", "peak_mb", "steps_per_second", "waiting")  # curves that tell of the machine, not the model


def report(*, runs: Sequence[str] | None, out: str | None, num_videos: int | None, results: str) -> None:
    """Write one HTML file about runs, sample folders and evaluations, or about all that lie in a folder.

    Without `out` it is RUN/report.html of a single folder, else RESULTS/report.html.
    """
    if not runs:
        raise ValueError("--exp report needs --runs: run folders, folders that sample wrote, or JSON files of evaluate")
    count = VIDEOS if num_videos is None else num_videos
    if count < 0:
        raise ValueError(f"--num_videos must be 0 (none) or more, got {count}")
    if not dist.is_main():
        return
    file = Path(out) if out else (Path(runs[0]) if len(runs) == 1 and Path(runs[0]).is_dir() else Path(results)) / "report.html"
    if file.is_dir():
        file = file / "report.html"
    found = find(runs)
    colours = {name: i for i, name in enumerate(dict.fromkeys(item.name for item in [*found.samples, *found.results]))}
    parts = [lambda: overview(found), lambda: evaluations(found.results, colours), lambda: videos(found, colours, count),
             lambda: curves(found.trainings), lambda: settings(found, colours)]
    sections = [section for part in tqdm(parts, desc="report", unit="part", delay=1) for section in part()]
    write_page(file, title(found), sections, style=style(max(len(found.trainings), len(colours))), script=SCRIPT)
    print(f"{', '.join(counted(found))}: {file} ({file.stat().st_size / 2**20:.1f} MB)")


def counted(found: Found) -> list[str]:
    words = [("training run", "training runs"), ("folder of videos", "folders of videos"), ("evaluation", "evaluations")]
    return [f"{len(items)} {many if len(items) > 1 else one}" for (one, many), items in zip(words, found) if items]


def title(found: Found) -> str:
    names = list(dict.fromkeys(item.name for items in found for item in items))
    return " and ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} others"


def overview(found: Found) -> list[Section]:
    if not found.trainings:
        return []
    return [Section("Runs", f"This page is about {', '.join(counted(found))}.", body=summary(found.trainings))]


def evaluations(results: Sequence[Result], colours: Mapping[str, int]) -> list[Section]:
    """A table for each way of measuring, with the metrics over the frames below."""
    body = []
    groups = comparable(results)
    for number, group in enumerate(groups):
        body.append(f"<h3>{described(group)}</h3>{metrics(group, colours)}")
        body.append(_plots(_per_frame(group, colours), "frame", f"m{number}"))
    text = "Mean ± half of the 95 % confidence interval over videos; the best of a column is bold."
    if len(groups) > 1:
        text += " Numbers of different tables were measured differently: do not compare them."
    return [Section("Metrics", text, body="\n".join(body))] if groups else []


def _per_frame(group: Sequence[Result], colours: Mapping[str, int]) -> dict[str, list[Line]]:
    plots: dict[str, list[Line]] = {}
    for result in group:
        frames = result.protocol.get("frames_compared")
        for name, metric in result.metrics.items():
            values = metric.get("per_frame")
            if isinstance(values, list) and len(values) > 1 and all(isinstance(v, (int, float)) for v in values):
                across = frames if frames and len(frames) == len(values) else range(len(values))
                plots.setdefault(name, []).append(Line(colours[result.name], result.name, list(across), values))
    return plots


def videos(found: Found, colours: Mapping[str, int], count: int) -> list[Section]:
    sections = []
    made = rows(found.samples, colours, count) if count else []
    if made:
        marked = any(tile.known for row in made for tile in row.tiles)
        text = "The bar under a video marks the frames that were given. " if marked else ""
        text += "PSNR is of the made frames." if any(tile.note for row in made for tile in row.tiles) else ""
        legend = _legend({colours[one.name]: one.name for one in found.samples})
        sections.append(Section("Videos", text, body=legend + shown(made)))
    pictures = snapshots(found.trainings) if count else []
    if pictures:
        text = "What each run made last of held-out videos: a strip has the truth above what was made of it, frame by frame."
        sections.append(Section("While training", text, media=pictures))
    return sections


def curves(trainings: Sequence[Training]) -> list[Section]:
    """The runs together, a picture a metric, stage by stage."""
    body = []
    for number, stage in enumerate(dict.fromkeys(run.stage for run in trainings)):
        own = {series: run for series, run in enumerate(trainings) if run.stage == stage and run.curves}
        plots: dict[str, list[Line]] = {}
        for series, run in own.items():
            for name, lines in run.curves.items():
                plots.setdefault(name, []).extend(
                    Line(series, f"{run.name}, {kind}", steps, values, dots=kind == "validate")
                    for kind, (steps, values) in sorted(lines.items()))
        if not plots:
            continue
        first = sorted((name for name in plots if name not in MACHINE),
                       key=lambda name: (name != "loss", not any(line.dots for line in plots[name]), name))
        machine = [name for name in MACHINE if name in plots]
        body.append(f"<h3>{stage}</h3>" + _legend({series: run.name for series, run in own.items()})
                    + _plots({name: plots[name] for name in first}, "step", f"c{number}"))
        if machine:
            body.append("<details><summary>Speed and memory</summary>"
                        + _plots({name: plots[name] for name in machine}, "step", f"h{number}") + "</details>")
    text = "Solid: training. Dashed, with dots: validation. A long curve is drawn as means of neighbours; the scale is " \
           "logarithmic where that shows more."
    return [Section("Curves", text, body="\n".join(body))] if body else []


def _legend(names: dict[int, str]) -> str:
    """Names with their colours, which hide and show what is theirs in the section."""
    boxes = (f'<label><input type="checkbox" checked data-series="{series}">{chip(series, name)}</label>'
             for series, name in names.items())
    return f'<div class="legend">{"".join(boxes)}</div>'


def _plots(plots: dict[str, list[Line]], across: str, place: str) -> str:
    pictures = [f"<figure><figcaption>{html.escape(name)}</figcaption>{svg(name, lines, across, f'{place}-{number}')}</figure>"
                for number, (name, lines) in enumerate(plots.items())]
    return f'<div class="plots">{"".join(pictures)}</div>' if pictures else ""


def settings(found: Found, colours: Mapping[str, int]) -> list[Section]:
    """What the runs of a stage, and the folders of videos, do not have in common; all settings are folded below."""
    body = []
    for stage in dict.fromkeys(run.stage for run in found.trainings):
        own = [(series, run) for series, run in enumerate(found.trainings) if run.stage == stage and run.settings]
        if len(own) > 1:
            body.append(f"<h3>{stage}</h3>" + settings_table({s: run.name for s, run in own}, [run.settings for _, run in own]))
    told = [one for one in found.samples if one.settings]
    if len(told) > 1:
        short = [{key: value for key, value in one.settings.items() if key not in ("videos", "notes")} for one in told]
        body.append("<h3>Sampling</h3>" + settings_table({colours[one.name]: one.name for one in told}, short))
    for item in [*found.trainings, *found.samples]:
        if item.settings:
            text = yaml.safe_dump(item.settings, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
            body.append(f"<details><summary>All of {html.escape(item.name)}</summary><pre>{html.escape(text)}</pre></details>")
    return [Section("Settings", "Those that differ; all are folded below.", body="\n".join(body))] if body else []
