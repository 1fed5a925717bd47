"""Loading SQLAlchemy without the modules and texts that the server doesn't use.

Lives here: the lean import. Lives elsewhere: placeholders for modules (ftpwire/unloaded.py); the
callers, which must come before any other import of SQLAlchemy: the program `ftpd` (cli/main.py) and
the processes beside it (processes/forkserver.py).

SQLAlchemy imports asyncio, and importlib.metadata, which imports email and zipfile: 3 MiB in each
process, and a tenth of a worker's start-up time. These modules, and the others in `_UNUSED`, are
loaded on first use.
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
    """Import SQLAlchemy, with its SQLite dialect. Does nothing if it is loaded already."""
    if "sqlalchemy" in sys.modules:
        return
    with unloaded(_UNUSED):
        importlib.import_module("sqlalchemy.dialects.sqlite")
    _drop_texts()


def _iscoroutine(value: object) -> bool:
    """Stand for `asyncio.iscoroutine`, which SQLAlchemy takes at import."""
    return importlib.import_module("asyncio").iscoroutine(value)  # type: ignore[no-any-return]


def _get_config_var(name: str) -> object:
    """Stand for `sysconfig.get_config_var`. SQLAlchemy asks for one variable at import, which is
    known without the interpreter's makefile, whose variables take a third of a MiB."""
    if name == "Py_GIL_DISABLED":
        return int(not getattr(sys, "_is_gil_enabled", lambda: True)())
    return importlib.import_module("sysconfig").get_config_var(name)


_UNUSED: Mapping[str, Mapping[str, object]] = {
    "asyncio": {"iscoroutine": _iscoroutine},
    "importlib.metadata": {},
    "pickle": {"HIGHEST_PROTOCOL": 5},  # a column's default; no table here has one of that type
    "sysconfig": {"get_config_var": _get_config_var},
}
"""The modules replaced by placeholders, each with the names that SQLAlchemy takes at import."""


def _drop_texts() -> None:
    """Drop texts that only readers of the source need, before other modules use more memory:
    SQLAlchemy's docstrings take one MiB, and its annotations as much again.

    The docstrings of all loaded modules go, the annotations only of SQLAlchemy's own: its mapper,
    which isn't used here, reads them. Line numbers stay, for tracebacks.
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
