"""A whole server: with all that goes on beside serving.

Lives here: which backgrounds a server has. Lives elsewhere: the server (server.py), each of the
backgrounds (control_server.py, discovery.py, audit/notify.py).
"""

from __future__ import annotations

import socket

from ftpserver.audit.files import FILE_NAME
from ftpserver.audit.notify import start_events
from ftpserver.daemon.background import OptionalBackground
from ftpserver.daemon.control_server import start_control
from ftpserver.daemon.discovery import start_discovery
from ftpserver.daemon.server import FtpServer
from ftpserver.settings.table import Settings


def whole_server(settings: Settings, listener: socket.socket | None = None) -> FtpServer:
    """A server of one root, with its control socket, discovery, and word of the audit log.

    Args:
        listener: See `FtpServer`.

    Raises:
        StateError, OSError: As `FtpServer`.
    """
    server = FtpServer(settings, listener)
    discovery = OptionalBackground(lambda: start_discovery(server))
    log, audit = server.settings.state / FILE_NAME, server.service.audit
    server.backgrounds += [
        OptionalBackground(lambda: start_control(server, lambda: discovery.running)),
        OptionalBackground(lambda: start_events(log, audit)),
        discovery,
    ]
    return server
