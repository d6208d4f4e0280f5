"""The drawings: every point is there, in the page's colours, and no part is named like that of another."""

import re

import numpy as np
import pytest
from outline import Outline

from evals.report_curves import Line, svg, thinned


def path_of(drawing, series):
    """Corners of a line as drawn: n 2."""
    group = re.search(rf'<g class="s{series}">.*?<path d="([^"]*)"', drawing, re.S)[1]
    return np.array([[float(x) for x in point] for point in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", group)])


def test_points_lie_where_the_values_say():
    x, y = [0, 10, 20, 40], [1.0, 2.0, 1.5, 3.0]
    drawn = path_of(svg("loss", [Line(0, "a", x, y)], "step", "p"), 0)
    across, up = np.polyfit(x, drawn[:, 0], 1), np.polyfit(y, drawn[:, 1], 1)
    np.testing.assert_allclose(np.polyval(across, x), drawn[:, 0], atol=1e-3)
    np.testing.assert_allclose(np.polyval(up, y), drawn[:, 1], atol=1e-3)
    assert across[0] > 0 > up[0]  # of a picture the top is 0


def test_values_far_apart_get_a_logarithmic_scale():
    drawn = path_of(svg("loss", [Line(0, "a", [0, 1, 2], [1, 0.1, 0.001])], "step", "p"), 0)[:, 1]
    assert (drawn[2] - drawn[1]) / (drawn[1] - drawn[0]) == pytest.approx(2, rel=1e-3)


def test_lines_have_their_own_class_colour_and_label():
    drawing = svg("loss", [Line(3, "run <a> & b", [0, 1], [1, 2]), Line(12, "other", [5], [1])], "step", "p")
    assert '<g class="s3"><title>run &lt;a&gt; &amp; b</title>' in drawing
    assert "var(--s3)" in drawing and "var(--s12)" in drawing
    assert "#fe" not in drawing and "#0101" not in drawing and "#0202" not in drawing  # stand-ins


def test_two_drawings_share_a_page():
    lines = [Line(0, "a", [0, 1], [1, 2], dots=True), Line(1, "b", [0, 1], [2, 1])]
    drawings = [svg("loss", lines, "step", name) for name in ("p0", "p1")]
    page = Outline("".join(drawings))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', "".join(drawings)))
    assert used and used <= set(ids)
    assert not page.all("style") and "xmlns" not in "".join(drawings) and "http" not in "".join(drawings)


def test_long_curves_are_thinned_to_means():
    x, y = list(range(1000)), [float(i % 2) for i in range(1000)]
    few, means = thinned(x, y, points=100)
    assert len(few) == 100 and means == [0.5] * 100 and sum(few) / 100 == sum(x) / 1000
    assert thinned(x[:100], y[:100], points=100) == (x[:100], y[:100])
    odd = thinned(x[:101], y[:101], points=100)
    assert len(odd[0]) == 51 and odd[0][-1] == 100
