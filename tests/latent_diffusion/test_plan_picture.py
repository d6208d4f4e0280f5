"""The drawing of a plan: a row a window, a column a frame, each of the colour of what it is."""

import numpy as np
import pytest
from PIL import Image

from latent_diffusion.plan_picture import COLOURS, DONE, GIVEN, MADE, OBSERVED, PENDING, draw, states
from latent_diffusion.schemes import SCHEMES, Window, is_adaptive, plan

TWO = [Window([0, 1], [2, 5]), Window([2, 5], [3, 4])]  # of 6 frames, 0 and 1 known
PLAIN = sorted(name for name in SCHEMES if not is_adaptive(name))


def test_states_follow_the_windows():
    assert states(TWO, 6, [0, 1]).tolist() == [[OBSERVED, OBSERVED, MADE, PENDING, PENDING, MADE],
                                               [GIVEN, GIVEN, OBSERVED, MADE, MADE, OBSERVED]]
    assert states([*TWO[:1], Window([5], [3]), Window([3], [4])], 6, [0, 1])[-1].tolist() \
        == [GIVEN, GIVEN, DONE, OBSERVED, MADE, DONE]


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def runs_of(line):
    """State of each pixel of a line that has exactly a state's colour, repeats left out."""
    found = [int(state[0]) for colour in line if len(state := np.flatnonzero((colour == COLOURS).all(1)))]
    return [state for state, before in zip(found, [None, *found]) if state != before]


def test_a_row_of_the_picture_is_a_window(tmp_path):
    draw(TWO, 6, [0, 1], tmp_path / "two.png", title="two")
    image = pixels(tmp_path / "two.png")
    rows = [line for line in map(runs_of, image) if len(line) > 2]
    wanted = [[OBSERVED, MADE, PENDING, MADE], [GIVEN, OBSERVED, MADE, OBSERVED]]
    legend = [MADE, OBSERVED, GIVEN, PENDING]
    assert [line for line, before in zip(rows, [None, *rows]) if line != before] == [legend, *wanted]


@pytest.mark.parametrize("total, stride", [(1, 1), (2, 1), (300, 7), (5000, 8)])
def test_a_picture_is_of_a_size_that_one_can_look_at(tmp_path, total, stride):
    draw(plan("shift", total, [], window=8, stride=stride), total, [], tmp_path / "p.png", title="many")
    height, width, _ = pixels(tmp_path / "p.png").shape
    assert 600 <= width <= 4100 and 100 <= height <= 6200


@pytest.mark.parametrize("scheme", PLAIN)
def test_a_column_is_the_life_of_a_frame(scheme):
    windows = plan(scheme, 20, [0, 1, 19], window=20 if scheme == "full" else 6, stride=3)
    cells = states(windows, 20, [0, 1, 19])
    assert cells.shape == (len(windows), 20)
    for frame in range(20):
        life = cells[:, frame].tolist()
        if frame in (0, 1, 19):
            assert set(life) <= {GIVEN, OBSERVED}
            continue
        at = life.index(MADE)
        assert set(life[:at]) <= {PENDING} and set(life[at + 1:]) <= {DONE, OBSERVED}


def test_a_picture_has_its_name_only_when_it_is_whole(tmp_path, monkeypatch):
    def broken(self, file, **options):
        raise OSError("full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    with pytest.raises(OSError, match="full"):
        draw(TWO, 6, [0, 1], tmp_path / "two.png", title="two")
    assert not (tmp_path / "two.png").exists()
