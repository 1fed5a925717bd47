"""SQLAlchemy without what nothing here uses: modules that it imports, and texts for its readers.

Lives here: importing it so. Lives elsewhere: what stands in for them (ftpwire/unloaded.py); who
does it, before anything else imports SQLAlchemy: the program `ftpd` (cli/main.py) and the processes
beside it (processes/forkserver.py).

It imports asyncio, and importlib.metadata, which brings email and zipfile: 3 MiB of each process,
and a tenth of the time that a worker takes to start. They are loaded when it needs something of
them after all, and so are the others in `_UNUSED`.
"""

from __future__ import annotations

import gc
import importlib
import sys
import typing
from collections.abc import Mapping
from types import FunctionType

from ftpwire.unloaded import unloaded


def load() -> None:
    """Import SQLAlchemy, with what it needs for SQLite. Does nothing where it is loaded already."""
    if "sqlalchemy" in sys.modules:
        return
    with unloaded(_UNUSED):
        importlib.import_module("sqlalchemy.dialects.sqlite")
    _drop_texts()


def _iscoroutine(value: object) -> bool:
    """`asyncio.iscoroutine`, which SQLAlchemy takes at once."""
    return importlib.import_module("asyncio").iscoroutine(value)  # type: ignore[no-any-return]


def _get_config_var(name: str) -> object:
    """`sysconfig.get_config_var`. The one that SQLAlchemy asks for as it is imported is known
    without the interpreter's makefile, whose variables are a third of a MiB."""
    if name == "Py_GIL_DISABLED":
        return int(not getattr(sys, "_is_gil_enabled", lambda: True)())
    return importlib.import_module("sysconfig").get_config_var(name)


_UNUSED: Mapping[str, Mapping[str, object]] = {
    "asyncio": {"iscoroutine": _iscoroutine},
    "importlib.metadata": {},
    "pickle": {"HIGHEST_PROTOCOL": 5},  # a column's default; no table here has one of that type
    "sysconfig": {"get_config_var": _get_config_var},
}
"""Modules that it is imported without, each with what it takes of them at once."""


def _drop_texts() -> None:
    """Drop what only readers of the source look at, before other modules take the room: SQLAlchemy
    is a manual of one MiB by its docstrings, and its annotations are as much again.

    The docstrings of all modules that are there go, annotations only of SQLAlchemy's own: its
    mapper reads them, which nothing here uses. Line numbers stay, for tracebacks.
    """
    typing.clear_overloads()
    for one in gc.get_objects():
        kind = type(one)
        if kind is FunctionType:
            if one.__doc__ is not None:
                _drop_docstring(one)
            if one.__module__ is not None and one.__module__.startswith("sqlalchemy."):
                del one.__annotations__
        elif isinstance(one, type) and str(one.__module__).startswith("sqlalchemy."):
            if "__doc__" in vars(one):
                one.__doc__ = None


def _drop_docstring(function: FunctionType) -> None:
    code, text = function.__code__, function.__doc__
    if code.co_consts and code.co_consts[0] is text:
        function.__code__ = code.replace(co_consts=(None, *code.co_consts[1:]))
    function.__doc__ = None
