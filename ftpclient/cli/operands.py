"""Operands of put, get, cp and mv: which are sources, and what the target is.

Lives here: -t and -T, and the last operand that may have been meant as a source.
Lives elsewhere: what is done with them (commands/), the rules of cp (client.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import msgspec
from msgspec.structs import replace

from ftpclient.cli import locations
from ftpclient.cli.app import App, UsageError
from ftpwire import paths
from ftpwire.errors import CommandError
from ftpwire.messages import Stat

if TYPE_CHECKING:
    from ftpclient.client import Client
    from ftpclient.transfer.report import Listener


class Operands(msgspec.Struct, frozen=True):
    """What was named.

    Attributes:
        into: True: the target is a directory that has to exist (-t); False: it is a name (-T);
            None: as in cp, the target says so itself.
        placed: They name the server, so none of them can be mistaken for the other.
    """

    sources: list[str]
    target: str
    into: bool | None = None
    placed: bool = False

    def target_taken(self, app: App) -> Operands:
        """With the target as a path on the server, which it may name. See `locations.taken`."""
        (target,) = locations.taken(app, [self.target])
        return replace(self, target=target, placed=target != self.target)

    def sources_taken(self, app: App) -> Operands:
        """The same with the sources."""
        sources = locations.taken(app, self.sources)
        return replace(self, sources=sources, placed=sources != self.sources)

    def all_taken(self, app: App) -> Operands:
        """The same with all of them."""
        hint = "get and put move files between a server and here; to copy there, write it in both"
        *sources, target = locations.taken(app, [*self.sources, self.target], hint)
        return replace(self, sources=sources, target=target)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add -t and -T to a command, as ``directory`` and ``exactly``."""
    for option in (
        click.option(
            "-T",
            "--no-target-directory",
            "exactly",
            is_flag=True,
            help="Treat TARGET as a name, never as a directory to go into.",
        ),
        click.option(
            "-t",
            "--target-directory",
            "directory",
            metavar="DIR",
            help="Put every SOURCE into DIR, which must exist.",
        ),
    ):
        function = option(function)
    return function


def split(
    arguments: Sequence[str], directory: str | None, exactly: bool, *, default: str | None = None
) -> Operands:
    """Part sources and target.

    Args:
        default: The target of an argument that stands alone; None: there has to be one.
    """
    if directory is not None:
        if exactly:
            raise UsageError("-t and -T exclude each other")
        if not directory:
            raise UsageError("-t takes a directory that exists, not an empty path")
        return Operands(list(arguments), directory, True)
    if exactly:
        if len(arguments) != 2:
            raise UsageError("-T takes one SOURCE and one TARGET")
        return Operands([arguments[0]], arguments[1], False)
    if len(arguments) > 1:
        return Operands(list(arguments[:-1]), arguments[-1])
    if default is None:
        command = click.get_current_context().command
        raise UsageError(f"something is missing: {command.name} SOURCE... TARGET")
    return Operands(list(arguments), default)


# the last operand that may be a source ------------------------------------------------------


def check_put(app: App, operands: Operands) -> None:
    """Refuse ``put A B`` where B is a file here, beside A: ``put *`` may have made it of two names.

    Raises UsageError.
    """
    pair = _pair(operands)
    if pair is None or pair[1].startswith(":"):  # that is a path on the server, and nothing else
        return
    found = app.expand(pair[1]) if app.interactive else [pair[1]]
    if any(os.path.isfile(one) for one in found):
        raise _ambiguous("put", pair, "here", "sends", "stores")


@contextmanager
def checked_get(
    app: App, client: Client, operands: Operands, listener: Listener, *, follow: bool
) -> Iterator[None]:
    """Refuse ``get A B`` where B is a file on the server, beside A, as `check_put` does.

    Asks for both at once: in here, `Client.get` takes the answer for A.

    Args:
        follow: Whether ``get`` is going to ask where A leads.

    Raises:
        UsageError
    """
    from ftpclient.transfer import retry

    pair = _pair(operands)
    if pair is not None:
        source, other = (app.pattern(word) for word in pair)
        ask = partial(_has_file_beside, client, source, other, follow=follow)
        try:
            refused = retry.asked(client, listener, ask)
        except CommandError:
            refused = False  # nothing there has such a name
        if refused:
            raise _ambiguous("get", pair, "on the server", "fetches", "stores")
    try:
        yield
    finally:
        if client.connected:
            client.connection.forget_ahead()


def _has_file_beside(client: Client, source: str, other: str, *, follow: bool) -> bool:
    """Whether both are there, and ``other`` is a file or leads to one. Raises NotFound."""
    from ftpclient.client import first_question, is_pattern

    beside, connection = client.resolve(other), client.connection
    if is_pattern(beside):
        found = client.glob(other)
    else:
        question = first_question(client.resolve(source), follow)
        connection.ask_ahead(Stat(beside, follow=True), question)
        found = [beside]
    entries = [client.find(one, follow=True) for one in found]
    if not any(entry is not None and entry.type == "file" for entry in entries):
        return False  # the other answer is taken by get, at once
    connection.forget_ahead()
    return any(client.find(one) is not None for one in client.glob(source))


def _pair(operands: Operands) -> tuple[str, str] | None:
    """Source and target of a command with exactly these two, if both lie in one directory as they
    are written, under different names."""
    if operands.placed or operands.into is not None or len(operands.sources) != 1:
        return None
    source, target = operands.sources[0], operands.target
    above, name = os.path.split(source.rstrip("/"))
    beside, other = os.path.split(target)
    if not other or name == other or os.path.normpath(above) != os.path.normpath(beside):
        return None
    return source, target


def _ambiguous(command: str, pair: tuple[str, str], where: str, both: str, one: str) -> UsageError:
    import shlex  # only for advice

    source, target = (shlex.quote(paths.show(word)) for word in pair)
    return UsageError(
        f'{paths.show(pair[1])} is {where} too: "{command} {source} {target} ./" {both} both, '
        f'"{command} -T {source} {target}" {one} {source} as {target}'
    )
