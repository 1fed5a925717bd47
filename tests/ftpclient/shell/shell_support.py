"""A shell without its loop: an App that is connected, for lines to be given to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftpclient.__main__ import run_shell
from ftpclient.cli.app import App, ShellState


@contextmanager
def shell_of(server, *, batch: bool = False) -> Iterator[App]:
    """Alice's shell on a server that runs in this process."""
    host, port = server.server_address[:2]
    app = App(
        server=f"alice@{host}:{port}",
        plaintext=server.settings.plaintext,
        interactive=True,
        shell=ShellState(batch=batch, on_stdin=batch),
        run_shell=run_shell,
        given_password="secret",
    )
    try:
        app.client.connect()
        yield app
    finally:
        app.close()
        app.interrupt.close()
