import platform
import resource
import subprocess
import sys

import pytest
import torch

from tests.tiny import environment
from tools import memory
from tools.memory import free_bytes, keep_freed_memory

PEAK = """
import numpy as np
from tools.memory import peak_bytes
before = peak_bytes()
held = np.ones(300 << 20, np.uint8)
grown = peak_bytes()
del held
print(before, grown, peak_bytes())
"""


def test_the_peak_grows_by_what_is_held_and_does_not_fall():
    words = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, env=environment()).stdout
    before, grown, after = map(int, words.split())
    assert 250 << 20 < grown - before < 400 << 20 and after > 0.99 * grown  # counted in batches


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


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Write what Linux would tell."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
    return write


def test_free_memory_is_what_the_machine_and_the_container_leave(told):
    cpu = torch.device("cpu")
    assert free_bytes(cpu) is None
    told(meminfo="MemTotal: 24000 kB\nMemFree: 100 kB\nMemAvailable: 9000 kB\n")
    assert free_bytes(cpu) == 9000 * 1024
    told(memory_max="max\n", memory_current="5000\n", memory_stat="anon 3000\ninactive_file 700\n")
    assert free_bytes(cpu) == 9000 * 1024
    told(memory_max="8000\n")
    assert free_bytes(cpu) == 8000 - 5000 + 700
    told(memory_max=f"{1 << 40}\n")
    assert free_bytes(cpu) == 9000 * 1024
