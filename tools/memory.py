"""How much memory this process has needed."""

import sys

import torch


def peak_bytes() -> int:
    """The most that it has held so far: of the GPU where it uses one, else of the machine (0 where that is not told)."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # the one counts bytes, the others kilobytes
