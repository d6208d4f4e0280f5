"""Who observes whom, as a PNG: one row a window, one column a frame."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from latent_diffusion.schemes import Window
from tools.files import replacing

PENDING, DONE, GIVEN, OBSERVED, MADE = range(5)
COLOURS = np.array([(248, 249, 250), (214, 218, 223), (160, 167, 176), (43, 108, 176), (237, 120, 45)], dtype=np.uint8)
NAMES = {MADE: "made by the window", OBSERVED: "observed", GIVEN: "given", DONE: "made before", PENDING: "not yet made"}
DPI = 100
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 64, 46  # pixels around the cells
NARROWEST = 620                            # pixels of the cells' area, so that the legend fits above it
LARGEST = 4000, 6000                       # pixels of width and height; beyond them cells are merged


def states(windows: Sequence[Window], total: int, known: Collection[int]) -> np.ndarray:
    """What every frame is to every window -> uint8 (windows, frames)."""
    rows, now = [], np.full(total, PENDING, dtype=np.uint8)
    now[sorted(known)] = GIVEN
    for observed, target in windows:
        rows.append(now.copy())
        rows[-1][observed] = OBSERVED
        rows[-1][target] = MADE
        now[target] = DONE
    return np.stack(rows)


def draw(windows: Sequence[Window], total: int, known: Collection[int], out: str | Path, *, title: str) -> None:
    """Draw the windows, in their order from top to bottom, into the PNG `out`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no display, no global state
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    cells = states(windows, total, known)
    cell = _cell(1600 // total), _cell(800 // len(windows))
    width, height = (min(side * count, most) for side, count, most in zip(cell, (total, len(windows)), LARGEST))
    merged = (width, height) != (cell[0] * total, cell[1] * len(windows))
    size = LEFT + max(width, NARROWEST) + RIGHT, TOP + height + BOTTOM
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI))
    FigureCanvasAgg(figure)
    axis = figure.add_axes((LEFT / size[0], BOTTOM / size[1], width / size[0], height / size[1]))
    axis.imshow(COLOURS[cells], aspect="auto", interpolation="hanning" if merged else "nearest",
                extent=(-0.5, total - 0.5, len(windows) - 0.5, -0.5))
    if cell[0] >= 6:
        axis.vlines(np.arange(total - 1) + 0.5, -0.5, len(windows) - 0.5, colors="white", linewidth=0.6)
    if cell[1] >= 6:
        axis.hlines(np.arange(len(windows) - 1) + 0.5, -0.5, total - 0.5, colors="white", linewidth=0.6)
    axis.set_xlabel("frame", fontsize=9)
    axis.set_ylabel("window", fontsize=9)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.tick_params(labelsize=8, length=3, color="#9aa1a9")
    axis.spines[:].set_color("#9aa1a9")
    axis.spines[:].set_linewidth(0.6)
    figure.text(LEFT / size[0], 1 - 20 / size[1], title, fontsize=11, va="center")
    shown = [Patch(facecolor=COLOURS[state] / 255, edgecolor="#9aa1a9", linewidth=0.6, label=name)
             for state, name in NAMES.items() if (cells == state).any()]
    figure.legend(handles=shown, loc="center left", bbox_to_anchor=(LEFT / size[0], 1 - 46 / size[1]), ncols=len(shown),
                  fontsize=8.5, frameon=False, borderpad=0, borderaxespad=0, handlelength=1.1, handleheight=1.1,
                  handletextpad=0.5, columnspacing=1.4)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _cell(fits: int) -> int:
    """Whole pixels of a cell's side, so that all are alike."""
    return max(2, min(24, fits))
