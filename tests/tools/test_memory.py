import numpy as np

from tools.memory import peak_bytes


def test_the_peak_grows_by_what_is_held_and_does_not_fall():
    before = peak_bytes()
    held = np.ones(before // 2 + (64 << 20), np.uint8)  # more than what may be free below an earlier peak
    grown = peak_bytes()
    assert before < grown and grown >= held.nbytes
    del held
    assert peak_bytes() >= grown
