"""AsyncClient.check. Lives elsewhere: what a check tells (../sync/test_check.py)."""

from __future__ import annotations

import asyncio
import threading

from ftpclient import AsyncClient, Finding, Listener
from ftpclient.connection.known_hosts import KnownHosts


class Differences(Listener):
    """Keeps what a check tells, and in which thread."""

    def __init__(self) -> None:
        self.reported: list[tuple[bytes, str]] = []
        self.threads: set[int] = set()

    def found(self, finding: Finding) -> None:
        self.reported.append((finding.path, finding.state))
        self.threads.add(threading.get_ident())


def test_differences_are_reported_in_the_thread_of_the_loop(start_server, tmp_path):
    server = start_server(plaintext=True, durable=False)
    here, there = tmp_path / "d", server.settings.root / "alice" / "d"
    for root in (here, there):
        root.mkdir()
        for name in ("a", "b"):
            (root / name).write_text(str(root.parent.name))
    (there / "c").write_bytes(b"")
    differences = Differences()

    async def check() -> None:
        async with AsyncClient(
            f"alice@127.0.0.1:{server.server_address[1]}",
            password="secret",
            plaintext=True,
            known_hosts=KnownHosts(tmp_path / "known_hosts"),
        ) as client:
            summary = await client.check(here, ":/d", listener=differences)
            assert (summary.differ, summary.only_there, summary.exit_code) == (2, 1, 1)

    asyncio.run(check())
    assert differences.reported == [(b"a", "differs"), (b"b", "differs"), (b"c", "only-there")]
    assert differences.threads == {threading.get_ident()}
