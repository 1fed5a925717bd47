"""Completion of servers in bash, zsh and fish: saved ones, and those on the local network.

Lives here: the completions. Lives elsewhere: asking the network (connection/discovery.py), saved
servers (connection/servers.py), completion in our own shell (shell/completion.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

from ftpclient.cli.group import saved_servers
from ftpclient.connection.addresses import DEFAULT_PORT

PORT_VARIABLE = "FTP_DISCOVERY_PORT"
_TIMEOUT = 0.4
"""Seconds that the Tab key waits; nearly all servers of a local network answer within that."""


def servers_in_reach(ctx: click.Context, param: click.Parameter, begun: str) -> list[Any]:
    """Offer saved servers; if none fits or nothing was typed, also those of the local network."""
    saved = saved_servers(ctx, param, begun)
    return saved if saved and begun else [*saved, *_answering(begun)]


def _answering(begun: str) -> Iterator[Any]:
    from click.shell_completion import CompletionItem

    from ftpclient.connection.discovery import discover

    user, at, _ = begun.rpartition("@")
    try:
        found = discover(_TIMEOUT, port=_port())
    except OSError:
        return  # completion cannot print errors: `ftp discover` does
    offered = {
        user + at + endpoint.removesuffix(f":{DEFAULT_PORT}"): one.name
        for one in found
        for endpoint in one.endpoints
    }
    for address, name in offered.items():  # each address once, even if several servers claim it
        if address.startswith(begun):
            yield CompletionItem(address, help=name)


def _port() -> int:
    """Return the UDP port to ask at, as for `ftp discover`."""
    try:
        port = int(os.environ.get(PORT_VARIABLE, DEFAULT_PORT))
    except ValueError:
        return DEFAULT_PORT
    return port if 0 < port < 65536 else DEFAULT_PORT
