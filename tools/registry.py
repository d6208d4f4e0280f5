"""Named plug-ins: positional parameters are runtime objects, keyword-only parameters are configuration."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint such as ' (did you mean "ddim"?)', or nothing where no valid name is close."""
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    if not close:  # "ucf101" is far from "UCF101" letter by letter, but not for a person
        close = [v for v in valid if v.lower() == str(name).lower()]
    return f' (did you mean "{close[0]}"?)' if close else ""


class Registry:
    """A dictionary of callables of one kind, whose errors tell what to write instead.

    Example:
        SAMPLERS = Registry("sampler")

        @SAMPLERS.register("ddim")
        def ddim(denoise, x, levels, draw, *, eta=0.0): ...

        sampler = SAMPLERS.bind({"name": "ddim", "eta": 1.0})
        x0 = sampler(denoise, x, levels, draw)
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, Any] = {}

    def register(self, name: str) -> Callable:
        """Decorate a function or a class to make it available under `name`."""

        def add(item):
            assert name not in self._items, f"{self.kind} {name} is registered twice"
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> Any:
        """Return what is registered under `name`; an unknown name is a ValueError with the nearest one."""
        if name not in self._items:
            raise ValueError(f'unknown {self.kind} "{name}"{nearest(name, self._items)}; '
                             f"known: {', '.join(sorted(self._items))}")
        return self._items[name]

    def options(self, name: str) -> dict[str, Any]:
        """Return the configuration of `name`: keyword -> default (inspect.Parameter.empty if required)."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def bind(self, cfg: Mapping[str, Any] | str) -> functools.partial:
        """Fix the configuration of a plug-in and leave its runtime arguments open.

        Args:
            cfg: a name, or a mapping with "name" and any of the plug-in's keyword-only options.
        """
        given = {"name": cfg} if isinstance(cfg, str) else dict(cfg)
        if "name" not in given:
            raise ValueError(f"a {self.kind} needs a name, got the keys {sorted(given)}; "
                             f"add name=one of {', '.join(sorted(self._items))}")
        name = given.pop("name")
        valid = self.options(name)
        for option in given:
            if option not in valid:
                raise ValueError(f'{self.kind} "{name}" has no option "{option}"{nearest(option, valid)}; '
                                 f"valid: {', '.join(valid) or 'none'}")
        return functools.partial(self.get(name), **given)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
