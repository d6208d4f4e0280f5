"""Which frames each task is given when nobody says."""

import pytest

from latent_diffusion.task import TASKS, known_frames


def spans(mask):
    """Known frames as text, x = known."""
    return "".join("x" if k else "." for k in mask.tolist())


@pytest.mark.parametrize("task, frames, known, wanted", [
    ("generate", None, None, "...."),
    ("generate", 6, None, "......"),
    ("predict", None, None, "xxxx...."),
    ("predict", 12, None, "xxxx........"),
    ("predict", 3, None, "xx."),
    ("predict", 6, "0-1", "xx...."),
    ("predict_backward", None, None, "....xxxx"),
    ("predict_backward", 6, "-2--1", "....xx"),
    ("interpolate", None, None, "xxxx....xxxx"),
    ("interpolate", 10, None, "xxxx..xxxx"),
    ("interpolate", 4, None, "x..x"),
    ("interpolate", 6, "0,5", "x....x"),
    ("infill", 6, "1,3-4", ".x.xx."),
    ("infill", None, "0", "x......."),
])
def test_masks(task, frames, known, wanted):
    assert spans(known_frames(task, 4, frames, known)) == wanted


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("frames", range(3, 20))
def test_something_is_left_to_make(task, frames):
    mask = known_frames(task, 4, frames, "1" if task == "infill" else None)
    assert len(mask) == frames and not mask.all() and bool(mask.any()) == (task != "generate")


@pytest.mark.parametrize("task, frames, known, message", [
    ("prediction", None, None, "one of generate, predict"),
    ("generate", None, "0-3", "knows nothing"),
    ("infill", 8, None, "--known"),
    ("predict", 8, "4-7", "the beginning"),
    ("predict", 8, "0,7", "the beginning"),
    ("predict_backward", 8, "0-3", "the end"),
    ("interpolate", 8, "0-3", "both ends"),
    ("predict", 1, None, "--frames 1"),
    ("interpolate", 2, None, "--frames 2"),
    ("generate", 0, None, "--frames 0"),
    ("predict", -4, None, "--frames -4"),
    ("predict", 8, "0-7", "nothing to make"),
    ("predict", 8, "", 'needs given frames, got --known ""'),
    ("interpolate", None, " ", "--task generate"),
    ("infill", 8, "", "which is none"),
])
def test_contradictions_are_refused(task, frames, known, message):
    with pytest.raises(ValueError, match=message):
        known_frames(task, 4, frames, known)
