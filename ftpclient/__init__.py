"""The client: `ftp`, its shell, and the Python API they are written with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpclient.aio import AsyncClient
    from ftpclient.client import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> object:
    # `from ftpclient import Client` works, and `ftp --version` doesn't pay for it
    if name == "Client":
        from ftpclient.client import Client

        return Client
    if name == "AsyncClient":
        from ftpclient.aio import AsyncClient

        return AsyncClient
    raise AttributeError(name)
