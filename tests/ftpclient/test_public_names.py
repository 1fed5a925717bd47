"""The names that `ftpclient` exports: all of them are there, and the docs need no others."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ftpclient
import ftpwire
from ftpclient import errors as public_errors
from ftpwire import errors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"
OF_EXTRAS = {"ftpclient.fsspec", "ftpserver.testing"}
"""What programs import from elsewhere."""


def test_all_of_them_are_there():
    assert sorted(ftpclient.__all__) == sorted(set(ftpclient.__all__))
    for name in ftpclient.__all__:
        assert getattr(ftpclient, name) is not None, name
    assert set(ftpclient.__all__) <= set(dir(ftpclient))
    assert ftpclient.__version__ == ftpwire.__version__
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = ftpclient.Clint
    with pytest.raises(ImportError):
        from ftpclient import Clint  # noqa: F401


def test_all_errors_are_among_them():
    wanted = {
        name
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.FtpError)
    }
    assert wanted <= set(ftpclient.__all__)
    for name in wanted:
        assert issubclass(getattr(ftpclient, name), getattr(errors, name))


NOT_RAISED = {
    "JobOver": "its cause is reported, and the summary is returned",
    "TimeOver": "raised as TimedOut",
    "BadReply": "a kind of BadMessage that no program has to tell from the others",
    "TlsError": "a kind of ConnectionLost, likewise",
    "_TurnedAway": "a kind of ConnectFailed, likewise",
}
"""Errors of the inside that have no public name, and why."""


def errors_of_the_client() -> set[str]:
    """The names of all errors, wherever they are defined, but not those of the command line."""
    outside = ("ftpclient.cli", "ftpclient.shell", "ftpclient.__main__")
    for package in (ftpclient, ftpwire):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(outside):
                importlib.import_module(module.name)
    kinds, left = set(), [errors.FtpError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith(("ftpclient.", "ftpwire.")):
            kinds |= set() if kind.__module__.startswith(outside) else {kind.__name__}
    return kinds


def test_each_error_can_be_imported_and_is_explained():
    """Also those that are defined where they are raised: a program may have to catch them."""
    found = errors_of_the_client()
    assert NOT_RAISED.keys() <= found
    wanted = found - NOT_RAISED.keys()
    assert wanted - set(ftpclient.__all__) == set()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", PAGE.read_text(), re.M)
    explained = {name: re.findall(r"\w+", bases) for name, bases in rows}
    assert wanted - explained.keys() == set()
    for name in wanted - {"FtpError"}:
        raised = type(public_errors.public(getattr(ftpclient, name)("a text")))
        for base in [name, *(explained[name] or ["FtpError"])]:
            assert issubclass(raised, getattr(builtins, base, None) or getattr(ftpclient, base))


def test_type_checkers_know_the_same_names():
    tree = ast.parse((ROOT / "ftpclient" / "__init__.py").read_text())
    blocks = [one for one in tree.body if isinstance(one, ast.If)]
    [block] = [one for one in blocks if ast.unparse(one.test) == "TYPE_CHECKING"]
    named = {
        alias.asname or alias.name
        for one in block.body
        if isinstance(one, ast.ImportFrom)
        for alias in one.names
    }
    assert named == set(ftpclient.__all__)


def test_the_types_of_public_signatures_are_public():
    """What a verb takes or returns can be named by who calls it."""
    private = set()
    for kind in (ftpclient.Client, ftpclient.AsyncClient):
        for name, verb in inspect.getmembers(kind, inspect.isfunction):
            if name.startswith("_"):
                continue
            words = set(re.findall(r"[A-Z]\w+", str(inspect.signature(verb).return_annotation)))
            private |= {f"{name}: {word}" for word in words - ORDINARY - set(ftpclient.__all__)}
    assert private <= INNER


ORDINARY = {
    "AsyncGenerator",
    "AsyncIterator",
    "Generator",
    "Iterator",
    "None",
    "RemotePath",
    "Self",
    "Sequence",
}
INNER = {
    "connection_apart: Connection",
    "connection_beside: Connection",
    "connection_beside: Trusted",
    "new_connection: Connection",
    "fetch_range: Piece",
}
"""What only the commands of ftp need."""


def test_the_docs_import_from_there_alone():
    for code in re.findall(r"^ *```python\n(.*?)^ *```", PAGE.read_text(), re.M | re.S):
        for module, names in re.findall(
            r"^ *(?:from|import) (ftp[\w.]+)(?: import (.+))?$", code, re.M
        ):
            if module == "ftpclient":
                assert set(re.findall(r"\w+", names)) <= set(ftpclient.__all__), names
            else:
                assert module in OF_EXTRAS


def test_importing_does_no_work():
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import ftpclient\n"
        "dir(ftpclient)\n"
        "ours = {name for name in set(sys.modules) - before if name.startswith('ftp')}\n"
        "assert ours == {'ftpclient'}, ours\n"
        "assert not {'ssl', 'msgspec', 'asyncio', 'logging'} & set(sys.modules)\n"
        "from ftpclient import NotFound\n"
        "assert not {'ssl', 'asyncio'} & set(sys.modules)\n"
        "assert ftpclient.NotFound is NotFound\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_runs_as_the_program():
    command = [sys.executable, "-m", "ftpclient", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"ftp, version {ftpclient.__version__}\n")
