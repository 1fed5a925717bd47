"""Remote files from Python, in each way of serving."""

from __future__ import annotations

import os

import pytest

from ftpclient import Client

SMALL, LARGE = 10, 6_000_000


@pytest.mark.telling
def test_files_are_written_and_read(server, alice, tmp_path):
    home = server.home()
    client = Client(
        f"{alice.name}@{server.reached}",
        password=alice.password,
        plaintext=server.plaintext,
        accept_new=True,
        known_hosts=tmp_path / "hosts",
    )
    with client:
        for size in (SMALL, LARGE):
            with client.open("/a", "wb") as file:
                file.write(b"x" * size)
            with client.open("/a", "ab") as file:
                file.write(b"y" * size)
            assert (home / "a").read_bytes() == b"x" * size + b"y" * size
            with client.open("/a") as file:
                file.seek(size - 2)
                assert file.read(4) == b"xxyy"
                file.seek(0)
                assert file.read() == client.read("/a") == b"x" * size + b"y" * size
            assert client.write("/b", b"z" * size) == size
            with pytest.raises(FileExistsError):
                client.open("/b", "xb")
            with pytest.raises(ZeroDivisionError), client.open("/c", "xb") as file:
                file.write(bytes(size))
                _ = 1 // 0
            assert not client.exists("/c")
        assert client.space().held == 0
    assert set(os.listdir(home)) - {".ftpd-staging", ".ftpd-trash"} == {"a", "b"}
