"""Curves as inline SVG in the colours of the page: matplotlib draws, CSS variables paint, classes show and hide."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from tools.plot import spans_decades

POINTS = 300  # of a line at the most; of a longer one means of neighbours are drawn
_SIZE = (4.5, 2.8)  # inches; the page scales it
_TEXT, _GRID = "#010101", "#020202"  # stand for the page's colours
_PAINT = {_TEXT: "var(--soft)", _GRID: "var(--line)"}


class Line(NamedTuple):
    """One line of a plot.

    Attributes:
        series: number of what it belongs to, which is its colour.
        label: shown where the mouse rests on it.
        dots: mark the points, as fits a few of them.
    """

    series: int
    label: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False


def thinned(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """Means of equally many neighbours each, so that no more than `points` are left."""
    size = -(-len(x) // points)
    if size <= 1:
        return list(x), list(y)
    groups = [slice(start, start + size) for start in range(0, len(x), size)]
    return [sum(x[g]) / len(x[g]) for g in groups], [sum(y[g]) / len(y[g]) for g in groups]


def svg(title: str, lines: Sequence[Line], across: str, name: str) -> str:
    """Draw lines in one picture.

    Args:
        across: what is on the horizontal axis.
        name: of the picture, which no other on the page has: letters, digits and -.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure  # not pyplot: no display, no global state
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.color": _TEXT, "axes.labelcolor": _TEXT,
                                "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.edgecolor": _GRID, "font.size": 8}):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.subplots()
        for number, line in enumerate(lines):
            x, y = thinned(line.x, line.y)
            marked = line.dots or len(x) == 1
            axis.plot(x, y, color=_stand_in(line.series), linewidth=1.4, gid=f"line-{number}", solid_joinstyle="round",
                      marker="o" if marked else None, markersize=2.6, linestyle=(0, (4, 1.5)) if line.dots else "-")
        if spans_decades([value for line in lines for value in line.y]):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel(across, fontsize=7.5)
        axis.tick_params(labelsize=7.5, length=0)
        axis.grid(color=_GRID, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(text.getvalue(), title, lines, name)


def _stand_in(series: int) -> str:
    return f"#fe{series:04x}"


def _for_page(drawing: str, title: str, lines: Sequence[Line], name: str) -> str:
    """Keep what HTML needs of a drawing, name its parts like no other's, and give it the page's colours."""
    drawing = drawing[drawing.index("<svg"):]
    drawing = re.sub(r"<(metadata|style)\b.*?</\1>", "", drawing, flags=re.S)  # a style would be the whole page's
    head, rest = drawing.split(">", 1)
    drawing = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", head) + ">" + rest
    drawing = re.sub(r'\bid="(?!line-)', f'id="{name}-', drawing)
    drawing = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", drawing)
    drawing = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", drawing)  # older matplotlib
    drawing = re.sub(r"font-family: [^;\"]*;? ?", "", drawing)
    for colour, paint in {**_PAINT, **{_stand_in(line.series): f"var(--s{line.series})" for line in lines}}.items():
        drawing = drawing.replace(colour, paint)
    for number, line in enumerate(lines):
        label = html.escape(line.label)
        drawing = drawing.replace(f'<g id="line-{number}">', f'<g class="s{line.series}"><title>{label}</title>')
    return drawing.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
