"""Compares uint8 videos; never sees a network of ours. Importing the package registers every metric in it."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):  # so that a new metric is one new file
    import_module(f"{__name__}.{_module.name}")
