"""Assembling a complete server: one with its background services.

Lives here: the list of the background services. Lives elsewhere: the server (server.py), each of
the background services (control_server.py, discovery.py, audit/notify.py).
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
    """Make a server of one root, with its control socket, discovery, and audit events.

    Args:
        settings: The server's settings.
        listener: See `FtpServer`.

    Raises:
        StateError, OSError: See `FtpServer`.
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
