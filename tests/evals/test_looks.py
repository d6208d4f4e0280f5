"""What is odd about videos is said once."""

import numpy as np
import pytest
from media import flat, still

from evals.looks import Looks


def looks(*videos, side="fake"):
    found = Looks()
    for number, frames in enumerate(videos):
        found.look(side, str(number), frames)
    return found


@pytest.mark.parametrize("videos, words", [
    ([flat(0), flat(1)], []),
    ([flat(0), still(9)], ["1 of 2 made videos do not move", "2 sizes"]),
    ([flat(0), flat(1), flat(0)], ["1 of 3 made videos are copies"]),
    ([flat(0), flat(1, h=20)], ["2 sizes: 1 of 24x16, 1 of 24x20"]),
    ([flat(0) // 128, flat(1) // 128], ["0..1"]),
    ([still(9, length=1)], []),  # an image does not move
])
def test_each_oddity_is_said_and_nothing_else(videos, words):
    said = looks(*videos).warnings()
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said))


def test_what_was_told_is_not_told_again():
    found = looks(flat(0), flat(0))
    assert found.warnings() and not found.warnings(told=["fvd: " + found.warnings()[0]])


def test_merging_is_looking_at_all():
    one, other, both = looks(flat(0)), Looks(), looks(flat(0), flat(0))
    other.look("fake", "1", flat(0))
    one.merge(other)
    assert one.warnings() == both.warnings() and one.shapes("fake") == {(4, 16, 24)} and not one.shapes("real")
    other.look("fake", "1", np.zeros((1, 1, 1, 3), np.uint8))
    assert other.shapes("fake") == {(4, 16, 24)}  # a video counts once
