"""A client of the protocol that shares no code with ours, written from docs/protocol.md alone.

Lives here: connections, all requests, and what a client has to do by itself: compare digests, go on
with what was interrupted, read while it writes. Lives elsewhere: the tests that use it
(tests/ftpserver/test_second_client.py, tests/system/test_second_client.py).

A message is the dict that travels. Nothing here prints, waits for a user, or keeps known keys.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar

import msgspec
from blake3 import blake3

Message = dict[str, Any]
T = TypeVar("T")

REQUEST, REPLY, ERROR, DATA, END, CANCEL, NOTICE = range(1, 8)
MIB = 1024 * 1024
MAGIC = b"FTPW"
MAX_CONTROL = 128 * 1024
MAX_DATA = 4 * MIB
ASK_ABOVE = 4 * MIB
"""Uploads above this ask before they send: only these can be resumed."""
MANY_THINGS, MANY_BYTES, MANY_REPORTED = 1000, 256 * 1024, 64 * 1024
"""Limits of one request of many files: of what it is about, of their bytes, and of itself."""
KEPT_FROM = 4 * MIB
"""The server keeps what came of an interrupted upload if it is so much."""

_HEADER = struct.Struct(">IBI")
_NOT_YET = BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError
_PARTS = {"page", "kept-uploads", "trash-page", "sending", "ready", "not-stored", "sending-files"}
"""Replies after which the final answer is still to come."""


class Failed(Exception):
    """The server refused one request. The session goes on.

    Attributes:
        code: One of the protocol's error codes.
        facts: The message `failed`, with all its fields.
    """

    def __init__(self, facts: Message) -> None:
        super().__init__(f"{facts['code']}: {facts['message']}")
        self.code: str = facts["code"]
        self.facts = facts


class Ended(Failed):
    """The server ended the connection, and said why. Nothing is tried again without being asked."""


class Lost(ConnectionError):
    """The connection is over, and the server said nothing about why. It may be tried again."""


class Untrusted(ConnectionError):
    """The server has another key than the one that was expected."""


class Broken(Exception):
    """The server, or what is between, does not keep to the protocol."""


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """The protocol's digest."""
    return blake3(data).digest()


def fingerprint_of(certificate: bytes) -> str:
    """The fingerprint of the key in a certificate (DER)."""

    def element(at: int) -> tuple[int, int, int]:
        """An element's tag, where its contents begin, and where it ends."""
        length, begin = certificate[at + 1], at + 2
        if length & 0x80:  # so many bytes of length follow
            begin += length & 0x7F
            length = int.from_bytes(certificate[at + 2 : begin], "big")
        return certificate[at], begin, begin + length

    _, outer, _ = element(0)
    _, at, end = element(outer)
    fields = []
    while at < end:
        tag, _, after = element(at)
        if tag != 0xA0:  # the version, which may be absent
            fields.append(certificate[at:after])
        at = after
    key_info = fields[5]  # after serial, signature, issuer, validity and subject
    hashed = base64.b64encode(hashlib.sha256(key_info).digest()).decode()
    return "SHA256:" + hashed.rstrip("=")


def connect_tcp(address: tuple[str, int], fingerprint: str | None) -> socket.socket:
    """Connect with TLS, or, without a fingerprint, in plain text.

    Raises:
        Untrusted: The server's key has another fingerprint.
    """
    sock = socket.create_connection(address, timeout=15)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if fingerprint is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # the key is compared instead
            # An end without close_notify is a cut, not an end.
            wrapped = context.wrap_socket(sock, suppress_ragged_eofs=False)
            sock = wrapped
            certificate = wrapped.getpeercert(binary_form=True)
            if certificate is None or fingerprint_of(certificate) != fingerprint:
                raise Untrusted(f"the server's key is not {fingerprint}")
        return sock
    except BaseException:
        sock.close()
        raise


def connect_unix(path: str) -> socket.socket:
    """Connect to a server on the same machine."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(15)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class SecondClient:
    """One connection: first `hello`, then `log_in` or one of its kin, then the rest.

    Attributes:
        server: The server's HELLO.
        notices: What the server said beside its answers, with the ids that it belongs to.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.server: Message = {}
        self.notices: list[tuple[int, Message]] = []
        self._sock = sock
        self._ids = itertools.count(1)
        self._arrived = bytearray()
        self._answers: dict[int, deque[tuple[int, Any]]] = {}
        self._unanswered: dict[int, int] = {}
        self._unanswered_bytes = 0
        self._uploading = 0
        self._logged_in = False
        self._end: Ended | None = None

    def __enter__(self) -> SecondClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End in order. Answers that did not come yet are lost."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.fileno() != -1:
            with contextlib.suppress(OSError):  # close_notify; the server may be gone already
                self._sock.unwrap()
        self._sock.close()

    def cut(self) -> None:
        """End as a broken wire does."""
        self._sock.close()

    # frames ------------------------------------------------------------------------------

    def write(self, kind: int, request_id: int, payload: bytes) -> None:
        """Send one frame, and take in what arrives meanwhile."""
        self._write(_HEADER.pack(len(payload), kind, request_id) + payload)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[self._sock.send(view) :]
                except _NOT_YET:
                    self._wait(writing=True)
                while self._take_in():
                    pass
        except OSError as error:
            if isinstance(error, Lost):
                raise
            # Perhaps the server said why before it closed.
            while self._take_in():
                pass
            raise Lost(str(error)) from error

    def _wait(self, *, writing: bool = False) -> None:
        """Wait until something arrives, or, when writing, something can be sent.

        Raises:
            Lost: The server gave no sign of life for as long as it promised one.
        """
        # There are no signs of life before log-in, and a refusal may take its time.
        alive = self._logged_in and "alive" in self.server.get("features", ())
        patience = (alive and self.server.get("stall_ms", 0) / 1000) or 300.0
        found = select.select([self._sock], [self._sock] if writing else [], [], patience)
        if not any(found):
            raise Lost(f"no sign of life for {patience} s")

    def pump(self) -> None:
        """Take in what arrives next."""
        if not self._take_in():
            self._wait()

    def _take_in(self) -> bool:
        """Take in what has arrived, and tell whether there was any."""
        if self._end is not None:
            raise self._end
        try:
            chunk = self._sock.recv(256 * 1024)
        except _NOT_YET:
            return False
        except OSError as error:
            raise Lost(str(error)) from error
        if not chunk:
            raise Lost("the server has closed the connection")
        self._arrived += chunk
        while len(self._arrived) >= _HEADER.size:
            length, kind, request_id = _HEADER.unpack_from(self._arrived)
            if length > (MAX_DATA if kind == DATA else MAX_CONTROL):
                raise Broken(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._arrived) < end:
                break
            payload = bytes(memoryview(self._arrived)[_HEADER.size : end])
            del self._arrived[:end]
            self._sort(kind, request_id, payload)
        return True

    def _sort(self, kind: int, request_id: int, payload: bytes) -> None:
        """Put a frame where whoever waits for it looks."""
        if kind == DATA:
            content: Any = payload
        else:
            magic = MAGIC if kind == REPLY and request_id == 0 else b""
            if not payload.startswith(magic):
                raise Broken("not the answer to HELLO")
            content = msgspec.msgpack.decode(payload[len(magic) :])
        if kind == NOTICE:
            self.notices.append((request_id, content))
        elif kind == ERROR and request_id == 0:
            self._end = Ended(content)  # raised once the answers before it are taken
        elif request_id not in self._answers:
            raise Broken(f"an answer to {request_id}, which was not asked")
        else:
            self._answers[request_id].append((kind, content))
            self._logged_in |= kind == REPLY and content["op"] == "logged-in"
            if kind in (ERROR, END) or (kind == REPLY and content["op"] not in _PARTS):
                self._unanswered_bytes -= self._unanswered.pop(request_id)

    def next(self, request_id: int) -> Any:
        """The next part of an answer: a message, or bytes of DATA.

        Raises:
            Failed: It is an ERROR. Of an upload this closes what the server still waits for.
            Ended: The server ended the connection.
            Lost: The connection is over.
        """
        waiting = self._answers[request_id]
        while not waiting:
            self.pump()
        kind, content = waiting.popleft()
        if request_id not in self._unanswered and not waiting:
            del self._answers[request_id]
        if kind == ERROR:
            if self._uploading == request_id:
                self.cancel(request_id)  # every upload is closed, also one that was refused
            raise Failed(content)
        return content

    # requests ----------------------------------------------------------------------------

    def send(self, op: str, /, **fields: Any) -> int:
        """Send a request without waiting, and return its id.

        It waits only to keep within what the server wishes to see unanswered.
        """
        return self.send_raw(msgspec.msgpack.encode({"op": op} | fields))

    def send_raw(self, payload: bytes, *, request_id: int | None = None, more: bytes = b"") -> int:
        """Send a request that is encoded already, and with it what follows it at once."""
        size = len(payload) + len(more)
        while self._unanswered and (
            len(self._unanswered) >= self.server.get("max_requests", 1)
            or self._unanswered_bytes + size > self.server.get("max_unanswered", MIB)
        ):
            self.pump()
        if request_id is None:
            request_id = next(self._ids)
        self._answers[request_id] = deque()
        self._unanswered[request_id] = size
        self._unanswered_bytes += size
        with contextlib.suppress(Ended):  # whoever asks for this answer is told, or for an earlier
            self._write(_HEADER.pack(len(payload), REQUEST, request_id) + payload + more)
        return request_id

    def answer(self, request_id: int) -> Message:
        """The final answer to a request; what comes before it is dropped."""
        while True:
            content = self.next(request_id)
            if request_id not in self._answers:
                assert isinstance(content, dict)
                return content

    def ask(self, op: str, /, **fields: Any) -> Message:
        """Send a request, and wait for its final answer."""
        return self.answer(self.send(op, **fields))

    def cancel(self, request_id: int) -> None:
        """Ask the server to stop a request, or close an upload; its answer still comes."""
        if self._uploading == request_id:
            self._uploading = 0
        self.write(CANCEL, request_id, b"")

    def hello(self, versions: Sequence[int] = (1,), **more: Any) -> Message:
        """Tell the server who this is, and return what it tells."""
        message = {
            "op": "hello",
            "version": min(versions),
            "software": "second-client/1",
            "features": [],
            "max_control": MAX_CONTROL,
            "max_data": MAX_DATA,
            "versions": list(versions),
        }
        self.send_raw(MAGIC + msgspec.msgpack.encode(message | more), request_id=0)
        reported = self.answer(0)
        if reported["op"] != "hello" or reported.get("version", 1) not in versions:
            raise Broken(f"the server speaks another version: {reported}")
        self.server = reported
        return reported

    def log_in(self, user: str, password: str) -> Message:
        """Log in with a password."""
        return self.ask("login", user=user, password=password)

    def log_in_by_token(self, user: str, token: str) -> Message:
        """Log in with what `issue-token` gave."""
        return self.ask("login-token", user=user, token=token)

    def log_in_as_peer(self, user: str) -> Message:
        """Log in as whom the system knows at this end of a Unix socket."""
        return self.ask("login-peer", user=user)

    # listings ----------------------------------------------------------------------------

    def listing(self, path: bytes, **options: Any) -> tuple[dict[bytes, Any], dict[bytes, str]]:
        """The entries of a directory, and the codes of its problems, both by relative path."""
        entries: dict[bytes, Any] = {}
        problems: dict[bytes, str] = {}
        unfinished: bytes | None = None
        request_id = self.send("list", path=path, **options)
        while (page := self.next(request_id))["op"] == "page":
            directory = page.get("directory", b"")
            if unfinished not in (None, directory):
                raise Broken("the pages of a directory are not together")
            unfinished = None if page.get("complete", False) else directory
            for entry in page.get("entries", ()):
                entries[_joined(directory, entry[0])] = entry
            for problem in page.get("problems", ()):
                problems[_joined(directory, problem[0])] = problem[1]
        if unfinished is not None:
            raise Broken("the last page of a directory is missing")
        return entries, problems

    def kept(self) -> list[Any]:
        """The uploads that wait to be gone on with."""
        request_id, found = self.send("list-kept"), []
        while (part := self.next(request_id))["op"] == "kept-uploads":
            found += part.get("uploads", ())
        return found

    # downloads ---------------------------------------------------------------------------

    def trash(self, **options: Any) -> tuple[list[Any], list[Any]]:
        """What is in the trash: its operations, or the items that were asked for."""
        request_id = self.send("list-trash", **options)
        operations: list[Any] = []
        items: list[Any] = []
        while (message := self.next(request_id))["op"] == "trash-page":
            operations += message.get("operations", ())
            items += message.get("items", ())
        return operations, items

    def get(
        self,
        path: bytes,
        into: bytearray | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> bytearray:
        """Download a file, or what is missing after the beginning that is there already.

        Where the connection is lost, what came stays in ``into``, and the same call on another
        connection goes on.

        Args:
            progress: Called with the number of bytes that are there, now and then.

        Raises:
            Broken: The bytes are not those that the server meant to send, or it cannot tell.
        """
        into = bytearray() if into is None else into
        prefix = digest_of(into) if into else None
        request_id = self.send("get", path=path, offset=len(into), prefix=prefix)
        sent = self.receive(request_id, into, progress)[1]
        if (sent["size"], sent.get("digest")) != (len(into), digest_of(into)):
            raise Broken("the bytes are not those of the file")
        return into

    def receive(
        self,
        request_id: int,
        into: bytearray,
        progress: Callable[[int], None] = lambda done: None,
    ) -> tuple[Message, Message]:
        """Take the bytes that answer a `get`; returns `sending` and `sent`."""
        before = len(into)
        sending = self.next(request_id)
        if before and sending.get("offset", 0) == 0:  # the file begins differently
            before = 0
            into.clear()
        try:
            while isinstance(part := self.next(request_id), bytes):
                into += part
                progress(len(into))
        except Failed:
            del into[before:]  # void
            raise
        return sending, part

    def get_range(self, path: bytes, offset: int, length: int) -> tuple[bytes, Message]:
        """A part of a file, which nobody has compared with anything; and `sending`."""
        part = bytearray()
        request_id = self.send("get", path=path, offset=offset, length=length)
        sending, _ = self.receive(request_id, part)
        return bytes(part), sending

    # uploads -----------------------------------------------------------------------------

    def send_small(self, path: bytes, data: bytes, **fields: Any) -> int:
        """Upload a small file without waiting; returns the id of the `put`."""
        request = {"op": "put", "path": path, "size": len(data)} | fields
        return self.send_upload(request, data, digest_of(data))

    def send_upload(self, request: Message, data: bytes, digest: bytes | None) -> int:
        """Send a request with its DATA and END at once, and return its id."""
        request_id = next(self._ids)
        end = msgspec.msgpack.encode({"op": "sent", "size": len(data), "digest": digest})
        most = self.server["max_data"]
        frames = [(DATA, data[at : at + most]) for at in range(0, len(data), most)]
        more = b"".join(
            _HEADER.pack(len(payload), kind, request_id) + payload
            for kind, payload in [*frames, (END, end)]
        )
        return self.send_raw(msgspec.msgpack.encode(request), request_id=request_id, more=more)

    def put(
        self, path: bytes, source: BinaryIO | bytes, *, size: int | None = None, **fields: Any
    ) -> int:
        """Upload a large file, or one of unknown size; return where the bytes began.

        What the server has of an earlier try is gone on with, if the source still begins so.
        """
        if isinstance(source, bytes):
            size = len(source)
            source = io.BytesIO(source)
        request_id, ready = self.begin_put(path, size=size, **fields)
        offset: int = ready.get("offset", 0)
        hasher, done = blake3(), 0
        while done < offset and (chunk := source.read(min(MIB, offset - done))):
            hasher.update(chunk)
            done += len(chunk)
        if offset and hasher.digest() != ready["digest"]:
            self.cancel(request_id)
            try:
                self.answer(request_id)
            except Failed as failed:
                if failed.code != "cancelled":
                    raise
            source.seek(0)
            return self.put(path, source, size=size, **(fields | {"resume": False}))
        while chunk := source.read(self.server["max_data"]):
            self.write(DATA, request_id, chunk)
            hasher.update(chunk)
            done += len(chunk)
            if self._answers[request_id]:  # a refusal: the rest need not be sent
                self.answer(request_id)
        self.finish_put(request_id, done, hasher.digest())
        return offset

    def begin_put(self, path: bytes, **fields: Any) -> tuple[int, Message]:
        """Ask for an upload; returns its id, and `ready`."""
        request_id = self.send("put", path=path, ask=True, **fields)
        self._uploading = request_id
        return request_id, self.next(request_id)

    def finish_put(self, request_id: int, size: int, digest: bytes | None) -> Message:
        """Close an upload, and wait until it is stored."""
        self._uploading = 0
        sent = {"op": "sent", "size": size, "digest": digest}
        self.write(END, request_id, msgspec.msgpack.encode(sent))
        return self.answer(request_id)

    # many small files --------------------------------------------------------------------

    @property
    def takes_many(self) -> bool:
        """Whether many small files may go in one request."""
        return "many-files" in self.server["features"]

    def put_many(
        self,
        files: dict[bytes, bytes],
        directories: dict[bytes, int] | None = None,
        *,
        mode: int = 0o644,
        mtime_ns: int = 0,
        **fields: Any,
    ) -> dict[bytes, str]:
        """Store small files, and make directories for them before.

        A server that takes files one by one gets them so.

        Args:
            files: What is in each, by its path.
            directories: Their modes, by their paths, in the order in which they are to be made.
            mode, mtime_ns: Of all files; directories get the time as well, when they are filled.

        Returns:
            The codes of what failed, by path.
        """
        directories = directories or {}
        if not self.takes_many:
            return self._put_each(files, directories, mode, mtime_ns, fields)
        things = [(path, b"", b"", made) for path, made in directories.items()]
        for path, data in files.items():
            above, _, name = path.rpartition(b"/")
            things.append((above or b"/", name, data, None))
        ends = [[path, made, mtime_ns] for path, made in reversed(directories.items())]
        requested = []
        for group in _groups(things):
            requested.append(self._send_many(group, [], mode, mtime_ns, fields))
        for at in range(0, len(ends), 100):
            requested.append(self._send_many([], ends[at : at + 100], mode, mtime_ns, fields))
        failed: dict[bytes, str] = {}
        for request_id, paths in requested:
            failed |= self._many_failed(request_id, paths)
        return failed

    def _send_many(
        self,
        group: Sequence[tuple[bytes, bytes, bytes, int | None]],
        ends: list[Any],
        mode: int,
        mtime_ns: int,
        fields: Message,
    ) -> tuple[int, list[bytes]]:
        """Send a `put-files`; returns its id, and the paths that its indexes mean."""
        reported: list[list[Any]] = []
        paths: list[bytes] = []
        for above, name, data, made in group:
            if not reported or not name or reported[-1][0] != above:
                reported.append([above, [], made])
                paths.append(above)
            if name:
                reported[-1][1].append([name, len(data), mode, mtime_ns, digest_of(data)])
                paths.append(above.rstrip(b"/") + b"/" + name)
        paths += [path for path, _, _ in ends]
        request = {"op": "put-files", "directories": reported, "finished": ends} | fields
        whole = b"".join(data for _, _, data, _ in group)
        return self.send_upload(request, whole, None), paths

    def _many_failed(self, request_id: int, paths: Sequence[bytes]) -> dict[bytes, str]:
        """Wait for the answer to a `put-files`; returns the codes of what failed."""
        failed: dict[bytes, str] = {}
        count, before = 0, -1
        while (message := self.next(request_id))["op"] == "not-stored":
            for index, code, *_ in message["failures"]:
                if index <= before:
                    raise Broken("the indexes of what failed are not in order")
                before = index
                count += 1
                failed[paths[index]] = code
        if message["done"] + count != len(paths):
            raise Broken(f"{message['done']} done and {count} failed of {len(paths)}")
        return failed

    def _put_each(
        self,
        files: dict[bytes, bytes],
        directories: dict[bytes, int],
        mode: int,
        mtime_ns: int,
        fields: Message,
    ) -> dict[bytes, str]:
        made = [
            (path, self.send("make-dir", path=path, mode=its, parents=True, fill=True))
            for path, its in directories.items()
        ]
        stored = [
            (path, self.send_small(path, data, mode=mode, mtime_ns=mtime_ns, **fields))
            for path, data in files.items()
        ]
        filled = [
            (path, self.send("set-attributes", path=path, mode=its, mtime_ns=mtime_ns))
            for path, its in reversed(directories.items())
        ]
        failed: dict[bytes, str] = {}
        for path, request_id in (*made, *stored, *filled):
            try:
                self.answer(request_id)
            except Ended:
                raise
            except Failed as error:
                failed[path] = error.code
        return failed

    def get_many(self, sizes: dict[bytes, int]) -> dict[bytes, bytes]:
        """Download files, by their paths, that were listed with these sizes.

        Raises:
            Failed: One of them cannot be sent.
        """
        large = [path for path, size in sizes.items() if size > MANY_BYTES or not self.takes_many]
        small = []
        for path in sizes.keys() - set(large):
            above, _, name = path.rpartition(b"/")
            small.append((above or b"/", name, bytes(sizes[path]), None))
        groups = _groups(sorted(small))
        requested = [self._ask_many(group) for group in groups]
        got: dict[bytes, bytes] = {}
        missing = set(large)
        for request_id, paths in requested:
            for path, data in zip(paths, self._receive_many(request_id, paths, sizes), strict=True):
                if data is None:
                    missing.add(path)  # only `get` tells why
                else:
                    got[path] = data
        for path in missing:
            got[path] = bytes(self.get(path))
        return got

    def _ask_many(
        self, group: Sequence[tuple[bytes, bytes, bytes, int | None]]
    ) -> tuple[int, list[bytes]]:
        reported: list[list[Any]] = []
        for above, name, data, _ in group:
            if not reported or reported[-1][0] != above:
                reported.append([above, []])
            reported[-1][1].append([name, len(data)])
        paths = [above.rstrip(b"/") + b"/" + name for above, name, _, _ in group]
        return self.send("get-files", directories=reported), paths

    def _receive_many(
        self, request_id: int, paths: Sequence[bytes], sizes: dict[bytes, int]
    ) -> list[bytes | None]:
        reported: list[Any] = []
        whole = bytearray()
        while True:
            part = self.next(request_id)
            if isinstance(part, bytes):
                whole += part
            elif part["op"] == "sending-files" and not whole:
                reported += part["files"]
            else:
                break
        if part["op"] != "sent" or part["size"] != len(whole) or len(reported) != len(paths):
            raise Broken(f"no answer to {len(paths)} files: {part}")
        found: list[bytes | None] = []
        at = 0
        for path, its in zip(paths, reported, strict=True):
            if its is None:
                found.append(None)
                continue
            data = bytes(whole[at : at + sizes[path]])
            at += sizes[path]
            if digest_of(data) != its[2]:
                raise Broken(f"{path!r} has not the bytes that were meant")
            found.append(data)
        if at != len(whole):
            raise Broken(f"{len(whole)} bytes of {at}")
        return found


def _groups(
    things: Sequence[tuple[bytes, bytes, bytes, int | None]],
) -> list[list[tuple[bytes, bytes, bytes, int | None]]]:
    """Cut a list of directory, name and bytes into what one request of many files may have."""
    groups: list[list[tuple[bytes, bytes, bytes, int | None]]] = [[]]
    count = reported = size = 0
    for thing in things:
        above, name, data, _ = thing
        needs = len(above) + len(name) + 80  # in the request, at most
        full = (
            count + 2 > MANY_THINGS
            or reported + needs > MANY_REPORTED
            or size + len(data) > MANY_BYTES
        )
        if full and groups[-1]:
            groups.append([])
            count = reported = size = 0
        groups[-1].append(thing)
        count += 2  # with its directory
        reported += needs
        size += len(data)
    return groups if groups[-1] else []


# over several connections ----------------------------------------------------------------


def put_in_pieces(
    owner: SecondClient,
    carriers: Sequence[SecondClient],
    path: bytes,
    data: bytes,
    piece: int,
    **fields: Any,
) -> int:
    """Upload a file in pieces over other connections; return where the first piece began."""
    request_id, ready = owner.begin_put(path, size=len(data), pieces=True, **fields)
    key, offset = ready.get("key"), int(ready.get("offset", 0))
    if key is None or digest_of(data[:offset]) != ready.get("digest", digest_of(b"")):
        raise Broken(f"no upload in pieces: {ready}")
    under_way = []
    for begin, carrier in zip(range(offset, len(data), piece), itertools.cycle(carriers)):
        part = data[begin : begin + piece]
        request = {"op": "put-piece", "key": key, "offset": begin, "size": len(part)}
        under_way.append((carrier, carrier.send_upload(request, part, None)))
        owner.write(DATA, request_id, b"")  # that it is still there
    for carrier, piece_id in under_way:
        carrier.answer(piece_id)
    owner.finish_put(request_id, len(data), digest_of(data))
    return offset


def get_in_ranges(clients: Sequence[SecondClient], path: bytes, piece: int) -> bytearray:
    """Download one file over several connections.

    Raises:
        Broken: It changed meanwhile, or the bytes are not those of the file.
    """
    _, reported = clients[0].get_range(path, 0, 0)
    under_way = [
        (client, client.send("get", path=path, offset=begin, length=piece))
        for begin, client in zip(range(0, reported["size"], piece), itertools.cycle(clients))
    ]
    whole = bytearray()
    for client, request_id in under_way:
        part = bytearray()
        sending, _ = client.receive(request_id, part)
        if any(sending[name] != reported[name] for name in ("size", "mtime_ns")):
            raise Broken("the file was changed")
        whole += part
    if clients[0].ask("hash", path=path)["digest"] != digest_of(whole):
        raise Broken("the bytes are not those of the file")
    return whole


def persistently(
    connect: Callable[[], SecondClient],
    do: Callable[[SecondClient], T],
    pauses: Sequence[float] = (0, 1, 2, 4),
) -> T:
    """Do it on a new connection as often as connections are lost.

    Raises:
        Lost: After the last pause, too.
        Failed: The server refused: of this, nothing is tried again.
    """
    for pause in pauses:
        try:
            with connect() as client:
                return do(client)
        except Lost:
            time.sleep(pause)
    with connect() as client:
        return do(client)


def _joined(directory: bytes, name: bytes) -> bytes:
    return b"/".join(part for part in (directory, name) if part)
