"""docs/json.md, as tests read it, and objects held against it.

Lives here: the kinds of objects with their keys, which command prints which, and `Checked`, which
fails on an object that is not as it is documented. Lives elsewhere: the commands that are run
(ftpclient/cli/test_json.py, ftpserver/cli/test_json.py).
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.protocol_document import rows

DOCUMENT = (Path(__file__).parents[1] / "docs" / "json.md").read_text()
COMMON = ("failure", "remark")
"""Kinds that both programs print, on standard error."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "path": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "null": (type(None),),
    "any": (object,),
}


@dataclass(frozen=True)
class Key:
    """One key of a kind, as its row says."""

    types: tuple[str, ...]
    optional: bool

    def takes(self, value: Any) -> bool:
        """Whether a value is of one of its types."""
        return any(_is(value, name) for name in self.types)


def _is(value: Any, name: str) -> bool:
    if item := re.fullmatch(r"list of (\w+)s", name):
        return isinstance(value, list) and all(_is(one, item[1]) for one in value)
    if isinstance(value, bool) and name not in ("boolean", "any"):
        return False
    return isinstance(value, _TYPES[name])


@dataclass(frozen=True)
class Section:
    """What stands below the heading of a kind."""

    title: str
    text: str

    @property
    def example(self) -> dict[str, Any]:
        """Its example. There is just one."""
        (example,) = re.findall(r"^```json\n(.*?)\n```$", self.text, re.S | re.M)
        found = json.loads(example)
        assert isinstance(found, dict)
        return found


@functools.cache
def kinds() -> dict[str, Section]:
    """The kinds of objects by their names."""
    parts = re.split(r"^### (.+)\n", DOCUMENT, flags=re.M)[1:]
    return {
        title: Section(title, re.split(r"^## ", text, flags=re.M)[0])
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def of_program(program: str) -> set[str]:
    """The kinds that the document has for one of the two programs."""
    found = re.search(rf"^## Objects of {program}\n(.*?)(?=^## |\Z)", DOCUMENT, re.S | re.M)
    assert found is not None
    return set(re.findall(r"^### (.+)$", found[1], re.M))


@functools.cache
def keys(kind: str) -> dict[str, Key]:
    """The keys of a kind."""
    text = kinds()[kind].text
    found: dict[str, Key] = {}
    for base in re.findall(r"all keys of \[([^]]+)\]", text):
        found |= keys(base)
    for name, words, _ in rows(text):
        types = tuple(words.removesuffix(", optional").split(" or "))
        key = Key(types, words.endswith(", optional"))
        found[name.strip("`")] = key
        if "path" in types:
            found[f"{name.strip('`')}_b64"] = Key(("string",), True)
    return found


@functools.cache
def printed_by() -> dict[str, list[str]]:
    """The kinds that each command prints, by its words: ``ftp token list``."""
    table = re.search(r"^## What each command prints\n(.*?)(?=^## )", DOCUMENT, re.S | re.M)
    assert table is not None
    return {
        command.strip("`"): re.findall(r"\[([^]]+)\]", objects)
        for command, objects in rows(table[1])
    }


def words_of(group: click.Group, name: str, *more: str) -> set[str]:
    """Every command of a program, by its words."""
    found = set()
    for below in {*group.list_commands(click.Context(group)), *more}:
        command = group.get_command(click.Context(group), below) or group.commands.get(below)
        if isinstance(command, click.Group):
            found |= words_of(command, f"{name} {below}")
        else:
            found.add(f"{name} {below}")
    return found


def mismatch(record: dict[str, Any], kind: str) -> str:
    """What of an object is not as its kind is documented; empty if all is."""
    known = keys(kind)
    if unknown := record.keys() - known.keys():
        return f"{sorted(unknown)} not documented"
    if missing := {name for name, key in known.items() if not key.optional} - record.keys():
        return f"{sorted(missing)} missing"
    wrong = [f"{name}={value!r}" for name, value in record.items() if not known[name].takes(value)]
    return f"{wrong} of another type" if wrong else ""


@dataclass
class Checked:
    """The objects of a program that were printed, each of which was as documented.

    Attributes:
        seen: The keys of each kind that were seen.
    """

    program: str
    seen: dict[str, set[str]] = field(default_factory=dict)
    commands: set[str] = field(default_factory=set)

    def output(self, command: str, text: str) -> None:
        """Hold what a command has printed on standard output against the document."""
        words = f"{self.program} {command}"
        self.commands.add(words)
        self._objects(words, text, printed_by()[words])

    def complaints(self, command: str, text: str) -> None:
        """The same for standard error."""
        self._objects(f"{self.program} {command}, on stderr", text, list(COMMON))

    def _objects(self, words: str, text: str, allowed: list[str]) -> None:
        for line in text.splitlines():
            record = json.loads(line)
            wrong = {kind: mismatch(record, kind) for kind in allowed}
            fits = [kind for kind in allowed if not wrong[kind]]
            assert fits, f"{words}: {record} is none of these: {wrong}"
            for kind in fits[:1]:
                self.seen.setdefault(kind, set()).update(record)

    def record(self, kind: str, record: dict[str, Any]) -> None:
        """An object that was made without its command."""
        assert not mismatch(record, kind)
        self.seen.setdefault(kind, set()).update(record)

    def check_complete(self, rare: dict[str, set[str]]) -> None:
        """Fail if something is documented that was not seen.

        Args:
            rare: Keys of kinds that take more than a command to come about.
        """
        never = {}
        for kind in of_program(self.program):
            names = keys(kind).keys() - self.seen.get(kind, set()) - rare.get(kind, set())
            names -= {name for name in names if name.endswith("_b64")}
            if names:
                never[kind] = sorted(names)
        assert not never, f"documented, and never printed: {never}"
        printing = {words for words, found in printed_by().items() if found}
        mine = {words for words in printing if words.split()[0] == self.program}
        assert mine <= self.commands, f"never run: {mine - self.commands}"
