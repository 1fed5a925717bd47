"""Modules that others import but hardly use: they are loaded on first use.

Lives here: the substitutes for such modules.
Lives elsewhere: which modules these are, and while importing what (ftpclient/light_imports.py,
ftpserver/light_sqlalchemy.py). Only our programs use this, before they import anything else:
another program that contains a client or a server imports modules normally.

``importlib.util.LazyLoader`` would load a module as soon as it is imported a second time.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Unloaded(ModuleType):
    """A substitute for a module. Only the modules imported within `unloaded` have it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def unloaded(modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Do not load certain modules when they are imported within the context.

    Args:
        modules: Their names, each with the attributes to provide without loading: those that the
            importing modules need at once.
    """
    unused = [name for name in modules if name not in sys.modules]
    for name in unused:
        sys.modules[name] = module = _Unloaded(name)
        vars(module).update(modules[name])
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent])[child] = module  # later accesses go through the parent
    try:
        yield
    finally:
        for name in unused:
            if isinstance(sys.modules.get(name), _Unloaded):
                del sys.modules[name]
