"""What a computation needs, counted without doing it: the real code runs on tensors that have shapes but no numbers."""

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextlib.contextmanager
def hollow(make: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    """A net without memory for its weights, in a block where new tensors have none either.

    Operations choose their kernels as on a CPU. Code that looks at values does not run there.
    """
    with torch.device("meta"):
        net = make()
    with FakeTensorMode():
        for module in net.modules():
            for store in (module._parameters, module._buffers):
                for name, value in store.items():
                    if value is not None:
                        empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cpu")
                        store[name] = nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty
        yield net


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are made in the block, as they come and go.

    What an operation needs inside of itself (such as a convolution's rearranged weights) it does not see.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self._sizes: dict[int, int] = {}  # of what is alive; 0 of what was there before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._see((args, kwargs), new=False)
        out = func(*args, **kwargs)
        self._see(out, new=True)
        return out

    def _see(self, values: Any, new: bool) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and (key := (storage := value.untyped_storage())._cdata) not in self._sizes:
                self._sizes[key] = storage.nbytes() if new else 0
                self.bytes += self._sizes[key]
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


def peak(run: Callable[[], Any]) -> int:
    """The most bytes that a call holds at once, beside what was there before."""
    with Live() as live:
        run()
    return live.peak
