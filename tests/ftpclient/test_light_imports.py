"""click and msgspec as `ftp` imports them: what is left out is there as soon as it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from ftpclient import light_imports

LOAD = "from ftpclient import light_imports as light; light.load(); light.load_msgspec()"
UNUSED = {"inspect", "ast", "gettext", "locale", "platform", "typing_extensions", "textwrap"}


def said(*lines: str) -> str:
    """What a program of these lines prints."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.rstrip("\n")


def test_what_is_left_out():
    there = f"print({UNUSED!r} & set(sys.modules))"
    assert said(LOAD, "import sys, click, msgspec, pathlib, dataclasses", there) == "set()"
    assert said("import sys, click, msgspec", there) != "set()", "the control"


def test_help_is_the_same():
    command = (
        "import click",
        "@click.command()",
        "@click.option('--some', help='''  Of two",
        "    lines. ''')",
        "@click.option('--type', type=click.DateTime(), default='2020-01-01', show_default=True)",
        "def main(some, type):",
        "    '''What it does.",
        "",
        "    More of it.'''",
        "main(['--help'])",
    )
    assert said(LOAD, *command) == said(*command)
    assert "What it does." in said(*command)


@pytest.mark.parametrize("text", ["", "A line.", "  a line ", "two\n    lines", "\ta\u00a0b"])
def test_texts_are_cleaned_as_by_inspect(text):
    assert light_imports._cleandoc(text) == inspect.cleandoc(text)


def test_a_path_becomes_a_url():
    path = "print(pathlib.Path('/a b/ü').as_uri())"
    assert said(LOAD, "import pathlib", path) == said("import pathlib", path)


def test_a_dataclass_without_a_docstring_has_a_signature():
    lines = (
        "from dataclasses import dataclass",
        "@dataclass",
        "class One:",
        "    some: int = 5",
        "print(One.__doc__)",
    )
    assert said(LOAD, *lines) == said(*lines)


def test_msgspec_has_all_that_it_has():
    lines = (
        "import msgspec, msgspec.inspect, typing",
        "class One(msgspec.Struct):",
        "    some: typing.Annotated[int, msgspec.Meta(ge=1)] = 5",
        "print(msgspec.inspect.type_info(One), msgspec.json.schema(One))",
        "print(msgspec.json.decode(b'{}', type=One), msgspec.structs.fields(One)[0].required)",
    )
    assert said(LOAD, *lines) == said(*lines)


def test_where_they_are_loaded_nothing_changes():
    lines = ("import click, msgspec, inspect, sys", LOAD)
    same = "print(click.core.inspect is inspect, type(msgspec.inspect), 'click' in sys.modules)"
    assert said(*lines, same) == "True <class 'module'> True"
