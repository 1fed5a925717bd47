"""Completions of words of `ftp` for bash, zsh and fish: servers, remote paths, local files.

Lives here: the completions. Lives elsewhere: the shells' scripts (ftpwire/completion.py), servers
of the local network (reachable.py), completion in our own shell (shell/completion.py).

Remote names need a saved token: the Tab key never asks a question, sends a password or trusts a
new key. A server that answers too late offers nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ftpclient.cli import locations, trashed
from ftpclient.client import Client
from ftpclient.connection import files
from ftpclient.connection.credentials import Credential, SavedToken, SavedTokens
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.servers import SavedServers, Server, choose
from ftpwire import paths
from ftpwire.completion import PART
from ftpwire.errors import FtpError, LoginRefused
from ftpwire.messages import LIST_PREFIX

Offers = list[CompletionItem[str]]

SECONDS = 0.5
"""Seconds that the Tab key waits for a server."""
_MOST = 10_000
"""Names of a directory that are read at most."""
_MOST_REFUSED = 20
"""Refused tokens that are remembered, by their ids."""


def remote_paths(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer paths on the server that the word names, else on the current one; saved servers."""
    location = _location(begun)
    if location is None and not _is_path(begun):
        return []
    servers = [] if location or "/" in begun or _given(ctx, "server") else _locations(begun)
    return [*_names(ctx, location, begun), *servers]


def local_or_remote(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer local files; paths on a server that the word names; saved servers that fit."""
    location = _location(begun)
    if location is not None:
        return _names(ctx, location, begun)
    if begun and not _is_here(begun):
        if servers := _locations(begun):
            return servers
    return [CompletionItem(begun, type="file")]


def sources_of_get(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer remote paths; after the first one, also local files."""
    if ctx.params.get("arguments") and _location(begun) is None and (not begun or _is_here(begun)):
        return [CompletionItem(begun, type="file")]
    return remote_paths(ctx, param, begun)


def roots_of_sync(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer remote paths after a colon, else as `local_or_remote`."""
    if not begun.startswith(":"):
        return local_or_remote(ctx, param, begun)
    names = _names(ctx, None, begun[1:])
    return [CompletionItem(f":{one.value}", type=one.type) for one in names]


def saved_servers(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer the servers that login saved."""
    return [CompletionItem(name) for name in _saved(begun)]


def trash_ids(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer the IDs of operations in the trash, with their commands."""

    def ask(client: Client) -> Iterator[CompletionItem[str]]:
        found = client.trash()
        shown = trashed.Operations(found)
        for one in found:
            if shown.short[one.name].startswith(begun.lower()):
                yield CompletionItem(shown.short[one.name], help=shown.describe(one))

    return _answers(ctx, ask)


def versions(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Offer the numbers of the versions of the path before ``--at``."""
    # click cannot assign words to arguments while the value of an option is missing
    path = next((word for word in ctx.args if not word.startswith("-")), "")

    def ask(client: Client) -> Iterator[CompletionItem[str]]:
        for number, version in enumerate(client.versions(locations.from_home(path)), 1):
            if str(number).startswith(begun):
                yield CompletionItem(str(number), help=trashed.version_line(number, version))

    return _answers(ctx, ask) if path and _location(path) is None else []


def _answers(ctx: click.Context, ask: Callable[[Client], Iterator[CompletionItem[str]]]) -> Offers:
    """Return the offers of the current server, if it answers in time."""
    try:
        server = choose(_given(ctx, "server"))
    except (FtpError, OSError):
        return []

    def answer(interrupt: Interrupt) -> Offers:
        with _logged_in(ctx, server, interrupt) as client:
            return [] if client is None else list(ask(client))

    return in_time(answer, SECONDS)


def server_names(begun: str) -> Offers:
    """Offer saved servers in place of a command: `ftp SERVER` connects."""
    return [CompletionItem(name, help="Connect to this server.") for name in _saved(begun)]


# servers and names --------------------------------------------------------------------------


def _location(begun: str) -> locations.Location | None:
    try:
        return locations.read(begun)
    except FtpError:
        return None


def _is_path(begun: str) -> bool:
    """Return whether a word without a server may be a path, not the beginning of an address."""
    return "://" not in begun and "@" not in begun.partition("/")[0]


def _is_here(begun: str) -> bool:
    """Return whether the name of a local file begins with the word."""
    directory, begins = os.path.split(os.path.expanduser(begun))
    try:
        with os.scandir(directory or ".") as entries:
            return any(entry.name.startswith(begins) for entry in entries)
    except OSError:
        return False


def _locations(begun: str) -> Offers:
    return [CompletionItem(f"{name}:", type=PART) for name in _saved(begun)]


def _saved(begun: str) -> list[str]:
    try:
        return sorted(name for name in SavedServers().names() if name.startswith(begun))
    except (FtpError, OSError):
        return []  # completion cannot print errors: the command itself will


def _names(ctx: click.Context, location: locations.Location | None, begun: str) -> Offers:
    """Return the entries of a path's directory whose names begin with the path's last part."""
    written = begun if location is None else location.written
    name = written.rpartition("/")[2]
    before = begun[: len(begun) - len(name)]
    directory = written[: len(written) - len(name)]
    if location is not None and not written and "://" in location.server:
        return []  # a URL needs a slash before the path
    try:
        server = choose(_given(ctx, "server")) if location is None else location.find()
    except (FtpError, OSError):
        return []

    def ask(interrupt: Interrupt) -> Offers:
        return [
            CompletionItem(
                before + text + ("/" if is_dir else ""), type=PART if is_dir else "plain"
            )
            for text, is_dir in _listed(ctx, server, directory, name, interrupt)
        ]

    return sorted(in_time(ask, SECONDS), key=lambda one: one.value)


def _given(ctx: click.Context, option: str) -> Any:
    """Return the value that the line has for an option of `ftp` itself."""
    return ctx.find_root().params.get(option)


def _listed(
    ctx: click.Context, server: Server, directory: str, begins: str, interrupt: Interrupt
) -> Iterator[tuple[str, bool]]:
    """Yield names in a remote directory, with True for directories. Raises FtpError, OSError."""
    with _logged_in(ctx, server, interrupt) as client:
        if client is None:
            return
        path = locations.from_home(directory)
        filters = LIST_PREFIX in client.connection.server.features
        prefix = begins if filters else ""
        broken: list[bytes] = []  # links that lead nowhere, which are problems when followed
        entries = client.list_dir(
            path, follow=True, prefix=prefix, on_problem=lambda found: broken.append(found.path)
        )
        listed = ((entry.path, entry.type == "dir") for entry in islice(entries, _MOST))
        for name, is_dir in chain(listed, ((name, False) for name in broken if name)):
            text = paths.to_text(name)
            if text.startswith(begins) and (begins or not text.startswith(".")):
                yield text, is_dir


@contextmanager
def _logged_in(ctx: click.Context, server: Server, interrupt: Interrupt) -> Iterator[Client | None]:
    """Yield a client logged in with the saved token; None if there is no usable token.

    Raises FtpError, OSError.
    """
    saved = SavedTokens().get(server.address)
    plaintext = server.plaintext or bool(_given(ctx, "plaintext"))
    if saved is None or not _is_good(saved):
        yield None
        return
    if plaintext and not saved.plaintext and server.address.path is None:
        yield None
        return
    client = Client(
        server.address,
        plaintext=plaintext,
        ca=_given(ctx, "ca"),
        interrupt=interrupt,
        saved_token=False,
        retry_for=0,
    )
    try:
        try:
            client.log_in(Credential(server.address.login, saved.secret, is_token=True))
        except LoginRefused as error:
            if error.code == LoginRefused.code:  # other codes concern the account, not the token
                _note_refused(saved)
            raise
        yield client
    finally:
        client.close()


def _is_good(saved: SavedToken) -> bool:
    """Return whether a token may still be accepted. A refused one is not tried again.

    Failed log-ins count towards a ban, and the Tab key is pressed often.
    """
    if saved.expires is not None and saved.expires <= time.time():
        return False
    try:
        return saved.id not in _refused().read_text("utf-8", "replace").splitlines()
    except OSError:
        return True


def _note_refused(saved: SavedToken) -> None:
    try:
        before = _refused().read_text("utf-8", "replace").splitlines()
    except OSError:
        before = []
    kept = [*before[1 - _MOST_REFUSED :], saved.id]
    files.write_private(_refused(), "".join(f"{one}\n" for one in kept))


def _refused() -> Path:
    return files.directory() / "refused-tokens"


def in_time(ask: Callable[[Interrupt], Offers], seconds: float) -> Offers:
    """Return the offers if they come in time.

    A thread that waits for the resolver cannot be interrupted, so it is left running as a daemon.
    """
    interrupt = Interrupt()
    answers: list[Offers] = []

    def answer() -> None:
        try:
            answers.append(ask(interrupt))
        except Exception:
            answers.append([])  # completion cannot print errors: the command itself will

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(seconds)
    interrupt.set()  # makes the thread close its connection, if the process lives long enough
    return answers[0] if answers else []
