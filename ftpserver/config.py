"""Settings of a running server, and where its state lies.

Lives here: the values with their defaults and units, sizes as people write them.
Lives elsewhere: command-line options (cli.py).
"""

from __future__ import annotations

import re
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
        staging_seconds: How long interrupted uploads wait for a resume.
        stall: Seconds without a byte after which a peer in the middle of something is dropped.
    """

    root: Path
    host: str | None = None
    port: int = DEFAULT_PORT
    plaintext: bool = False
    durable: bool = True
    grace: float = 10.0
    login_grace: float = 20.0
    stall: float = 60.0
    staging_seconds: int = 7 * 24 * 3600

    @property
    def state(self) -> Path:
        """The directory of the server's own state."""
        return state_of(self.root)


def state_of(root: Path) -> Path:
    """Where the server's own state lies for a root of homes."""
    return root / STATE_DIRECTORY


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str) -> int:
    """Bytes for what people write: ``10MiB``, ``1.5G``, ``4096``.

    Raises:
        ValueError: It is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    size = float(match[1]) * _UNITS[(match[2] or "").upper()]
    if size >= 2**63:
        raise ValueError(f"{text!r} is more than any disk has")
    return int(size)
