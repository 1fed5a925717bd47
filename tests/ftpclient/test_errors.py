"""The errors that verbs raise: which class, which path, and that nothing inside catches them."""

from __future__ import annotations

import ast
import errno
import os
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from ftpclient import Client, errors
from ftpclient.transfer.job import Enough
from ftpclient.transfer.report import MAX_FAILURES, Listener, Result, Summary
from ftpclient.transfer.sources import NoTargetDirectory
from ftpwire import errors as inside
from tests.ftpclient.aio.async_support import Blocking

ROOT = Path(__file__).parents[2]
BOTH = [pytest.param(Client, id="threads"), pytest.param(Blocking, id="asyncio")]


@pytest.fixture(params=BOTH)
def client(request, server, connect):
    """A client of either kind, logged in as alice, with some things in the home."""
    client = connect(server, kind=request.param)
    home = server.settings.root / "alice"
    (home / "dir").mkdir()
    (home / "dir" / "file").write_bytes(b"some bytes")
    (home / "closed").mkdir()
    (home / "there").write_bytes(b"")
    return client


# the classes -------------------------------------------------------------------------------


def tree(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def test_each_error_of_the_inside_has_a_class():
    ours = [one for one in tree(inside.FtpError) if one.__module__ == inside.__name__]
    assert [one.__name__ for one in ours if one not in errors.TABLE] == []
    for one in ours:
        public = errors.TABLE[one]
        assert issubclass(public, one) and public.__name__ == one.__name__
        for above in one.__mro__:
            if above in errors.TABLE:
                assert issubclass(public, errors.TABLE[above])


PYTHONS = [
    (inside.NotFound, FileNotFoundError, errno.ENOENT),
    (inside.AlreadyExists, FileExistsError, errno.EEXIST),
    (inside.Forbidden, PermissionError, errno.EACCES),
    (inside.ReadOnly, PermissionError, errno.EROFS),
    (inside.IsADirectory, IsADirectoryError, errno.EISDIR),
    (inside.NotADirectory, NotADirectoryError, errno.ENOTDIR),
    (NoTargetDirectory, NotADirectoryError, errno.ENOTDIR),
    (inside.NotEmpty, OSError, errno.ENOTEMPTY),
    (inside.DiskFull, OSError, errno.ENOSPC),
    (inside.QuotaExceeded, OSError, errno.EDQUOT),
    (inside.InvalidPath, OSError, errno.EINVAL),
]


@pytest.mark.parametrize(("kind", "pythons", "number"), PYTHONS)
def test_an_error_is_the_one_that_python_has(kind, pythons, number):
    error = errors.public(kind("/some/path: a text"), b"/some/path")
    assert isinstance(error, kind) and isinstance(error, pythons)
    assert (error.errno, error.path, error.filename) == (number, b"/some/path", b"/some/path")
    assert str(error) == "/some/path: a text"
    assert (error.code, error.exit_code) == (kind.code, kind.exit_code)


@pytest.mark.parametrize("kind", [inside.ConnectionLost, inside.LoginRefused, inside.TrustError])
def test_what_python_has_no_error_for_is_no_oserror(kind):
    assert not isinstance(errors.public(kind("a text")), OSError)


def test_an_error_keeps_what_it_had():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise inside.QuotaExceeded("no room", needed=5, free=2) from first
    except inside.QuotaExceeded as error:
        public = errors.public(error)
        assert isinstance(public, errors.QuotaExceeded)
        assert (public.needed, public.free) == (5, 2)
        assert public.__cause__ is error.__cause__
        assert public.__traceback__ is error.__traceback__
    assert errors.public(public) is public


@pytest.mark.parametrize(
    "error",
    [
        errors.public(inside.DiskFull("/x: full", needed=1, free=0), b"/x"),
        errors.public(inside.ConnectionLost("lost")),
        errors.public(Enough("stopped")),
        errors.timed_out("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_pickled(error):
    """As a pool of processes does it."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.path, vars(copy)) == (str(error), error.path, vars(error))
    assert getattr(copy, "errno", None) == getattr(error, "errno", None)


# what verbs raise --------------------------------------------------------------------------

FAILURES = [
    pytest.param(lambda c: c.stat("nowhere"), FileNotFoundError, b"/nowhere", id="stat"),
    pytest.param(lambda c: c.hash(b"nowhere"), FileNotFoundError, b"/nowhere", id="hash"),
    pytest.param(lambda c: c.hash("/dir"), IsADirectoryError, b"/dir", id="hash-dir"),
    pytest.param(
        lambda c: c.stat(PurePosixPath("/dir/file/x")),
        NotADirectoryError,
        b"/dir/file/x",
        id="in-file",
    ),
    pytest.param(lambda c: c.change_dir("nowhere"), FileNotFoundError, b"/nowhere", id="cd"),
    pytest.param(lambda c: c.glob("/no*"), FileNotFoundError, b"/no*", id="glob"),
    pytest.param(
        lambda c: list(c.list_dir("nowhere")), FileNotFoundError, b"/nowhere", id="list_dir"
    ),
    pytest.param(lambda c: list(c.walk("nowhere")), FileNotFoundError, b"/nowhere", id="walk"),
    pytest.param(lambda c: c.make_dir("dir"), FileExistsError, b"/dir", id="make_dir"),
    pytest.param(
        lambda c: c.make_link("dir/file", "x"), FileExistsError, b"/dir/file", id="make_link"
    ),
    pytest.param(lambda c: c.remove("dir"), OSError, b"/dir", id="remove"),
    pytest.param(
        lambda c: c.set_attributes("nowhere", mode=0o600), FileNotFoundError, b"/nowhere", id="mode"
    ),
    pytest.param(lambda c: c.move("nowhere", "x"), FileNotFoundError, b"/nowhere", id="move"),
    pytest.param(
        lambda c: c.move("dir/file", "closed/../dir", overwrite="never"),
        FileExistsError,
        b"/dir",
        id="move-never",
    ),
    pytest.param(
        lambda c: c.copy("dir/file", "there", overwrite="never"),
        FileExistsError,
        b"/there",
        id="copy",
    ),
    pytest.param(
        lambda c: c.put_file(__file__, "nowhere/x"), FileNotFoundError, b"/nowhere/x", id="put_file"
    ),
    pytest.param(
        lambda c: c.put_file(__file__, "dir"), IsADirectoryError, b"/dir", id="put_file-dir"
    ),
    pytest.param(
        lambda c: c.put_file("/no/such", "x"), FileNotFoundError, b"/no/such", id="put_file-source"
    ),
    pytest.param(
        lambda c: c.get_file("nowhere", "/dev/null"), FileNotFoundError, b"/nowhere", id="get_file"
    ),
    pytest.param(lambda c: c.put_stream(0, "dir"), IsADirectoryError, b"/dir", id="put_stream"),
    pytest.param(
        lambda c: c.get_stream("nowhere", 1), FileNotFoundError, b"/nowhere", id="get_stream"
    ),
    pytest.param(
        lambda c: c.sync(":/nowhere", "/no/such/here"), FileNotFoundError, b"/nowhere", id="sync"
    ),
    pytest.param(lambda c: c.resolve("nul\0"), OSError, b"nul\0", id="resolve"),
    pytest.param(lambda c: c.stat(""), OSError, b"", id="empty"),
]


@pytest.mark.parametrize(("call", "kind", "path"), FAILURES)
def test_a_verb_raises_what_python_has(client, call, kind, path):
    with pytest.raises(kind) as caught:
        call(client)
    assert isinstance(caught.value, errors.FtpError)
    assert caught.value.path == path
    assert client.whoami() == "alice"


def test_what_a_verb_only_looks_for_is_no_error(client):
    assert client.find("nowhere") is None
    assert client.find("/dir/file/x") is None
    assert client.glob("dir/f*") == [b"/dir/file"]


def test_a_listener_hears_of_the_same_errors(client, tmp_path):
    heard: list[Result] = []

    class Hears(Listener):
        def finished(self, result: Result) -> None:
            heard.append(result)

    (tmp_path / "a").write_bytes(b"a")
    summary = client.put([tmp_path / "a", tmp_path / "none"], "dir", listener=Hears())
    bad = next(result for result in heard if result.status == "failed")
    assert isinstance(bad.error, errors.NotFound) and isinstance(bad.error, FileNotFoundError)
    assert bad.error.path == os.fsencode(tmp_path / "none")
    assert type(summary.first_error) is errors.NotFound
    assert [result.error for result in summary.failures] == [summary.first_error]


# summaries ---------------------------------------------------------------------------------


def failed(number: int, kind: type[inside.CommandError] = inside.NotFound) -> Result:
    return Result(b"%d" % number, b"%d" % number, 0, "failed", error=kind(f"{number}"))


def test_the_first_error_is_the_first():
    """Also when files were done before, and when something worse came later."""
    summary = Summary()
    summary.add(Result(b"x", b"x", 1, "done"))
    summary.add(failed(1))
    summary.add(failed(2, inside.DiskFull))
    assert str(summary.first_error) == "1"
    assert (summary.done, summary.failed, summary.exit_code) == (1, 2, 1)


def test_no_more_failures_are_kept_than_fit():
    summary = Summary()
    for number in range(MAX_FAILURES + 50):
        summary.add(failed(number))
    assert summary.failed == MAX_FAILURES + 50
    assert [result.source for result in summary.failures] == [
        b"%d" % number for number in range(MAX_FAILURES)
    ]


# what is inside ----------------------------------------------------------------------------

EDGE = {"ftpclient.guard", "ftpclient.aio.edge"} | {
    f"ftpclient.files.{name}" for name in ("opening", "reader", "writer")
}
"""Where errors become public."""
FRONT = {"ftpclient", "ftpclient.fsspec"}
"""What hands them on to users."""
OSERRORS = {
    "OSError",
    "IOError",
    "EnvironmentError",
    *(kind.__name__ for kind in tree(OSError) if kind.__module__ == "builtins"),
}
VERBS = {name for name in vars(Client) | vars(Client.__mro__[1]) if not name.startswith("_")}


def names(node: ast.expr | None) -> set[str]:
    """What a handler catches, by the last part of each name."""
    if isinstance(node, ast.Tuple):
        return {name for part in node.elts for name in names(part)}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {node.id} if isinstance(node, ast.Name) else set()


def takes_a_public_error(block: ast.Try) -> bool:
    """Whether an error that a verb raises is caught here as one of the disk."""
    calls = {
        node.func.attr
        for part in block.body
        for node in ast.walk(part)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if isinstance(node.func.value, (ast.Name, ast.Attribute))
        and "client" in ast.unparse(node.func.value).rpartition(".")[2]
    }
    if not calls & VERBS:
        return False
    for handler in block.handlers:
        caught = names(handler.type)
        if "FtpError" in caught:
            return False  # before any other, or on purpose with it
        if caught & OSERRORS:
            return True
    return False


def catches_of(source: str) -> Iterator[str]:
    """What a module does with public errors, other than raise them."""
    module = ast.parse(source)
    known: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "ftpclient.errors":
            known |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "ftpclient":
            known |= {one.asname or one.name for one in node.names if one.name == "errors"}
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            used = {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)}
            if used & known:
                yield f"line {node.lineno}: catches {ast.unparse(node.type)}"
        elif isinstance(node, ast.Try) and takes_a_public_error(node):
            yield f"line {node.lineno}: takes an error of the server for one of the disk"


def modules() -> dict[str, str]:
    found = {}
    for package in ("ftpwire", "ftpserver", "ftpclient", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text()
    return found


def test_nothing_inside_catches_the_errors_of_the_edge():
    found = {
        f"{name}: {what}"
        for name, source in modules().items()
        if name not in FRONT
        for what in catches_of(source)
    }
    assert found == set()


def test_nothing_inside_knows_the_errors_of_the_edge():
    users = {
        name
        for name, source in modules().items()
        if "ftpclient.errors" in source.replace("from ftpclient import errors", "ftpclient.errors")
        if any(
            isinstance(node, ast.ImportFrom)
            and (
                node.module == "ftpclient.errors"
                or (node.module == "ftpclient" and any(one.name == "errors" for one in node.names))
            )
            for node in ast.walk(ast.parse(source))
        )
    }
    assert users - FRONT == EDGE


@pytest.mark.parametrize(
    ("source", "is_caught"),
    [
        ("try:\n    app.client.get_stream(p, 1)\nexcept OSError:\n    pass", True),
        ("try:\n    client.stat(p)\nexcept (ValueError, FileNotFoundError):\n    pass", True),
        ("try:\n    client.stat(p)\nexcept FtpError:\n    raise\nexcept OSError:\n    pass", False),
        ("try:\n    client.stat(p)\nexcept (FtpError, OSError):\n    pass", False),
        ("try:\n    os.stat(p)\nexcept OSError:\n    pass", False),
        ("from ftpclient import errors\ntry:\n    x()\nexcept errors.NotFound:\n    pass", True),
        ("from ftpclient.errors import NotFound\ntry:\n    x()\nexcept NotFound:\n    pass", True),
        ("from ftpwire.errors import NotFound\ntry:\n    x()\nexcept NotFound:\n    pass", False),
    ],
)
def test_a_handler_of_public_errors_is_seen(source, is_caught):
    assert bool(list(catches_of(source))) == is_caught
