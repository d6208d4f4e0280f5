"""How much memory this process has needed, and that it keeps what it has freed."""

import ctypes
import os
import sys

import torch


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
