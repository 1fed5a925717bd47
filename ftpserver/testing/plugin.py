"""The pytest fixture ``ftp_server``: a real server for a test.

Lives here: the fixture. Lives elsewhere: the server (__init__.py).

To use it, a project adds this line to its ``conftest.py``; for others nothing is loaded:

    pytest_plugins = ["ftpserver.testing.plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ftpserver.testing import LocalServer, server


@pytest.fixture
def ftp_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server for this test alone, with an account; ``Client()`` uses it."""
    with server(tmp_path_factory.mktemp("ftpd")) as running:
        yield running
