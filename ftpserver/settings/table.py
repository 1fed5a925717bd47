"""Settings of a running server, and the location of its state.

Lives here: the one table of all settings, with their defaults, units and help.
Lives elsewhere: how values are written (kinds.py), where they come from (cli/config.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal, NamedTuple

from ftpserver.cpus import cpus
from ftpserver.settings.kinds import (
    DAYS,
    FLAG,
    NONE,
    PATH,
    SIZE,
    TEXT,
    Kind,
    Setting,
    choice,
    described,
    optional,
    seconds,
    setting,
    whole,
)

DEFAULT_PORT = 1234
ROOT = "root"
DEFAULT_ROOT = Path("home")
STATE_DIRECTORY = ".ftpd"
DATABASE = "state.db"
"""The name of the accounts file in the state directory."""
MOST_WORKERS = 256
AUTO: Literal["auto"] = "auto"
"""The value with which the server decides the number of workers."""
MOST_AUTO_WORKERS = 8
"""The most that it decides for: all write to one accounts file, so more would gain little."""


class Startups(NamedTuple):
    """The limits for unauthenticated connections.

    Attributes:
        begin: The number that is always accepted.
        rate: The percentage of new connections, from ``begin`` on, that replace an old one.
        full: The most connections; the percentage grows towards it.
    """

    begin: int = 100
    rate: int = 30
    full: int = 400

    def __str__(self) -> str:
        return f"{self.begin}:{self.rate}:{self.full}"

    @classmethod
    def parse(cls, text: str) -> Startups:
        """Parse ``BEGIN:RATE:FULL``, or one number, from which on each replaces an old one.

        Raises:
            ValueError: It is neither.
        """
        try:
            numbers = [int(part) for part in text.split(":")]
            begin, rate, full = numbers if len(numbers) > 1 else (numbers[0], 100, numbers[0])
        except ValueError:
            raise ValueError(f"{text!r} is not BEGIN:RATE:FULL, e.g. 100:30:400") from None
        if not (1 <= begin <= full and 0 <= rate <= 100):
            raise ValueError(f"{text!r}: BEGIN must be 1 to FULL, RATE 0 to 100 percent")
        return cls(begin, rate, full)


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """Networks of addresses."""


def _networks(value: object) -> Networks:
    texts = value.split(",") if isinstance(value, str) else value
    if texts == [NONE]:
        return Networks()
    try:
        return Networks(ip_network(str(one).strip(), strict=False) for one in texts)  # type: ignore
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{value!r} is not a list of networks, e.g. 192.0.2.0/24,2001:db8::/48"
        ) from error


def _networks_text(networks: Networks) -> str:
    return ",".join(map(str, networks)) or NONE


_NETWORKS = Kind(_networks, "CIDR,…", _networks_text, _networks_text)
_LOOPBACK = Networks((IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")))
_STARTUPS = Kind(lambda value: Startups.parse(str(value)), "BEGIN:RATE:FULL", str)
_COUNT = optional(whole(1))
_PERCENT = whole(0, 100)


def _name(value: object) -> str:
    from ftpwire.discovery import MAX_NAME

    name = str(TEXT.parse(value))
    if len(name) > MAX_NAME or not name.isprintable():
        raise ValueError(f"{value!r} is not a name: at most {MAX_NAME} printable characters")
    return name


_NAME = Kind(_name, "NAME")
_ADDRESS = dataclasses.replace(TEXT, metavar="ADDRESS")
_USER = dataclasses.replace(TEXT, metavar="USER")


def _root(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a path")
    return Path(value)


def _mode(value: object) -> int:
    try:
        mode = int(str(value), 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError(f"{value!r} is not an octal mode, e.g. 0660")
    return mode


def _show_mode(mode: int) -> str:
    return f"{mode:04o}"


def _workers(value: object) -> int | Literal["auto"]:
    if value == AUTO:
        return AUTO
    try:
        return int(whole(1, MOST_WORKERS).parse(value))
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


_WORKERS = Kind(_workers, "N|auto")
_MODE = Kind(_mode, "MODE", _show_mode, _show_mode)


@dataclass(frozen=True)
class Settings:
    """The settings of a server. Each field is the one declaration of a setting, from which the
    option, the variable, the key of the file and their help are made.

    Sizes are bytes, times are seconds; None stands for no limit.
    """

    root: Path
    """The directory of the homes; the server's own state is in ``root/.ftpd``."""
    host: str | None = setting(None, optional(_ADDRESS), "Listen on this address (default: all).")
    port: int = setting(DEFAULT_PORT, whole(0, 65535), "Listen on this TCP port; 0: any.")
    unix: Path | None = setting(None, optional(PATH), "Listen on this Unix socket, too.")
    unix_mode: int = setting(0o660, _MODE, "Set the permission bits of the Unix socket.")
    no_tcp: bool = setting(False, FLAG, "Listen on --unix only.")
    threads: int = setting(
        256,
        whole(0),
        "Use N worker threads for short requests; 0: one thread per session.",
    )
    isolation: Literal["thread", "process"] = setting(
        "thread",
        choice({"thread": "thread", "process": "process"}),
        "Serve sessions in threads, or each in a process confined to its home.",
    )
    session_user: str = setting(
        "nobody",
        _USER,
        "Run session processes as this system user before log-in, if ftpd runs as root.",
    )
    workers: int | Literal["auto"] = setting(
        AUTO,
        _WORKERS,
        "Serve with N processes; auto: one, and up to one per CPU under load.",
    )
    plaintext: bool = setting(False, FLAG, "Turn encryption off.")
    certificate: Path | None = setting(
        None,
        optional(PATH),
        "Use this certificate (default: self-signed).",
        live=True,
    )
    key: Path | None = setting(
        None, optional(PATH), "Use this private key for the certificate.", live=True
    )
    durable: bool = setting(
        True,
        choice({"commit": True, "none": False}),
        "Acknowledge uploads once they are on disk, or earlier with none.",
        name="durability",
    )
    grace: float = setting(
        10.0, seconds(), "Allow running transfers this long to finish at shutdown.", live=True
    )
    login_grace: float = setting(
        20.0,
        seconds(above=True),
        "Drop a connection that is not logged in after this time.",
        live=True,
    )
    stall: float = setting(
        60.0,
        seconds(above=True),
        "Drop a client that needs longer than this for 64 KiB or one message.",
        live=True,
    )
    idle_timeout: float = setting(
        0.0, seconds(), "End a session after this time without a request; 0: never.", live=True
    )
    max_startups: Startups = setting(
        Startups(),
        _STARTUPS,
        "Limit connections without a log-in: from BEGIN on, RATE percent of new ones replace an "
        "old one, and from FULL on, all do. One address may have a quarter of FULL.",
        live=True,
    )
    trusted_networks: Networks = setting(
        _LOOPBACK,
        _NETWORKS,
        "Exempt these networks from --max-startups and from penalties, e.g. proxies.",
        live=True,
    )
    proxy_from: Networks = setting(
        Networks(),
        _NETWORKS,
        "Expect a PROXY protocol v2 header with the client's address from these networks.",
        live=True,
    )
    max_sessions: int | None = setting(
        None, _COUNT, "Limit the sessions of all users together.", live=True
    )
    max_user_sessions: int | None = setting(
        None,
        _COUNT,
        "Limit the sessions per user, unless the account has a limit (default: 100).",
        live=True,
    )
    max_user_transfers: int = setting(
        32,
        whole(1),
        "Limit the running transfers per user; an open upload that receives no data "
        "makes room for another.",
        live=True,
    )
    max_address_sessions: int | None = setting(
        None, _COUNT, "Limit the sessions per address.", live=True
    )
    ban_after: int = setting(
        10,
        whole(0),
        "Ban an address from an account after N failed log-ins (from all accounts after "
        "3 N); 0: never.",
        live=True,
    )
    ban_time: float = setting(600.0, seconds(1), "Let a ban last this long.", live=True)
    limit_rate: int | None = setting(
        None, optional(SIZE), "Limit the rate of each session, e.g. 10MiB per second.", live=True
    )
    staging_seconds: int = setting(
        7 * 24 * 3600,
        DAYS,
        "Keep interrupted uploads for a resume this many days.",
        name="staging-days",
    )
    trash_days: int = setting(
        7,
        whole(0, 36500),
        "Keep removed files N days; 0: not at all.",
        live=True,
    )
    trash_versions: int = setting(
        5,
        whole(0, 100_000),
        "Keep N replaced versions of a file; 0: none.",
        live=True,
    )
    trash_reserve: int = setting(
        5,
        _PERCENT,
        "Purge the oldest trash where less than N percent of the disk are free.",
        live=True,
    )
    trash_items: int = setting(
        100_000,
        whole(1),
        "Keep at most N entries in the trash of an account; a directory counts as one.",
        live=True,
    )
    trash_max: int | None = setting(
        None,
        optional(_PERCENT),
        "Limit the trash to N percent of an account's quota, or of the disk.",
        live=True,
    )
    open_registration: bool = setting(
        False, FLAG, "Allow registration without an invitation.", live=True
    )
    default_quota: int | None = setting(
        None, optional(SIZE), "Limit each account that registers to SIZE, e.g. 1GiB.", live=True
    )
    audit_size: int = setting(
        64 * 2**20, SIZE, "Rotate the audit log at this size; 0 turns it off."
    )
    audit_keep: int = setting(8, whole(0), "Keep N rotated audit logs.")
    audit_own_size: int = setting(
        16 * 2**20,
        SIZE,
        "Limit the separate audit log of an account with over 10,000 events per hour.",
    )
    allow_loose_modes: bool = setting(
        False,
        FLAG,
        "Start even if others can write to ROOT/.ftpd or above it, e.g. on a file system "
        "without modes.",
    )
    log_format: Literal["text", "json"] = setting(
        "text",
        choice({"text": "text", "json": "json"}),
        "Write the log on standard error as text or JSON.",
    )
    discoverable: bool = setting(False, FLAG, "Answer `ftp discover` on the local network.")
    discovery_port: int = setting(
        DEFAULT_PORT,
        whole(0, 65535),
        "Listen on this UDP port with --discoverable; 0: any.",
    )
    name: str | None = setting(
        None,
        optional(_NAME),
        "Set the name shown by `ftp discover` (default: the host name).",
        live=True,
    )

    @property
    def state(self) -> Path:
        """The directory of the server's own state."""
        return state_of(self.root)

    @property
    def most_workers(self) -> int:
        """The most processes that serve at the same time; 1: only the server's own.

        With ``auto`` it is one for each CPU that the server may use. It is 1 if more have no use
        (sessions have processes anyway), or if everything shall be as simple as possible
        (``threads = 0``).
        """
        if not isinstance(self.workers, str):
            return self.workers
        if self.isolation == "process" or not self.threads:
            return 1
        return min(MOST_AUTO_WORKERS, cpus())


def cautions(settings: Settings) -> list[str]:
    """Warnings about settings that are valid, but leave the server open to abuse."""
    found = []
    if settings.open_registration and settings.default_quota is None:
        found.append(
            "open-registration without default-quota: anyone can make accounts that fill the disk; "
            "set default-quota"
        )
    if any(network.prefixlen == 0 for network in settings.proxy_from):
        found.append(
            "proxy-from names all addresses: anyone can claim any address, which evades bans; name "
            "only the proxies"
        )
    return found


TABLE: dict[str, Setting] = {
    one.name: described(one) for one in dataclasses.fields(Settings) if one.name != ROOT
}
"""The descriptions of all settings but the root, by field name."""
EVERY = {ROOT: Setting(ROOT, Kind(_root, "DIRECTORY", str, path=True), "")} | TABLE
"""The same, with the root."""


def state_of(root: Path) -> Path:
    """Return the directory of the server's own state for a root."""
    return root / STATE_DIRECTORY


def never_started(root: Path) -> str | None:
    """Return an error text for a root without an accounts file, often a typing error; else None."""
    path = state_of(root) / DATABASE
    return None if path.is_file() else f"{root}: no server has been started here (no {path})"
