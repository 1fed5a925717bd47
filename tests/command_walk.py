"""All commands of both programs, for tests that hold something against each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import click

from ftpclient.cli.app import App
from ftpclient.cli.main import remote
from ftpserver.cli.main import cli as ftpd


def options(ctx: click.Context) -> list[click.Option]:
    return [one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option)]


class Place(NamedTuple):
    """A command, as it is reached."""

    words: str
    ctx: click.Context


def walk(ctx: click.Context, words: str) -> Iterator[Place]:
    """A command and those in it."""
    yield Place(words, ctx)
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            assert command is not None
            yield from walk(
                click.Context(
                    command,
                    parent=ctx,
                    info_name=name,
                    **command.context_settings,
                ),
                f"{words} {name}".strip(),
            )


def root(command: click.Command, name: str, *, interactive: bool = False) -> click.Context:
    app = App(interactive=interactive) if command is remote else None
    return click.Context(command, info_name=name, obj=app, **command.context_settings)


def everything() -> list[Place]:
    """All commands: those of the shell alone as they are called there."""
    places = [*walk(root(remote, "ftp"), "ftp"), *walk(root(ftpd, "ftpd"), "ftpd")]
    known = {place.words.removeprefix("ftp ") for place in places}
    inside = walk(root(remote, "", interactive=True), "")
    return [*places, *(place for place in inside if place.words not in known)]


PLACES = everything()
"""Every command once."""
