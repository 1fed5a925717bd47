"""Tab completion in the shell: commands, options, remote and local paths.

Lives here: finding the completions. Lives elsewhere: words and quotes (lexer.py).

Remote directories are listed over the shell's own connection, in its thread, for a bounded time.
A completion never fails: after an error, it offers nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from ftpclient.cli.aliases import ALIASES
from ftpclient.cli.app import App
from ftpclient.cli.main import remote
from ftpclient.cli.quoting import Quote, quote
from ftpclient.cli.trashed import short_ids
from ftpclient.connection.servers import SavedServers
from ftpclient.shell.expansion import expanded
from ftpclient.shell.lexer import Typed, Word, WordRole, split_typed
from ftpwire import paths
from ftpwire.command_help import offered_names
from ftpwire.errors import FtpError, Interrupted
from ftpwire.messages import LIST_PREFIX
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.client import Client

_CACHE_SECONDS = 10.0
_MOST_NAMES = 10_000
"""Names of a directory that are offered at most."""
_PATIENCE_SECONDS = 2.0
"""Limit for listing a directory, during which the keyboard doesn't respond."""

_KINDS: dict[str, tuple[str, ...]] = {
    "cd": ("remote directory",),
    "lcd": ("local directory",),
    "lls": ("local",),
    "lmkdir": ("local",),
    "source": ("local", "nothing"),
    "chmod": ("nothing", "remote"),
    "help": ("command",),
    "kept": ("kept",),
    "exit": ("nothing",),
    "open": ("server", "nothing"),
    "set": ("setting", "nothing"),
    "unalias": ("alias",),
    **dict.fromkeys(("alias", "bookmark", "echo", "history"), ("nothing",)),
    "put": ("local", "remote local"),
    "get": ("remote", "local remote"),
    "sync": ("local",),
    "check": ("local",),
    "diff": ("local",),
    "undo": ("operation", "nothing"),
    "trash ls": ("operation", "remote", "nothing"),
    "trash restore": ("operation", "remote"),
    "trash get": ("operation", "remote local", "local"),
    "trash cat": ("operation", "remote"),
    "trash empty": ("operation",),
    **dict.fromkeys(("token list", "token revoke"), ("nothing",)),
}
"""The kinds of a command's arguments, in order; the last one also stands for all that follow.

If there are two kinds, the second is offered if nothing of the first matches. Arguments of
commands not listed here are remote paths.
"""
_OF_OPTIONS = {
    "--at": "version",
    "--path": "remote",
    "--user-path": "remote",
    "--to": "remote",
    "-newer": "remote",
}
"""The kinds of options' values that can be completed."""


_WITHOUT_SLASH = frozenset({"alias", "command", "operation", "server", "setting", "version"})


@dataclass(frozen=True)
class Name:
    """A possible completion. ``more`` is True if the word goes on after it."""

    text: str
    more: bool = False


@dataclass(frozen=True)
class _Listed:
    """The names of one listing.

    Attributes:
        complete: False if there may be more: the listing was too long, or took too long.
        until: When they are no longer used, on ``time.monotonic()``.
    """

    names: list[Name]
    complete: bool
    until: float


class _Enough(Exception):
    """Raised when the maximum number of names is reached."""


class RemoteNames:
    """The names in remote directories, cached for some seconds."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._kept: dict[tuple[RemotePath, bytes], _Listed] = {}

    def forget(self) -> None:
        """Clear the cache, as a command may have changed anything."""
        self._kept.clear()

    def below(self, directory: str, begin: str) -> list[Name]:
        """Return the names in a directory; none if that needs a new connection.

        Those that begin otherwise than with ``begin`` may be missing.
        """
        client = self._app.known_client
        if client is None or not client.connected:
            return []
        path = client.resolve(directory or ".")
        filters = LIST_PREFIX in client.connection.server.features
        prefix = paths.from_text(begin) if filters else b""
        listed = self._find_kept(path, prefix)
        if listed is None:
            listed = self._kept[path, prefix] = self._ask(client, path, prefix)
        return listed.names

    def _find_kept(self, path: RemotePath, prefix: bytes) -> _Listed | None:
        """Return a listing from the cache that has all names with a prefix; None if there is none.

        A complete listing of a shorter prefix has them, too.
        """
        now = time.monotonic()
        for size in range(len(prefix) + 1):
            listed = self._kept.get((path, prefix[:size]))
            if listed is None or listed.until < now:
                continue
            if listed.complete or size == len(prefix):
                return listed
        return None

    def kept_below(self, directory: str) -> list[Name]:
        """Return the names in a directory that lead to interrupted uploads."""
        client = self._app.known_client
        if client is None or not client.connected:
            return []
        base = client.resolve(directory or ".").rstrip(b"/") + b"/"
        names: set[Name] = set()
        with self._patience(client):
            for one in client.kept():
                if one.path is not None and one.path.startswith(base):
                    name, slash, _ = one.path[len(base) :].partition(b"/")
                    names.add(Name(paths.to_text(name), bool(slash)))
        return sorted(names, key=lambda name: name.text)

    def operations(self) -> list[Name]:
        """Return the IDs of the operations in the trash."""
        client = self._app.known_client
        if client is None or not client.connected:
            return []
        short: dict[str, str] = {}
        with self._patience(client):
            short = short_ids(client.trash())
        return [Name(one) for one in short.values()]

    def versions(self, words: Sequence[Word]) -> list[Name]:
        """Return the version numbers of the file named by the last of some words."""
        client = self._app.known_client
        if client is None or not client.connected or not words:
            return []
        count = 0
        with self._patience(client):
            count = len(client.versions(words[-1].text))
        return [Name(str(number)) for number in range(1, count + 1)]

    def _ask(self, client: Client, path: RemotePath, prefix: bytes) -> _Listed:
        names: list[Name] = []
        complete = False

        def add(name: bytes, more: bool = False) -> None:
            if len(names) >= _MOST_NAMES:
                raise _Enough
            names.append(Name(paths.to_text(name), more))

        with self._patience(client), suppress(_Enough):
            # links count as their targets; a broken link is reported as a problem, with its name
            entries = client.list_dir(
                path, follow=True, on_problem=lambda found: add(found.path), prefix=prefix
            )
            with closing(entries):
                for entry in entries:
                    add(entry.path, entry.type == "dir")
            complete = True
        names = [name for name in names if name.text]
        return _Listed(names, complete, time.monotonic() + _CACHE_SECONDS)

    @contextmanager
    def _patience(self, client: Client) -> Iterator[None]:
        """Interrupt requests inside the context after `_PATIENCE_SECONDS`."""
        interrupt = self._app.interrupt
        patience = threading.Timer(_PATIENCE_SECONDS, interrupt.set)
        patience.start()
        try:
            yield
        except Interrupted:
            client.settle_interrupt()
        finally:
            patience.cancel()
            patience.join()  # else it could set the interrupt after it was cleared
            interrupt.clear()


class ShellCompleter(Completer):
    """The completer of the prompt."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.remote_names = RemoteNames(app)

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Return all completions of the text before the cursor. A single one ends its word."""
        text = document.text_before_cursor
        try:
            typed, names = self._fitting(text)
        except (FtpError, OSError, ValueError):
            return []
        return list(_completions(typed, names, typed.start - len(text)))

    def _fitting(self, text: str) -> tuple[Typed, list[Name]]:
        typed = split_typed(text)
        if typed.role is WordRole.LOCAL:
            # of a local command, only arguments: the programs on $PATH are not completed
            return typed, self._names(typed, "local") if typed.words else []
        if typed.role is WordRole.FILE:
            return typed, self._names(typed, "local")
        if not typed.words:
            return typed, _matching(typed, _commands(self._app))
        words = expanded(self._app.shell.aliases, tuple(typed.words))
        command = _command(self._app, words[0].text)
        name, words = "" if command is None else command.name or "", words[1:]
        if isinstance(command, click.Group):
            if not words:
                return typed, _matching(typed, map(Name, command.commands))
            command = command.commands.get(words[0].text)
            name, words = f"{name} {words[0].text}", words[1:]
        if command is None:
            return typed, []
        given = _arguments(command, words)
        if isinstance(given, str):
            kind = _OF_OPTIONS.get(given, "nothing")
            return typed, self._names(typed, kind, words[:-1])
        if _is_option(typed):
            return typed, _matching(typed, _options(self._app, command))
        for kind in _kinds(command, name, given).split():
            directories_only = "directory" in _kinds(command, name, given)
            names = self._names(typed, kind)
            if directories_only:
                names = [name for name in names if name.more]
            if names:
                return typed, names
        return typed, []

    def _names(self, typed: Typed, kind: str, words: Sequence[Word] = ()) -> list[Name]:
        """Return the matching names of a kind; ``words`` are the arguments before the typed one."""
        listing: dict[str, Callable[[], Iterable[Name]]] = {
            "remote": lambda: self.remote_names.below(typed.directory, typed.name),
            "local": lambda: _local_names(typed.directory),
            "command": lambda: _commands(self._app),
            "kept": lambda: self.remote_names.kept_below(typed.directory),
            "operation": self.remote_names.operations,
            "version": lambda: self.remote_names.versions(words),
            "server": lambda: map(Name, SavedServers().names()),
            "setting": lambda: (Name(name) for name, _ in self._app.shell.settings),
            "alias": lambda: map(Name, self._app.shell.aliases),
        }
        if kind not in listing or (typed.directory and kind in _WITHOUT_SLASH):
            return []
        return _matching(typed, listing[kind]())


def _completions(typed: Typed, names: Sequence[Name], start: int) -> Iterator[Completion]:
    for name in names:
        text = name.text
        if not typed.directory and typed.quote is Quote.NONE and text.startswith("-"):
            # a file's name must not look like an option
            text = text if typed.name.startswith("-") else "./" + text
        tail = "/" if name.more else ""
        first = typed.directory in ("", "./")  # a quoted tilde reads as ./~
        local = typed.role is WordRole.LOCAL
        written = quote(text + tail, typed.quote, close=not name.more, first=first, local=local)
        if len(names) == 1 and not name.more:
            written += " "
        yield Completion(written, start_position=start, display=paths.show(name.text) + tail)


def _matching(typed: Typed, names: Iterable[Name]) -> list[Name]:
    """Return the names that begin as typed, sorted; hidden ones only if a dot was typed."""
    hidden = typed.name.startswith(".")
    return sorted(
        (
            name
            for name in names
            if name.text.startswith(typed.name) and (hidden or not name.text.startswith("."))
        ),
        key=lambda name: name.text,
    )


def _local_names(directory: str) -> Iterator[Name]:
    with os.scandir(os.path.expanduser(directory) or ".") as entries:
        for entry in entries:
            yield Name(entry.name, _is_directory(entry))


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_option(typed: Typed) -> bool:
    return (
        typed.name.startswith("-")
        and not typed.directory
        and typed.quote is Quote.NONE
        and all(word.text != "--" for word in typed.words)
    )


# commands and their parameters --------------------------------------------------------------


def _context(app: App) -> click.Context:
    return click.Context(remote, info_name="", obj=app)


def _commands(app: App) -> Iterator[Name]:
    for name in {*remote.list_commands(_context(app)), *ALIASES, *app.shell.aliases}:
        yield Name(name)


def _command(app: App, name: str) -> click.Command | None:
    return remote.get_command(_context(app), ALIASES.get(name, name))


def _options(app: App, command: click.Command) -> Iterator[Name]:
    for parameter in command.get_params(click.Context(command, parent=_context(app))):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from map(Name, offered_names(parameter))


def _arguments(command: click.Command, words: Sequence[Word]) -> int | str:
    """Return the number of arguments so far, or the option whose value comes next."""
    with_value = {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.is_flag and not parameter.count
        for name in parameter.opts
    }
    count = 0
    rest = iter(words)
    for word in rest:
        if word.text == "--":
            return count + sum(1 for _ in rest)
        if word.text in with_value:
            if next(rest, None) is None:
                return word.text
        elif not word.text.startswith("-") or word.text == "-":
            count += 1
    return count


def _kinds(command: click.Command, name: str, given: int) -> str:
    kinds = _KINDS.get(name)
    if kinds is None:
        takes = any(isinstance(parameter, click.Argument) for parameter in command.params)
        return "remote" if takes else "nothing"
    return kinds[min(given, len(kinds) - 1)]
