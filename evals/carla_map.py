"""The map of CARLA's Town01 as FDM cuts it: ten by ten square cells, numbered along x first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Square cells over a square of the ground; metres."""
    low: float = -10.0
    high: float = 400.0
    bins: int = 10

    @property
    def count(self) -> int:
        """How many cells there are."""
        return self.bins**2

    @property
    def side(self) -> float:
        """Of a cell, in metres."""
        return (self.high - self.low) / self.bins

    def cells(self, coords: Tensor) -> Tensor:
        """Return the cell of each place: n 2 (x, y in metres) -> int64 n, x_bin * bins + y_bin. The far edges belong to the
        last cells.

        Raises:
            ValueError: a place is not on the map.
        """
        coords = coords.double()
        off = ~((coords >= self.low) & (coords <= self.high)).all(1)
        if off.any():
            x, y = coords[off][0].tolist()
            raise ValueError(f"the place ({x:.4g}, {y:.4g}) is not on the map of Town01, {self.low:g} to {self.high:g} metres "
                             "along x and y; check that the coordinates are of this town")
        bins = ((coords - self.low) / self.side).long().clamp(max=self.bins - 1)
        return bins[:, 0] * self.bins + bins[:, 1]

    def centres(self) -> Tensor:
        """Return the middle of every cell in the order of their numbers: count 2."""
        middle = self.low + self.side * (torch.arange(self.bins) + 0.5)
        return torch.cartesian_prod(middle, middle)


TOWN01 = Grid()


def draw_map(path: str | Path, under: Tensor, over: dict[str, Tensor], title: str = "") -> None:
    """Draw trajectories as a PNG.

    Args:
        under: places that show where the roads are, n 2, grey.
        over: name -> places in the order of time, n 2, one colour each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    from tools.files import replacing

    figure = Figure(figsize=(7, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(*under.T.tolist(), ".", color="0.8", markersize=3)
    for name, places in over.items():
        axis.plot(*places.T.tolist(), ".", markersize=2, label=name)
    axis.set(title=title, xlabel="x (m)", ylabel="y (m)", aspect="equal")
    if 0 < len(over) <= 10:
        axis.legend(fontsize=8, markerscale=4)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
