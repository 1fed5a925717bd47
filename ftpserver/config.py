"""Settings of a running server, and where its state lies.

Lives here: the values with their defaults and units.
Lives elsewhere: command-line options (cli.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 1234
STATE_DIRECTORY = ".ftpd"


@dataclass(frozen=True)
class Settings:
    """What a server runs with.

    Attributes:
        root: Directory of the homes; the server's own state is in ``root/.ftpd``.
        host: Address to listen on; None for all interfaces.
        port: 0 takes a free one.
        plaintext: Speak without TLS.
        durable: Sync to disk before acknowledging (``--durability commit``).
        grace: Seconds that running transfers get when the server stops.
        login_grace: Seconds from connecting to being logged in.
        limit_rate: Bytes a second that each session may move; None for no limit.
        staging_seconds: How long interrupted uploads wait for a resume.
        open_registration: Strangers may make accounts, without an invitation.
        default_quota: Bytes for each account that registers; None for no limit.
        stall: Seconds without a byte after which a peer in the middle of something is dropped.
        audit_size: Bytes from which on the audit log begins another file; 0 writes none.
        audit_keep: Earlier files of the audit log that are kept.
    """

    root: Path
    host: str | None = None
    port: int = DEFAULT_PORT
    plaintext: bool = False
    durable: bool = True
    grace: float = 10.0
    login_grace: float = 20.0
    stall: float = 60.0
    limit_rate: int | None = None
    staging_seconds: int = 7 * 24 * 3600
    open_registration: bool = False
    default_quota: int | None = None
    audit_size: int = 64 * 2**20
    audit_keep: int = 8

    @property
    def state(self) -> Path:
        """The directory of the server's own state."""
        return state_of(self.root)


def state_of(root: Path) -> Path:
    """Where the server's own state lies for a root of homes."""
    return root / STATE_DIRECTORY
