"""Importing click and msgspec without modules that they import but `ftp` hardly uses.

Lives here: these imports.
Lives elsewhere: the substitutes of the modules (ftpwire/unloaded.py), and the program that calls
this before anything else imports them (__main__.py).

Loading these modules would take a third of a short command's time: inspect loads ast, dis and
tokenize; uuid loads platform; click asks gettext for each text; msgspec loads a JSON schema and a
description of types.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import AbstractContextManager

from ftpwire.unloaded import unloaded


def load() -> None:
    """Import what every command needs. Modules that are loaded already are left alone."""
    if "click" not in sys.modules:
        with unloaded(
            {
                "inspect": {"cleandoc": _cleandoc},
                "gettext": {"gettext": _untranslated, "ngettext": _untranslated_number},
                "platform": {"system": _system},
            }
        ):
            importlib.import_module("click")
            importlib.import_module("dataclasses")


def load_msgspec() -> None:
    """Import msgspec, which not every command needs. Do nothing if it is loaded already."""
    if "msgspec" in sys.modules:
        return
    no_extensions = "typing_extensions" not in sys.modules
    if no_extensions:  # msgspec works without it: none of our types come from there
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        with unloaded(dict.fromkeys(("textwrap", "msgspec.inspect", "msgspec.toml"), _NOTHING)):
            importlib.import_module("msgspec")
        with unloaded({"urllib.parse": {"quote_from_bytes": _quote_from_bytes}}):
            importlib.import_module("pathlib")
    finally:
        if no_extensions:
            del sys.modules["typing_extensions"]


_NOTHING: dict[str, object] = {}


def _quote_from_bytes(path: bytes) -> str:
    """Do `urllib.parse.quote_from_bytes`, which pathlib uses to make URLs."""
    return importlib.import_module("urllib.parse").quote_from_bytes(path)  # type: ignore[no-any-return]


def without_suggestions() -> AbstractContextManager[None]:
    """Skip click's suggestions while it parses options. For each short option, click first looks
    for similar long ones, which loads difflib for words that no one sees; see likeness.py."""
    return unloaded({"difflib": {"get_close_matches": _none_alike}})


def _none_alike(word: str, others: object) -> list[str]:
    """Replace `difflib.get_close_matches`: nothing is similar."""
    return []


def _cleandoc(text: str) -> str:
    """Do `inspect.cleandoc`, which click calls for the help of each option, usually one line."""
    if text.isprintable():  # no line ends, no tabs
        return text.lstrip(" ")
    return importlib.import_module("inspect").cleandoc(text)  # type: ignore[no-any-return]


def _untranslated(message: str) -> str:
    """Replace `gettext.gettext`, without looking for a catalog: all other texts are English."""
    return message


def _untranslated_number(one: str, many: str, number: int) -> str:
    """Replace `gettext.ngettext` in the same way."""
    return one if number == 1 else many


def _system() -> str:
    """Do `platform.system`, which uuid calls when it is imported."""
    return os.uname().sysname
