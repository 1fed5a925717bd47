"""A program that uses the public names, for `mypy --strict` (test_typing.py). It is never run."""

from __future__ import annotations

import asyncio
import io
import pickle
from pathlib import Path, PurePosixPath

import ftpclient
from ftpclient import (
    AlreadyExists,
    AsyncClient,
    Client,
    ConnectionLost,
    Entry,
    FtpError,
    Listener,
    NotFound,
    Reader,
    Result,
    Summary,
    SyncOptions,
    SyncSummary,
    Writer,
)
from ftpclient.fsspec import FtpFileSystem
from ftpserver.testing import LocalServer, server


class Log(Listener):
    def finished(self, result: Result) -> None:
        code = 0 if result.error is None else result.error.exit_code
        print(result.status, result.source, code, isinstance(result.error, FtpError))


def read(client: Client) -> bytes:
    whole: bytes = client.read("/a")
    part: bytes = client.read(b"/a", 10, length=5, timeout=3.0)
    with client.open(PurePosixPath("/a")) as reader, client.open("/a", "rb") as again:
        opened: list[Reader] = [reader, again]
        buffered: io.BufferedReader = reader
        size: int = reader.size
        lines: list[bytes] = buffered.readlines()
        text = io.TextIOWrapper(again, "utf-8").read().upper()
    print(opened, size, lines, text)
    return whole + part


def write(client: Client) -> int:
    count: int = client.write("/a", b"abc", overwrite="never", mode=0o600, parents=True)
    count += client.write("/a", memoryview(b"abc"), overwrite=False)
    with client.open("/a", "wb", parents=True) as writer:
        count += writer.write(b"abc")
    for mode in ("xb", "ab"):
        file: Writer = client.open("/a", "xb" if mode == "xb" else "ab", autocommit=False)
        base: io.BufferedIOBase = file
        base.write(bytearray(3))
        file.close()
        file.commit()
    return count


def look(client: Client) -> list[str]:
    entry: Entry | None = client.find("/a")
    name: bytes = b"" if entry is None else entry.name
    answers: list[bool] = [client.exists("/a"), client.is_dir("/a"), client.exists(name)]
    try:
        client.stat("/a")
    except NotFound as error:
        missing: FileNotFoundError = error
        print(missing.filename, error.path)
    except (AlreadyExists, ConnectionLost) as other:
        print(other.exit_code)
    return [str(answer) for answer in answers]


def transfer(client: Client) -> Summary:
    synced: SyncSummary = client.sync(".", ":/", SyncOptions(delete=True), listener=Log())
    one: Result = client.put_file(Path("a"), "/a")
    print(synced.done, one.digest, ftpclient.__version__)
    copy: Client = pickle.loads(pickle.dumps(client))
    return copy.put(["a"], "/", listener=Log())


async def asynchronous() -> None:
    async with AsyncClient("alice@files.example.net", known_hosts="pins") as client:
        await client.write("/a", b"abc", timeout=5)
        data: bytes = await client.read("/a")
        there: bool = await client.exists("/a") and not await client.is_dir("/a")
        print(data, there)


def with_fsspec(there: LocalServer) -> None:
    files = FtpFileSystem(there.address, password=there.password)
    data: bytes = files.cat_file("/a", 0, 10)
    files.pipe_file("/a", data, mode="create")
    print(files.client.user)


def main() -> None:
    with server(quota=1000) as there, Client(known_hosts=there.known_hosts) as client:
        home: Path = there.home
        print(home, read(client), write(client), look(client), transfer(client))
        with_fsspec(there)
    asyncio.run(asynchronous())


if __name__ == "__main__":
    main()
