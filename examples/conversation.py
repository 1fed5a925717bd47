"""A greeting for each frame: what all the servers do. Bytes in, bytes out, no socket."""

from ftpwire.errors import BadMessage
from ftpwire.frames import FrameReader, Header, Kind, frame


class Greeter:
    """One client's conversation. It keeps an incomplete frame until the rest has arrived."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._header: Header | None = None

    def answer(self, received: bytes) -> bytes:
        """Return the replies to all complete frames. Raises ProtocolError for anything else."""
        self._reader.feed(received)
        replies = b""
        while True:
            self._header = self._header or self._reader.next_header()
            if self._header is None:
                return replies
            name = self._reader.payload()
            if name is None:
                return replies
            if self._header.kind != Kind.REQUEST:
                raise BadMessage("only requests are answered here")
            replies += frame(Kind.REPLY, self._header.request_id, b"Hello, %b!" % bytes(name))
            self._header = None
