"""Why sessions end in order: what was asked before is answered, and the client hears the reason."""

from __future__ import annotations

from ftpwire.errors import SessionEnded


class Dismissed(SessionEnded):
    """The session ends as if the server stopped."""

    code = "dismissed"


class Idle(Dismissed):
    """Nothing was asked for too long."""

    code = "idle"


class GaveWay(Dismissed):
    """Another transfer of the account needs the place."""

    code = "gave-way"
