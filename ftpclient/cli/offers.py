"""What bash, zsh and fish are offered for a word that is begun: servers, paths there, files here.

Lives here: offers for words of `ftp`. Lives elsewhere: the shells' scripts (ftpwire/completion.py),
servers of the local network (reachable.py), completion in our own shell (shell/completion.py).

Names on a server need a saved token: nobody is asked, no password is sent, no key is trusted anew,
and a server that takes long has nothing to offer.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

Offers = list[CompletionItem[str]]

SECONDS = 0.5
"""That the Tab key may take: a server that hasn't answered by then has nothing to offer."""
_MOST = 10_000
"""Names of a directory."""
_MOST_REFUSED = 20
"""Tokens that are remembered as refused, by their ids."""


def remote_paths(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Paths on the server that the word names, or on the one that is used anyway; saved servers."""
    location = _location(begun)
    if location is None and not _is_path(begun):
        return []
    servers = [] if location or "/" in begun or _given(ctx, "server") else _locations(begun)
    return [*_names(ctx, location, begun), *servers]


def local_or_remote(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Files here; but paths on a server that the word names, and saved servers where they fit."""
    location = _location(begun)
    if location is not None:
        return _names(ctx, location, begun)
    if begun and not _is_here(begun):
        if servers := _locations(begun):
            return servers
    return [CompletionItem(begun, type="file")]


def sources_of_get(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """Paths on a server first; after one of them, also files here."""
    if ctx.params.get("arguments") and _location(begun) is None and (not begun or _is_here(begun)):
        return [CompletionItem(begun, type="file")]
    return remote_paths(ctx, param, begun)


def roots_of_sync(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """A colon begins a path on the server."""
    if not begun.startswith(":"):
        return local_or_remote(ctx, param, begun)
    names = _names(ctx, None, begun[1:])
    return [CompletionItem(f":{one.value}", type=one.type) for one in names]


def saved_servers(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """The servers that login saved."""
    return [CompletionItem(name) for name in _saved(begun)]


def trash_ids(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """The IDs of operations in the trash, with the commands that they were."""

    def ask(client: Client) -> Iterator[CompletionItem[str]]:
        found = client.trash()
        shown = trashed.Operations(found)
        for one in found:
            if shown.short[one.name].startswith(begun.lower()):
                yield CompletionItem(shown.short[one.name], help=shown.told(one))

    return _answers(ctx, ask)


def versions(ctx: click.Context, param: click.Parameter, begun: str) -> Offers:
    """The numbers of the versions of the path that stands before ``--at``."""
    # click can't say which argument a word is while the value of an option is missing
    path = next((word for word in ctx.args if not word.startswith("-")), "")

    def ask(client: Client) -> Iterator[CompletionItem[str]]:
        for number, version in enumerate(client.versions(locations.from_home(path)), 1):
            if str(number).startswith(begun):
                told = trashed.version_line(number, version)
                yield CompletionItem(str(number), help=told)

    return _answers(ctx, ask) if path and _location(path) is None else []


def _answers(ctx: click.Context, ask: Callable[[Client], Iterator[CompletionItem[str]]]) -> Offers:
    """What the server that is used anyway is asked for, if it answers in time."""
    try:
        server = choose(_given(ctx, "server"))
    except (FtpError, OSError):
        return []

    def answer(interrupt: Interrupt) -> Offers:
        with _logged_in(ctx, server, interrupt) as client:
            return [] if client is None else list(ask(client))

    return in_time(answer, SECONDS)


def server_names(begun: str) -> Offers:
    """Saved servers in the place of a command: `ftp SERVER` connects."""
    return [CompletionItem(name, help="Connect to this server.") for name in _saved(begun)]


# servers and names --------------------------------------------------------------------------


def _location(begun: str) -> locations.Location | None:
    try:
        return locations.read(begun)
    except FtpError:
        return None


def _is_path(begun: str) -> bool:
    """Whether a word without a server may be a path: half an address isn't."""
    return "://" not in begun and "@" not in begun.partition("/")[0]


def _is_here(begun: str) -> bool:
    """Whether a name here begins so."""
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
        return []  # there is nobody to tell: the command itself will


def _names(ctx: click.Context, location: locations.Location | None, begun: str) -> Offers:
    """What there is in the directory of a path, with names that begin as its last one."""
    written = begun if location is None else location.written
    name = written.rpartition("/")[2]
    before = begun[: len(begun) - len(name)]
    directory = written[: len(written) - len(name)]
    if location is not None and not written and "://" in location.server:
        return []  # a slash has to come first
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
    """What the line has for an option of `ftp` itself."""
    return ctx.find_root().params.get(option)


def _listed(
    ctx: click.Context, server: Server, directory: str, begins: str, interrupt: Interrupt
) -> Iterator[tuple[str, bool]]:
    """Names in a remote directory, and which are directories. Raises FtpError, OSError."""
    with _logged_in(ctx, server, interrupt) as client:
        if client is None:
            return
        path = locations.from_home(directory)
        for count, entry in enumerate(client.list_dir(path, follow=True)):
            text = paths.to_text(entry.path)
            if count >= _MOST:
                break
            if text.startswith(begins) and (begins or not text.startswith(".")):
                yield text, entry.type == "dir"


@contextmanager
def _logged_in(ctx: click.Context, server: Server, interrupt: Interrupt) -> Iterator[Client | None]:
    """A client that a token has logged in; None without one that may be used.

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
            if error.code == LoginRefused.code:  # others are about the account, not the token
                _note_refused(saved)
            raise
        yield client
    finally:
        client.close()


def _is_good(saved: SavedToken) -> bool:
    """Whether a token may still be accepted: one that was refused is not tried again.

    Failed log-ins count for bans, and the Tab key is pressed often.
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
    """What is answered in time. Who waits for a name server is left behind: it can't be woken."""
    interrupt = Interrupt()
    answers: list[Offers] = []

    def answer() -> None:
        try:
            answers.append(ask(interrupt))
        except Exception:
            answers.append([])  # there is nobody to tell: the command itself will

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(seconds)
    interrupt.set()  # the connection is closed, if the program goes on for so long
    return answers[0] if answers else []
