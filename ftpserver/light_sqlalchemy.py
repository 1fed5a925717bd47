"""SQLAlchemy without the modules that it imports for what nothing here uses.

Lives here: importing it so. Lives elsewhere: who does, before anything else imports SQLAlchemy: the
program `ftpd` (cli/main.py) and the processes beside it (processes/forkserver.py). A program that
has a server in it imports it as it likes.

It imports asyncio, and importlib.metadata, which brings email and zipfile: 3 MiB of each process,
and a tenth of the time that a worker takes to start. They are loaded when it needs something of
them after all. ``importlib.util.LazyLoader`` would load them as soon as they are imported twice.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Unloaded(ModuleType):
    """What SQLAlchemy has in place of a module. Everybody else imports the module itself."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def load() -> None:
    """Import SQLAlchemy, with what it needs for SQLite. Does nothing where it is loaded already."""
    if "sqlalchemy" in sys.modules:
        return
    unused = [one for one in ("asyncio", "importlib.metadata") if one not in sys.modules]
    for name in unused:
        sys.modules[name] = module = _Unloaded(name)
        if name == "asyncio":
            vars(module)["iscoroutine"] = _iscoroutine  # it takes that at once
        else:
            vars(importlib)["metadata"] = module  # by which it asks for it later, too
    try:
        importlib.import_module("sqlalchemy.dialects.sqlite")
    finally:
        for name in unused:
            del sys.modules[name]


def _iscoroutine(value: object) -> bool:
    """`asyncio.iscoroutine`."""
    return importlib.import_module("asyncio").iscoroutine(value)  # type: ignore[no-any-return]
