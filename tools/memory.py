"""How much memory this process has needed, and that it keeps what it has freed."""

import ctypes
import os
import sys
from pathlib import Path

import torch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # of Linux


def peak_bytes() -> int:
    """The most that it has held so far: of the GPU where it uses one, else of the machine (0 where that is not told)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:  # on Linux getrusage tells a program started by another also of what that one held
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the one counts bytes, the others kilobytes


def free_bytes(device: torch.device) -> int | None:
    """What can still be held on a device, within the limits of a container; None where that is not told."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [read() for read in (_machine_free, _container_free)]
    return min((limit for limit in limits if limit is not None), default=None)


def _machine_free() -> int | None:
    try:
        words = MEMINFO.read_text().split()
        return 1024 * int(words[words.index("MemAvailable:") + 1])
    except (OSError, ValueError, IndexError):
        return None


def _container_free() -> int | None:
    """Of a control group of version 2, as Docker and Slurm set; files that can be given back count as free."""
    try:
        most, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        held = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(most) - int(used) + int(held.get("inactive_file", 0))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of mallopt(3)
GROWTH = 64 << 20  # bytes


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed for what is asked for next; return whether it does so now.

    glibc gives large blocks back to the system at once, which then clears every page anew: in a training step on a CPU
    that can take longer than the computation. Other allocators, and what the user has set in MALLOC_..., are left alone.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        libc = ctypes.CDLL(None)
        glibc = hasattr(libc, "gnu_get_libc_version")
        settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: GROWTH}
        return glibc and all([libc.mallopt(name, value) == 1 for name, value in settings.items()])
    except (AttributeError, OSError):
        return False
