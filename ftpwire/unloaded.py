"""Modules that others import and hardly use: loaded when something of them is used after all.

Lives here: what stands in for them. Lives elsewhere: for which, and while what is imported
(ftpclient/light_imports.py, ftpserver/light_sqlalchemy.py). Only programs do that, before they
import anything else: a program of somebody's that has a client or a server in it imports as it
likes.

``importlib.util.LazyLoader`` would load them as soon as they are imported twice.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Unloaded(ModuleType):
    """What an importer has in place of a module. Everybody else imports the module itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def unloaded(modules: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Leave modules unloaded while others are imported within the block.

    Args:
        modules: Their names. To each belongs what it has without being loaded: what an importer
            takes of it at once.
    """
    unused = [name for name in modules if name not in sys.modules]
    for name in unused:
        sys.modules[name] = module = _Unloaded(name)
        vars(module).update(modules[name])
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent])[child] = module  # by which it is asked for later, too
    try:
        yield
    finally:
        for name in unused:
            if isinstance(sys.modules.get(name), _Unloaded):
                del sys.modules[name]
