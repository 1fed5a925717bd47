"""SQLAlchemy without what nothing here uses, in interpreters that have nothing loaded yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNUSED = "asyncio", "importlib.metadata", "email", "zipfile", "pickle", "sysconfig"

FOREIGN = {"argon2", "blake3", "cython_runtime", "msgspec", "sqlalchemy", "typing_extensions"}
"""What a process that serves has of other packages."""
STANDARD = set(
    """
    abc array ast atexit base64 binascii bisect builtins bz2 codecs collections concurrent
    contextlib copy copyreg ctypes dataclasses datetime decimal dis encodings enum errno fcntl
    fnmatch functools gc genericpath getpass hashlib heapq hmac importlib inspect io ipaddress
    itertools json keyword linecache locale logging lzma marshal math mmap ntpath numbers opcode
    operator os pathlib platform posix posixpath pwd queue random re reprlib resource secrets select
    selectors shutil signal site socket socketserver sqlite3 ssl stat string stringprep struct
    subprocess sys tempfile termios textwrap threading time token tokenize traceback types typing
    unicodedata urllib uuid warnings weakref zipimport zlib
    """.split()
)
"""And of the standard library, with Python 3.11. Each module more is there in each process."""
OF_THE_PROGRAM = {"click", "gettext", "grp", "shlex", "tomllib"}
"""What the program `ftpd` has beside them."""

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


@pytest.mark.parametrize(
    ("modules", "more"),
    [
        ("ftpserver.processes.forkserver, ftpserver.processes.worker", set()),
        ("ftpserver.cli.main, ftpserver.cli.start, ftpserver.processes.growing", OF_THE_PROGRAM),
    ],
)
def test_what_a_serving_process_may_load(modules, more):
    """A module that isn't listed here is worth a thought: it takes its memory in each of them."""
    loaded = said(
        LIGHT,
        f"import sys, {modules}",
        "print(*{name.partition('.')[0] for name in sys.modules})",
    )[0].split()
    found = {name for name in loaded if not name.startswith("_")} - {"ftpserver", "ftpwire"}
    if sys.version_info[:2] != (3, 11):  # another one's library is made of other modules
        found -= sys.stdlib_module_names - set(UNUSED)
    assert found <= FOREIGN | STANDARD | more


def test_texts_of_its_own_are_dropped_and_nobody_elses():
    lines = said(
        "from ftpserver import interfaces, light_sqlalchemy",
        "light_sqlalchemy.load()",
        "from sqlalchemy import Column, Select, create_engine, select",
        "print(Column.__doc__, Select.where.__doc__, Column.__init__.__code__.co_consts[0])",
        "print(Select.where.__annotations__)",
        "print(Select.where.__code__.co_firstlineno > 0)",
        "print(len(interfaces.__doc__) > 0, 'return' in interfaces.make_proxy.__annotations__)",
    )
    assert lines == ["None None None", "{}", "True", "True True"]


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
        "from sqlalchemy import PickleType",
        "kind = PickleType()",
        "print(kind.pickler.loads(kind.pickler.dumps({1: 2})))",
        "import pickle, sysconfig",
        "print(kind.protocol == pickle.HIGHEST_PROTOCOL)",
        "print(compat.sysconfig.get_config_var('prefix') == sysconfig.get_config_var('prefix'))",
        "print(compat.freethreading is bool(sysconfig.get_config_var('Py_GIL_DISABLED')))",
    )
    assert lines == ["True False", "True", "False", "{1: 2}", "True", "True", "True"]


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
