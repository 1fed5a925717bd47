"""One client's requests and replies, as frames on its connection.

Lives here: what handlers use to receive and send bytes, to report progress and to notice a cancel;
and the replies to a batch of changes, when it is committed.
Lives elsewhere: which request does what (commands/), what happens to files (workspace/), the
session's life and its dispatch (session.py), framing (ftpwire/frames.py).

No handler reads frames itself. Replies come in the order of the requests; those to small changes
wait for their batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftpserver.serving.endings import Idle
from ftpserver.serving.keep_alive import ChannelGuard, DiskSink, FileSink
from ftpserver.serving.not_stored import not_stored
from ftpserver.serving.repeats import Repeats
from ftpserver.serving.running_transfer import LONG, SHORT
from ftpserver.storage.file_run import FilesOutcome
from ftpserver.storage.open_home import TURN_FILES
from ftpwire import frames, messages
from ftpwire.channel import Channel, Ready, TimedOut
from ftpwire.errors import BadMessage, BadRequest, Cancelled, ConnectionLost, VerificationFailed
from ftpwire.frame_stream import FrameStream
from ftpwire.frames import Header, Kind
from ftpwire.messages import Failed, Hole, Message, Sent
from ftpwire.units import human

if TYPE_CHECKING:
    from ftpserver.audit.context import AuditContext
    from ftpserver.serving.context import SessionContext
    from ftpserver.serving.running_transfer import RunningTransfer
    from ftpserver.storage.quota import Settled
    from ftpserver.workspace.workspace import Workspace

DATA_SIZE = 1024 * 1024
"""Bytes of the DATA frames that this server sends."""
_CANCEL_EVERY = 4 * 1024 * 1024
"""Bytes of long work between two checks for a CANCEL."""
_LOOK_SECONDS = 3.0
"""Seconds between two checks that this session still owns the upload of its silent client."""
_PROGRESS_SECONDS = 1.0
"""Seconds between notices about long work."""
_COPIED = 32 * 1024
"""Bytes below which a DATA frame is copied to the output, and sent with what follows."""
_HASHED_A_SECOND = 1024 * 1024
"""Bytes that the slowest client hashes per second before it continues an upload behind them."""
_ZEROS_A_SECOND = 64 * 1024 * 1024
"""The same for the zeros of holes, which the client need not read."""
_HASHES_SECONDS = 3600.0
"""Most seconds that the server waits for a client that hashes holes."""
_LOOKED_AT = 64 * 1024
"""Bytes of input that may be buffered when it is searched for a CANCEL."""


class Exchange:
    """The frames of one connection. For the session's thread.

    Args:
        login_deadline: The time, on ``time.monotonic()``, after which a client that hasn't logged
            in is no longer waited for.

    Attributes:
        request_id: The id of the request that is handled.
        file_size, data_size: Most bytes of a DATA frame that the client takes: sent straight from a
            file, and through memory.
        page_size: Most bytes of a control frame that it takes.
        guard: Says which thread may use the channel.
        repeats: Its numbered requests.
        receiving: True while DATA frames of the current request are still to come.
        sent: The client's END of its last upload.
        workspace: The files of the account that is logged in; None before.
        on_long_wait: Called when the running transfer waits long for its client, to release what
            can be had again.
        is_reading: True if the current request only reads a file, which is open.
        has_warned: True once the client knows that the server stops. Changed by the thread that has
            the guard.
    """

    request_id = 0
    file_size = data_size = page_size = 1024
    receiving = False
    sent: Sent
    workspace: Workspace | None = None
    on_long_wait: Callable[[], None] | None = None
    _look: Callable[[], None] | None = None
    is_reading = False
    has_warned = False
    _amid_data = False
    """True while a DATA frame is announced and not all of it was written: nothing may follow."""
    _warns = False
    """True if the notice that the server stops is to be sent as soon as that frame has ended."""
    _since_look = 0
    _hashes_until = 0.0
    """The time, on ``time.monotonic()``, until which the client may be hashing holes."""
    _nearly_full = False
    _reached = 0, messages.Progress(0)
    """A request id, and the last progress of that request."""

    def __init__(
        self,
        server: SessionContext,
        channel: Channel,
        transfer: RunningTransfer,
        audit_context: AuditContext,
        login_deadline: float,
    ) -> None:
        self.channel = channel
        self.guard = ChannelGuard()
        self.stream = FrameStream(channel, self._patience, self.stall, self._await_peer)
        self.login_deadline = login_deadline
        self._server = server
        self._transfer = transfer
        self._audit_context = audit_context
        self.repeats = Repeats(self, audit_context, server.ledger)

    def begin(self, request_id: int) -> None:
        """Begin a request: what follows is about it. Its id may be that of an earlier one."""
        self.request_id = request_id
        self._reached = request_id, messages.Progress(0)

    # sending -----------------------------------------------------------------------------

    @property
    def can_send_files(self) -> bool:
        """True if `send_file` is possible, and faster than reading the file and sending that.

        To a client on the same machine it is slower: nothing has brought the bytes into a
        processor's cache, so the client itself waits for the memory while it copies them, besides
        hashing and writing. A sixth more time for a large file, with two processors.
        """
        return self.channel.tls is None and not self.channel.is_local

    def send(self, message: Message, kind: Kind = Kind.REPLY) -> None:
        """Send a frame of the current request. Flushes when much is queued."""
        payload = messages.encode(message)
        with self.guard:
            self.channel.queue(frames.pack_header(len(payload), kind, self.request_id), payload)
            if self.channel.output_full:
                self.flush()

    def send_data(self, data: memoryview) -> None:
        """Send a DATA frame, straight from the caller's buffer when it is large.

        Raises:
            Cancelled: The client doesn't want more of it.
        """
        size = len(data)
        with self.guard:
            self._send_data(data)
        self.progressed(size)

    def _send_data(self, data: memoryview) -> None:
        channel, size = self.channel, len(data)
        channel.queue(frames.pack_header(size, Kind.DATA, self.request_id))
        if size < _COPIED:
            channel.queue(data)
            if channel.output_full:
                self.flush()
            return
        steady = self.stream.steady()
        # If this is left by an error, it stays True: no frame may follow half a frame.
        self._amid_data = True
        while data:
            sent = channel.try_send(data)
            if sent:
                data = data[sent:]
            else:
                steady.wait(write=True)
        self._amid_data = False

    def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send bytes of a file as DATA frames, without copying them. Only without TLS.

        Raises:
            Cancelled: The client doesn't want more of it.
            ConnectionLost: The file became shorter: the frame that was announced cannot be filled.
        """
        end = offset + count
        while offset < end:
            size = min(end - offset, self.file_size)
            with self.guard:  # the frame stays open while the disk is read: no notice may interrupt
                self._send_file(fd, offset, offset + size)
            offset += size
            self.progressed(size)

    def _send_file(self, fd: int, offset: int, stop: int) -> None:
        channel = self.channel
        channel.queue(frames.pack_header(stop - offset, Kind.DATA, self.request_id))
        steady = self.stream.steady()
        self._amid_data = True
        while offset < stop:
            try:
                sent = channel.try_send_file(fd, offset, stop - offset)
            except EOFError:
                raise ConnectionLost("a file became shorter while it was sent") from None
            except OSError as error:  # a failing disk: the frame cannot be filled either
                raise ConnectionLost(f"a file cannot be read: {error}") from None
            offset += sent
            if not sent:
                steady.wait(write=True)
        self._amid_data = False

    def send_hole(self, size: int) -> None:
        """Send a hole in the place of DATA.

        Raises:
            Cancelled: The client doesn't want more of it.
        """
        self.send(messages.Hole(size), Kind.NOTICE)
        now = time.monotonic()
        until = max(self._hashes_until, now) + size / _ZEROS_A_SECOND
        self._hashes_until = min(until, now + _HASHES_SECONDS)
        if size >= _CANCEL_EVERY:  # the client can begin to hash it, and sees a sign of life
            self.flush()
        self.progressed(size)

    def flush(self) -> None:
        """Send all output. Waits for the client until it has stalled."""
        deadline = None
        with self.guard:
            while not self.channel.try_flush():
                if deadline is None:
                    deadline = self.stall()
                self._await_peer(write=True, deadline=deadline)

    # progress, notices, records of the audit log -----------------------------------------

    def progressed(self, count: int) -> None:
        """Note ``count`` bytes of long work. Checks for a CANCEL now and then.

        Raises:
            Cancelled: The client has sent one.
            SessionEnded: The session was asked to end.
        """
        if self.channel.ended is not None:
            raise self.channel.ended
        if self._warns:
            self.warn()
        self._server.pass_turn()
        self._since_look += count
        if self._since_look >= _CANCEL_EVERY:
            self._since_look = 0
            if self._server.stopping:
                self.warn()
            self.look_for_cancel()

    def look_for_cancel(self) -> None:
        """Check whether the client has cancelled the current request, without blocking.

        Raises:
            Cancelled: It has.
        """
        reader = self.stream.reader
        if reader.buffered < _LOOKED_AT:
            with self.guard:
                self.channel.fill(reader)
        if reader.has_cancel(self.request_id):
            raise Cancelled("cancelled")

    def notice(self, message: Message) -> None:
        """Send a notice about long work at once."""
        self.send(message, Kind.NOTICE)
        self.flush()

    def progress_reporter(self, total: int | None) -> Callable[[int], None]:
        """Return a function to call with the bytes done in long work: it sends notices at times."""
        sent = time.monotonic()

        def report(done: int) -> None:
            nonlocal sent
            progress = messages.Progress(done, total)
            self._reached = self.request_id, progress
            now = time.monotonic()
            if now - sent >= _PROGRESS_SECONDS:
                sent = now
                self.notice(progress)

        return report

    def remark(self, text: str) -> None:
        """Send the client a remark for its user."""
        current, self.request_id = self.request_id, 0
        self.send(messages.Remark(text), Kind.NOTICE)
        self.request_id = current

    def warn(self) -> None:
        """Tell the client once, between two frames, that the server stops.

        What the client has begun may go on for the grace time; then it is cut off.
        """
        self._warns = True
        with self.guard:
            if self.has_warned or self._amid_data:
                return
            self.has_warned, self._warns = True, False
            notice = frames.frame(Kind.NOTICE, 0, messages.encode(messages.GoingDown()))
            if not self.channel.interject(notice):
                self.channel.queue(notice)  # after what the client hasn't taken yet

    def has_removed(self, files: int, size: int) -> None:
        """Record in the audit log what a failing request has removed."""
        if files:
            self._audit_context.removed(files, size)

    def has_received(self, size: int) -> None:
        """Record in the audit log how many bytes of a failing upload have arrived."""
        self._audit_context.received(size)

    def sends_files(self, sent: Sequence[messages.SentFile | None]) -> None:
        """Record each file of a reply to `GetFiles` in the audit log, once all of them are sent."""
        self._audit_context.sends_files(sent)

    def evicted(self, size: int, operations: Sequence[str]) -> None:
        """Record in the audit log that ``size`` bytes of the trash were purged to free space."""
        self._audit_context.evicted(size, operations)

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """Record in the audit log how much a tree in the trash holds, now that it is counted."""
        self._audit_context.measured(operation, path, size, files)

    # transfers ---------------------------------------------------------------------------

    def transferring(self, size: int | None, *, sends: bool = False) -> None:
        """Announce that the current request moves ``size`` bytes; None if the size is unknown.

        A long transfer counts as a running one at once, any other as soon as it waits for its
        client: so most small ones cost no request to another process. It counts until the session
        does something else, or waits for a request.

        Args:
            sends: True if the bytes go to the client, which receives them slowly at first.

        Raises:
            TooMany: The account has as many transfers as it may have.
        """
        if size is None or size > LONG:
            self.will_block()  # most of it is done outside of Python's lock
            self._transfer.begin()
            if sends:
                self.channel.start_slowly()

    def _await_peer(
        self, *, read: bool = False, write: bool = False, deadline: float | None = None
    ) -> Ready:
        """Wait as `Channel.wait` does. After a while a request that moves bytes counts as a running
        transfer, and releases what it doesn't need meanwhile."""
        soon = time.monotonic() + SHORT
        if self._transfer.moves_bytes and (deadline is None or soon < deadline):
            try:
                return self.channel.wait(read=read, write=write, deadline=soon)
            except TimedOut:
                self._transfer.begin_waiting(in_frame=write)
                self._hold_little()
        while self._look is not None and not write:
            soon = time.monotonic() + _LOOK_SECONDS
            if deadline is not None and deadline <= soon:
                break
            try:
                return self.channel.wait(read=read, write=write, deadline=soon)
            except TimedOut:
                with self.guard.away():
                    self._look()
        return self.channel.wait(read=read, write=write, deadline=deadline)

    def _hold_little(self) -> None:
        if self.on_long_wait is not None:
            self.on_long_wait()
        if self.is_reading and self.workspace is not None and self.workspace.tree is None:
            self.workspace.go_idle()  # the file itself stays open

    # receiving ---------------------------------------------------------------------------

    def stall(self) -> float:
        """Return the time by which a client in the middle of something has to go on."""
        return min(time.monotonic() + self._patience(), self.login_deadline)

    def _patience(self) -> float:
        """Return the seconds that a client may take: more while it has holes to hash."""
        stall = self._server.settings.stall
        if self._hashes_until:
            stall += max(0.0, self._hashes_until - time.monotonic())
        return stall

    def receive_small(self, size: int) -> tuple[bytearray, Sent]:
        """Receive all DATA of the current upload into memory: at most ``size`` bytes.

        Raises:
            VerificationFailed: More came.
            Cancelled: The client has cancelled it.
        """
        data, transfer = bytearray(), self._transfer
        transfer.await_bytes()
        try:
            with self.guard:
                while (header := self._next_data()) is not None:
                    transfer.frame_came(header.size)
                    if len(data) + header.size > size:
                        raise VerificationFailed(f"more bytes came than the {size} announced")
                    if isinstance(header, Hole):
                        data += bytes(header.size)
                    else:
                        self.stream.append_to(data)
        except BaseException:
            self.has_received(len(data))
            raise
        self.take_turn()  # it was lost if the thread waited for the client
        return data, self.sent

    def receive_large(
        self,
        sink: FileSink,
        expect: Callable[[int], None],
        came: Callable[[], bool] | None = None,
        look: Callable[[], None] | None = None,
        *,
        after: int = 0,
    ) -> Sent:
        """Receive all DATA of the current upload, straight into the sink's buffers.

        Args:
            expect: Called with the size of each frame before its bytes come; raises to refuse it.
            came: Returns whether bytes came another way since its last call.
            look: Called now and then while the client is waited for; raises to end the upload.
            after: The bytes that are there already: the client hashes its own copy of them before
                it sends anything.
        """
        sink, transfer = DiskSink(sink, self.guard), self._transfer
        self.on_long_wait, self._look = sink.go_idle, look
        transfer.await_bytes()
        try:
            with self.guard:
                header = self._first_data(after, came)
                while header is not None:
                    transfer.frame_came(header.size, came)
                    with self.guard.away():
                        expect(header.size)
                    if isinstance(header, Hole):
                        sink.hole(header.size)
                        self.progressed(header.size)  # a CANCEL may follow after many holes
                    else:
                        self.stream.into(sink)
                    header = self._next_data(exactly=True)
        finally:
            self.on_long_wait = self._look = None  # the file may be closed at the next wait
        return self.sent

    def _first_data(self, after: int, came: Callable[[], bool] | None) -> Header | Hole | None:
        """As `_next_data`, for the first frame: the client may first hash the bytes that are there.

        Meanwhile the transfer makes way for others, as one that sends only empty frames does.

        Raises:
            Idle: The client took longer than the idle timeout.
        """
        needed = after / _HASHED_A_SECOND
        if needed <= self._server.settings.stall:
            return self._next_data(exactly=True)
        look = self._look

        def waited() -> None:
            self._transfer.waits(came)
            if look is not None:
                look()

        self._look = waited
        try:
            return self._hashed_data(needed)
        finally:
            self._look = look

    def _hashed_data(self, needed: float) -> Header | Hole | None:
        """As `_next_data`, waiting ``needed`` seconds, but not beyond the idle timeout."""
        settings = self._server.settings
        idle, now = settings.idle_timeout, time.monotonic()
        if not idle or needed <= idle:
            return self._next_data(exactly=True, deadline=now + needed)
        try:
            return self._next_data(exactly=True, deadline=now + max(idle, settings.stall))
        except TimedOut:
            raise Idle(f"no bytes came for {idle:g} seconds") from None

    def _next_data(
        self, exactly: bool = False, deadline: float | None = None
    ) -> Header | Hole | None:
        """Receive the header of the upload's next DATA frame, or the hole instead of it. Returns
        None after its END, which is kept in ``sent``."""
        header = self.stream.header(deadline, exactly=exactly)
        while header.kind == Kind.CANCEL and header.request_id != self.request_id:
            if deadline is None:
                deadline = self.stall()  # for all of them
            self.stream.payload(header, deadline)  # its reply waits, or was sent
            header = self.stream.header(deadline, exactly=exactly)
        if header.request_id != self.request_id:
            raise BadMessage("another request inside an upload")
        if header.kind == Kind.DATA:
            return header
        payload = self.stream.payload(header)
        if header.kind == Kind.NOTICE:
            return messages.decode_hole(payload)
        if header.kind not in (Kind.END, Kind.CANCEL):
            raise BadMessage(f"a frame of kind {header.kind} inside an upload")
        self.receiving = False
        if header.kind == Kind.CANCEL:
            raise Cancelled("cancelled")
        self.sent = messages.decode_sent(payload)
        return None

    def pass_over_data(self) -> None:
        """Discard the DATA of a refused upload, so that the stream stays in step.

        Empty DATA frames and holes don't extend the deadline: there is no upload that they could
        keep open. Nor does this count as a running transfer, whose slot others would wait for.
        """
        self._transfer.end()
        self.commit()
        self.flush()  # the client may wait for the refusal before it stops
        deadline = self.stall()
        self.receiving = True  # also for a request that is unknown here
        with self.guard:
            while self.receiving:
                if self.stream.reader.remaining:
                    self.stream.discard()
                    deadline = self.stall()
                try:
                    self._next_data(deadline=deadline)
                except (Cancelled, BadRequest):  # an invalid END or hole is discarded as well
                    pass

    # answering ---------------------------------------------------------------------------

    def answer(self, reply: Message, kind: Kind) -> None:
        """Answer the current request in its turn: with the batch, if replies wait in it."""
        batch = None if self.workspace is None else self.workspace.batch
        if batch is not None and batch.pending:
            # An END closes a stream whose frames go out now; any other reply keeps its position.
            if kind is not Kind.END:
                batch.add_outcome(self.request_id, reply)
                self.joined()
                return
            self.commit()
        # First the record, then the stored answer, then the reply: what a client has received can
        # always be repeated, and is in the audit log.
        self._audit_context.answered(reply)
        self.repeats.answered(self.workspace, reply)
        self.send(reply, kind)

    def joined(self, digest: bytes | None = None) -> None:
        """Note that the current request is answered with its batch.

        Args:
            digest: The digest of the bytes that came with it.
        """
        self._audit_context.joined(digest)
        self.repeats.joined(self.request_id)

    def commit(self) -> None:
        """Commit the changes in the batch, and send their replies."""
        workspace = self.workspace
        batch = None if workspace is None else workspace.batch
        if workspace is None or batch is None or not batch.pending:
            return
        current = self.request_id
        with self.guard.away():
            outcomes = workspace.commit()
            self.take_turn()
            self._audit_context.committed(outcomes)
            self.repeats.committed(workspace, outcomes)
        # The replies come last: a client that has received them may leave.
        if batch.settled is not None and batch.settled.quota is not None:
            self._warn_of_little_space(batch.settled)
        while batch.remarks:
            self.remark(batch.remarks.pop())
        for number, (request_id, outcome) in enumerate(outcomes):
            if not number % TURN_FILES:
                self.take_turn()
            self.request_id = request_id
            if isinstance(outcome, FilesOutcome):
                for page in not_stored(outcome.failures, outcome.paths, self.page_size):
                    self.send(page)
                done = outcome.total - len(outcome.failures)
                self.send(messages.FilesStored(done), Kind.END)
            else:
                self.send(outcome, Kind.ERROR if isinstance(outcome, Failed) else Kind.REPLY)
        self.request_id = current

    def commit_late(self) -> None:
        """Commit the batch without replies: the client is gone, and need not send it again."""
        if self.workspace is not None:
            self.will_block()
            outcomes = self.workspace.commit(late=True)
            self._audit_context.committed(outcomes)
            self.repeats.committed(self.workspace, outcomes)

    def _warn_of_little_space(self, settled: Settled) -> None:
        """Tell the client when its quota is nearly used up; again only after it was not."""
        before, self._nearly_full = self._nearly_full, settled.nearly_full
        if self._nearly_full and not before:
            self.remark(f"{human(settled.used)} of {human(settled.quota or 0)} are used")

    def take_turn(self) -> None:
        """Take the turn for a small step, so that no other thread gets in its way."""
        self._server.take_turn()

    def will_block(self) -> None:
        """Announce that the next step waits for the disk, or takes long."""
        self._server.will_block()

    def has_logged_in(self, workspace: Workspace) -> None:
        """Allow larger frames, and end the log-in deadline."""
        self.workspace = workspace
        self.login_deadline = math.inf
        self.stream.reader.allow(frames.MAX_CONTROL, frames.MAX_DATA)

    # signs of life, from another thread --------------------------------------------------

    def interject_sign_of_life(self) -> None:
        """Send the progress of the current request between two frames, if the channel isn't in use
        and the client takes it. Doesn't wait."""
        # Another thread changes both fields meanwhile: a stale progress does no harm, but it must
        # not be sent for another request.
        current, (request_id, reached) = self.request_id, self._reached
        self._interject(current, reached if request_id == current else messages.Progress(0))

    def interject_warning(self) -> None:
        """As `warn`, while the session's own thread does something else, e.g. waits."""
        if not self.has_warned:
            self._interject(0, messages.GoingDown(), warning=True)

    def _interject(self, request_id: int, message: Message, *, warning: bool = False) -> None:
        if not self.guard.take():
            return
        try:
            if warning and self.has_warned:  # checked again: now this thread has the guard
                return
            notice = frames.frame(Kind.NOTICE, request_id, messages.encode(message))
            self.has_warned |= self.channel.interject(notice) and warning
        except ConnectionLost:
            pass  # the session's own thread will notice
        finally:
            self.guard.back()
