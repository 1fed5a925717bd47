"""What the server tells its clients names no option and no command of our own programs.

Another client has other ones. Ours adds what to type, by the code of the error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpwire import errors

ROOT = Path(__file__).parents[2]
ROOMS = ("accounts", "isolation", "net", "serving", "storage", "workspace")
"""Folders of `ftpserver` that answer clients. The others tell administrators something."""
FOR_ADMINISTRATORS = frozenset({"records.py", "new_home.py"})
"""Modules of these with errors that only `ftpd` shows."""
OF_ADMINISTRATORS = frozenset({": no such session (see ftpd sessions)"})
"""Texts that only `ftpd` shows."""
TELLS = frozenset({"remark", "Remark", "GoingDown", "Failed", "Problem", "Refused"}) | {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.FtpError)
}
"""What is called with a text that goes to a client. Errors of the server's state are none."""
OURS = re.compile(r"(?<![\w-])(--?[a-z][\w-]*|ftpd? [a-z]+)")


def texts_of(source: str) -> Iterator[str]:
    """The texts in calls of `TELLS`, also those that have a name in the module."""
    tree = ast.parse(source)
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        is_with_text = called == "with_text"
        if called not in TELLS and not is_with_text and not str(called).startswith("_refus"):
            continue
        reported = node.args[:1] if called == "Refused" else node.args  # the other one is the log's
        for argument in (*reported, *(one.value for one in node.keywords)):
            yield from strings_in(argument)
            for inner in ast.walk(argument):
                if isinstance(inner, ast.Name) and inner.id in named:
                    yield from strings_in(named[inner.id])


def strings_in(node: ast.AST) -> Iterator[str]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


MODULES = [
    *(path for space in ROOMS for path in sorted((ROOT / "ftpserver" / space).rglob("*.py"))),
    *sorted((ROOT / "ftpwire").rglob("*.py")),
]


def test_no_text_for_clients_names_an_option_or_a_command():
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in MODULES
        if path.name not in FOR_ADMINISTRATORS
        for text in texts_of(path.read_text())
        if OURS.search(text) and text not in OF_ADMINISTRATORS
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        'raise NotFound(f"{path}: not here (use -r)")',
        'raise errors.Busy("again: ftp login")',
        'exchange.remark("use --atomic")',
        'TEXT = "see ftpd user set"\nraise Forbidden(TEXT)',
    ],
)
def test_the_test_finds_them(source):
    """The control."""
    assert any(OURS.search(text) for text in texts_of(source))


def test_enough_is_looked_at():
    assert sum(1 for path in MODULES for _ in texts_of(path.read_text())) > 200
