"""click and msgspec without the modules that they import for what `ftp` hardly uses.

Lives here: importing them so. Lives elsewhere: what stands in for the modules
(ftpwire/unloaded.py); who does it, before anything else imports them: the program (__main__.py).

A third of a short command's time would go into these: inspect brings ast, dis and tokenize; uuid
brings platform; click asks gettext for each text; msgspec brings a JSON schema and a description
of types.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import AbstractContextManager

from ftpwire.unloaded import unloaded


def load() -> None:
    """Import what every command needs. Does nothing for what is loaded already."""
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
    """Import msgspec, which not every command needs. Does nothing where it is loaded already."""
    if "msgspec" in sys.modules:
        return
    no_extensions = "typing_extensions" not in sys.modules
    if no_extensions:  # msgspec does without: none of the types here are of them
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
    """`urllib.parse.quote_from_bytes`, with which pathlib makes URLs."""
    return importlib.import_module("urllib.parse").quote_from_bytes(path)  # type: ignore[no-any-return]


def without_suggestions() -> AbstractContextManager[None]:
    """For parsing options: click looks for a long one that is like each short one, before it takes
    it as a short one. It would load difflib for words that nobody sees: see likeness.py."""
    return unloaded({"difflib": {"get_close_matches": _none_alike}})


def _none_alike(word: str, others: object) -> list[str]:
    """`difflib.get_close_matches`, where nothing is."""
    return []


def _cleandoc(text: str) -> str:
    """`inspect.cleandoc`. click wants it for the help of each option, which is one line."""
    if text.isprintable():  # no line ends, no tabs
        return text.lstrip(" ")
    return importlib.import_module("inspect").cleandoc(text)  # type: ignore[no-any-return]


def _untranslated(message: str) -> str:
    """`gettext.gettext`, without looking for a catalog: what click says stands among English."""
    return message


def _untranslated_number(one: str, many: str, number: int) -> str:
    """`gettext.ngettext`, in the same way."""
    return one if number == 1 else many


def _system() -> str:
    """`platform.system`, which uuid wants when it is imported."""
    return os.uname().sysname
