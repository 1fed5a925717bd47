"""The client for asyncio: the same verbs, as coroutines, on one connection for all tasks.

Lives here: AsyncClient (client.py), the connection as the loop drives it (connection.py), threads
for transfers (threads.py), and what these see of the connection (thread_connection.py).
Lives elsewhere: the rules of transfers (ftpclient/transfer/upload.py, transfer/download.py,
sync/job.py), the protocol (ftpclient/connection/protocol.py), how a connection is opened and
trusted (ftpclient/connection/opening.py, trust.py), all of which both clients share.
"""

from __future__ import annotations

from ftpclient.aio.client import AsyncClient

__all__ = ["AsyncClient"]
