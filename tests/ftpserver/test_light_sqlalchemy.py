"""SQLAlchemy without what nothing here uses, in interpreters that have nothing loaded yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNUSED = "asyncio", "importlib.metadata", "email", "zipfile"

LIGHT = "from ftpserver import light_sqlalchemy; light_sqlalchemy.load()"


def said(*lines: str) -> list[str]:
    """What a program of these lines prints."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "modules", ["ftpserver.processes.worker", "ftpserver.cli.start, ftpserver.processes.growing"]
)
def test_a_server_doesnt_load_what_it_doesnt_use(modules):
    """Nor does anything else than SQLAlchemy load it."""
    telling = f"print(*(one for one in {UNUSED!r} if one in sys.modules))"
    assert said(LIGHT, f"import sys, {modules}", telling) == [""]
    loaded = said(f"import sys, {modules}", telling)[0].split()
    assert set(loaded) <= set(UNUSED), "the control; what it imports is SQLAlchemy's to decide"


def test_what_it_needs_after_all_is_there():
    lines = said(
        LIGHT,
        "from sqlalchemy.util import compat, concurrency, langhelpers",
        "async def some(): return 5",
        "one = some()",
        "print(concurrency.iscoroutine(one), concurrency.iscoroutine(5))",
        "one.close()",
        "print(compat.importlib_metadata.version('sqlalchemy') > '2')",
        "print(hasattr(langhelpers.importlib.metadata, 'nothing of this name'))",
    )
    assert lines == ["True False", "True", "False"]


def test_others_have_the_modules_themselves():
    lines = said(
        LIGHT,
        "import asyncio, asyncio.events, importlib.metadata, sys",
        "async def some(): return 5",
        "print(asyncio.run(some()), importlib.metadata.version('sqlalchemy') > '2')",
        "print(asyncio is sys.modules['asyncio'], type(asyncio), type(importlib.metadata))",
    )
    assert lines == ["5 True", "True <class 'module'> <class 'module'>"]


def test_where_it_is_loaded_nothing_changes():
    lines = said(
        "import asyncio, sqlalchemy, sys",
        LIGHT,
        "print(sys.modules['asyncio'] is asyncio is sqlalchemy.util.concurrency.asyncio)",
    )
    assert lines == ["True"]
