"""The client for asyncio: the same verbs as coroutines, on one connection for all tasks.

Lives here: AsyncClient (client.py), the connection that the event loop drives (connection.py),
threads for transfers (threads.py), and their view of the connection (thread_connection.py).
Lives elsewhere, shared by both clients: the rules of transfers (ftpclient/transfer/upload.py,
transfer/download.py, sync/job.py), the protocol (ftpclient/connection/protocol.py), opening a
connection and trust (ftpclient/connection/opening.py, trust.py).
"""

from __future__ import annotations

from ftpclient.aio.client import AsyncClient

__all__ = ["AsyncClient"]
