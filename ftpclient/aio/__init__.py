"""The client for asyncio: the same verbs, as coroutines, on one connection for all tasks.

Lives here: AsyncClient (client.py), the connection as the loop drives it
(connection/connection.py), and what a transfer's thread sees of it (lane.py).
Lives elsewhere: the rules of transfers (ftpclient/transfer/upload.py, transfer/download.py,
sync/job.py), which both clients share; how a connection is opened and trusted
(ftpclient/connection/connection.py, connection/known_hosts.py).
"""

from __future__ import annotations

from ftpclient.aio.client import AsyncClient

__all__ = ["AsyncClient"]
