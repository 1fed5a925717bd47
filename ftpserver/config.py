"""Settings of a running server, and where its state lies.

Lives here: the values with their defaults and units.
Lives elsewhere: command-line options (cli.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

DEFAULT_PORT = 1234
STATE_DIRECTORY = ".ftpd"


class Startups(NamedTuple):
    """When connections that have not logged in are dropped at random, before they cost a thread.

    Attributes:
        begin: So many of them are taken in any case.
        rate: Percent of the further ones that are dropped, from there on.
        full: So many at most: the share of dropped ones grows towards it.
    """

    begin: int = 100
    rate: int = 30
    full: int = 400

    def __str__(self) -> str:
        return f"{self.begin}:{self.rate}:{self.full}"

    @classmethod
    def parse(cls, text: str) -> Startups:
        """From ``BEGIN:RATE:FULL``, or one number: none is dropped below it, all above.

        Raises:
            ValueError: It is neither.
        """
        try:
            numbers = [int(part) for part in text.split(":")]
            begin, rate, full = numbers if len(numbers) > 1 else (numbers[0], 100, numbers[0])
        except ValueError:
            raise ValueError(f"{text!r} is not BEGIN:RATE:FULL, as 100:30:400") from None
        if not (1 <= begin <= full and 0 <= rate <= 100):
            raise ValueError(f"{text!r}: BEGIN is 1 to FULL, RATE is 0 to 100 percent")
        return cls(begin, rate, full)


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
        stall: Seconds that a peer in the middle of something may take for 64 KiB, or for a whole
            message, before it is dropped.
        idle_timeout: Seconds without a request after which a session ends; 0 for never.
        max_startups: How many connections may be there that have not logged in.
        max_sessions: Of all users together; None for no limit. Sessions count once logged in.
        max_user_sessions: Of a user whose account doesn't say otherwise; None for no limit.
        max_address_sessions: From one address; None for no limit.
        ban_after: Failed log-ins to one account after which an address may not try it for a
            time; after three times as many to any accounts it may try none. 0 bans nobody.
        ban_time: Seconds that a ban lasts; failures that are older don't count any more.
        audit_size: Bytes from which on the audit log begins another file; 0 writes none.
        audit_keep: Earlier files of the audit log that are kept.
        log_format: Of the log on stderr.
    """

    root: Path
    host: str | None = None
    port: int = DEFAULT_PORT
    plaintext: bool = False
    durable: bool = True
    grace: float = 10.0
    login_grace: float = 20.0
    stall: float = 60.0
    idle_timeout: float = 0.0
    max_startups: Startups = Startups()
    max_sessions: int | None = None
    max_user_sessions: int | None = None
    max_address_sessions: int | None = None
    ban_after: int = 10
    ban_time: float = 600.0
    limit_rate: int | None = None
    staging_seconds: int = 7 * 24 * 3600
    open_registration: bool = False
    default_quota: int | None = None
    audit_size: int = 64 * 2**20
    audit_keep: int = 8
    log_format: Literal["text", "json"] = "text"

    @property
    def state(self) -> Path:
        """The directory of the server's own state."""
        return state_of(self.root)


def state_of(root: Path) -> Path:
    """Where the server's own state lies for a root of homes."""
    return root / STATE_DIRECTORY
