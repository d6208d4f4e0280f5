import platform
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests.tiny import environment
from tools.memory import keep_freed_memory, peak_bytes


def test_the_peak_grows_by_what_is_held_and_does_not_fall():
    before = peak_bytes()
    held = np.ones(before // 2 + (64 << 20), np.uint8)  # more than what may be free below an earlier peak
    grown = peak_bytes()
    assert before < grown and grown >= held.nbytes
    del held
    assert peak_bytes() >= grown


FAULTS = """
import resource
from tools.memory import keep_freed_memory
import torch
keep_freed_memory()
def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(32 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_freed_is_used_again_without_new_pages():
    env = {key: value for key, value in environment().items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}

    def counted(**more):
        return int(subprocess.run([sys.executable, "-c", FAULTS], env=env | more, capture_output=True, check=True).stdout)
    pages = 10 * (32 << 20) // resource.getpagesize()
    assert counted() < pages / 50
    assert counted(MALLOC_ARENA_MAX="1") > pages / 600  # what the user has set stays; a page may be a huge one


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
