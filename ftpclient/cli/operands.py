"""Operands of put, get, cp and mv: the sources and the target.

Lives here: the options -r, -n, -t and -T, and detecting a last operand that was probably meant as a
source.
Lives elsewhere: the commands (commands/), the rules of cp (ftpclient/verbs.py).
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
from ftpwire.command_help import Option
from ftpwire.errors import CommandError
from ftpwire.messages import Stat

if TYPE_CHECKING:
    from ftpclient.client import Client
    from ftpclient.transfer.report import Listener


class Operands(msgspec.Struct, frozen=True):
    """Sources and target of a command.

    Attributes:
        into: True if the target is a directory that must exist (-t); False if it is a name (-T);
            None if, as in cp, that depends on what exists there.
        placed: True if the operands name the server, so that remote and local ones cannot be
            confused.
    """

    sources: list[str]
    target: str
    into: bool | None = None
    placed: bool = False

    def target_taken(self, app: App) -> Operands:
        """Return a copy whose target is a plain remote path. See `locations.taken`."""
        (target,) = locations.taken(app, [self.target])
        return replace(self, target=target, placed=target != self.target)

    def sources_taken(self, app: App) -> Operands:
        """Return a copy whose sources are plain remote paths."""
        sources = locations.taken(app, self.sources)
        return replace(self, sources=sources, placed=sources != self.sources)

    def all_taken(self, app: App) -> Operands:
        """Return a copy whose sources and target are plain remote paths."""
        hint = (
            f"use {app.command('get')} or {app.command('put')} to transfer files; to copy on the "
            "server, name it in both paths"
        )
        *sources, target = locations.taken(app, [*self.sources, self.target], hint)
        return replace(self, sources=sources, target=target)


recursive_option = click.option(
    "-r",
    "--recursive",
    cls=Option,
    also=("-R", "-a", "--archive"),
    is_flag=True,
    help="Recurse into directories.",
)
no_clobber_option = click.option(
    "-n", "--no-clobber", is_flag=True, help="Do not replace existing files."
)


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
    """Separate the sources from the target.

    Args:
        default: The target if there is only one argument; None if a target is required.
    """
    if directory is not None:
        if exactly:
            raise UsageError("-t and -T cannot be used together")
        if not directory:
            raise UsageError("-t needs an existing directory, not an empty path")
        return Operands(list(arguments), directory, True)
    if exactly:
        if len(arguments) != 2:
            raise UsageError("-T needs exactly one SOURCE and one TARGET")
        return Operands([arguments[0]], arguments[1], False)
    if len(arguments) > 1:
        return Operands(list(arguments[:-1]), arguments[-1])
    if default is None:
        command = click.get_current_context().command
        raise UsageError(f"missing argument: {command.name} SOURCE... TARGET")
    return Operands(list(arguments), default)


# the last operand that may be a source ------------------------------------------------------


def check_put(app: App, operands: Operands) -> None:
    """Refuse ``put A B`` if B is a local file beside A: ``put *`` may have expanded to this.

    Raises UsageError.
    """
    pair = _pair(operands)
    if pair is None or pair[1].startswith(":"):  # a colon marks a remote path
        return
    found = app.expand(pair[1]) if app.interactive else [pair[1]]
    if any(os.path.isfile(one) for one in found):
        raise _ambiguous("put", pair, "locally", "sends", "stores")


@contextmanager
def checked_get(
    app: App, client: Client, operands: Operands, listener: Listener, *, follow: bool
) -> Iterator[None]:
    """Refuse ``get A B`` if B is a remote file beside A, as `check_put` does.

    The server is asked for both in one round trip; inside the context, `Client.get` uses the
    reply for A.

    Args:
        follow: True if ``get`` follows A if it is a link.

    Raises:
        UsageError: B is a remote file, and A exists.
    """
    from ftpclient.transfer import retry

    pair = _pair(operands)
    if pair is not None:
        source, other = (app.pattern(word) for word in pair)
        ask = partial(_has_file_beside, client, source, other, follow=follow)
        try:
            refused = retry.query(client, listener, ask)
        except CommandError:
            refused = False  # B doesn't exist
        if refused:
            raise _ambiguous("get", pair, "on the server", "fetches", "stores")
    try:
        yield
    finally:
        if client.connected:
            client.connection.forget_ahead()


def _has_file_beside(client: Client, source: str, other: str, *, follow: bool) -> bool:
    """Return whether both exist, and ``other`` is a file or a link to one. Raises NotFound."""
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
        return False  # get uses the reply for the source
    connection.forget_ahead()
    return any(client.find(one) is not None for one in client.glob(source))


def _pair(operands: Operands) -> tuple[str, str] | None:
    """Return source and target if there are exactly two operands, with different names in the
    same directory as typed; else None."""
    if operands.placed or operands.into is not None or len(operands.sources) != 1:
        return None
    source, target = operands.sources[0], operands.target
    above, name = os.path.split(source.rstrip("/"))
    beside, other = os.path.split(target)
    if not other or name == other or os.path.normpath(above) != os.path.normpath(beside):
        return None
    return source, target


def _ambiguous(command: str, pair: tuple[str, str], where: str, both: str, one: str) -> UsageError:
    import shlex  # only needed for this message

    source, target = (shlex.quote(paths.show(word)) for word in pair)
    return UsageError(
        f'{paths.show(pair[1])} exists {where}, too: "{command} {source} {target} ./" {both} both, '
        f'"{command} -T {source} {target}" {one} {source} as {target}'
    )
