"""Settings of a running server, and where its state lies.

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
"""In the state directory: the accounts file."""
MOST_WORKERS = 256
AUTO: Literal["auto"] = "auto"
"""How many workers there are is the server's to decide."""
MOST_AUTO_WORKERS = 8
"""That it decides for: all change one accounts file, so that more bring less and less."""


class Startups(NamedTuple):
    """How many connections that have not logged in there may be.

    Attributes:
        begin: So many of them are taken in any case.
        rate: Percent of the further ones that end another one, from there on.
        full: So many at most: the percentage grows towards it.
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


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """Networks of addresses."""


def _networks(value: object) -> Networks:
    texts = value.split(",") if isinstance(value, str) else value
    if texts == [NONE]:
        return Networks()
    try:
        return Networks(ip_network(str(one).strip(), strict=False) for one in texts)  # type: ignore
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} are not networks, as 192.0.2.0/24,2001:db8::/48") from error


def _tell_networks(networks: Networks) -> str:
    return ",".join(map(str, networks)) or NONE


_NETWORKS = Kind(_networks, "CIDR,…", _tell_networks, _tell_networks)
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


_NAME = Kind(_name, "TEXT")


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
        raise ValueError(f"{value!r} is not a mode: octal, as 0660")
    return mode


def _show_mode(mode: int) -> str:
    return f"{mode:04o}"


def _workers(value: object) -> int | Literal["auto"]:
    if value == AUTO:
        return AUTO
    try:
        return int(whole(1, MOST_WORKERS).parse(value))
    except ValueError as error:
        raise ValueError(f"{error}; or auto: as many as are of use") from None


_WORKERS = Kind(_workers, "N|auto")
_MODE = Kind(_mode, "MODE", _show_mode, _show_mode)


@dataclass(frozen=True)
class Settings:
    """What a server runs with. Each field is the one declaration of a setting: the option, the
    variable, the key of the file and their help come from it.

    Sizes are bytes, times are seconds; None stands for no limit.
    """

    root: Path
    """Directory of the homes; the server's own state is in ``root/.ftpd``."""
    host: str | None = setting(None, optional(TEXT), "Address to listen on. Default: all.")
    port: int = setting(DEFAULT_PORT, whole(0, 65535), "0 takes a free one.")
    unix: Path | None = setting(
        None, optional(PATH), "A Unix socket to listen on as well, for users of this machine."
    )
    unix_mode: int = setting(0o660, _MODE, "Who may connect to it, as permission bits.")
    no_tcp: bool = setting(False, FLAG, "Don't listen on the network, only with --unix.")
    threads: int = setting(
        256,
        whole(0),
        "Sessions served at the same time of those that were idle meanwhile, long transfers "
        "apart; 0: each session keeps a thread for itself.",
    )
    isolation: Literal["thread", "process"] = setting(
        "thread",
        choice({"thread": "thread", "process": "process"}),
        "process: each session in a process of its own, confined to its home.",
    )
    session_user: str = setting(
        "nobody",
        TEXT,
        "The system user that sessions in processes run as before log-in, if ftpd runs as root.",
    )
    workers: int | Literal["auto"] = setting(
        AUTO,
        _WORKERS,
        "Serve with so many processes; auto: with one, and while several sessions are busy with "
        "more, up to one for each CPU.",
    )
    plaintext: bool = setting(False, FLAG, "Speak without TLS.")
    certificate: Path | None = setting(
        None, optional(PATH), "PEM, with its chain. Default: a self-signed one.", live=True
    )
    key: Path | None = setting(
        None, optional(PATH), "PEM, the certificate's private key.", live=True
    )
    durable: bool = setting(
        True,
        choice({"commit": True, "none": False}),
        "commit: acknowledge uploads once they are on the disk. none: earlier.",
        name="durability",
    )
    grace: float = setting(
        10.0, seconds(), "That running transfers get when the server stops.", live=True
    )
    login_grace: float = setting(
        20.0, seconds(above=True), "From connecting to being logged in.", live=True
    )
    stall: float = setting(
        60.0,
        seconds(above=True),
        "That a client may take for 64 KiB of a transfer, or for one message.",
        live=True,
    )
    idle_timeout: float = setting(
        0.0, seconds(), "Without a request, after which a session ends; 0: never.", live=True
    )
    max_startups: Startups = setting(
        Startups(),
        _STARTUPS,
        "From BEGIN connections that have not logged in, RATE percent of new ones end the "
        "oldest of the address that has the most, and all from FULL. An address may have a "
        "quarter of FULL.",
        live=True,
    )
    trusted_networks: Networks = setting(
        _LOOPBACK,
        _NETWORKS,
        "Networks whose addresses have no share of --max-startups and no penalties, as of a "
        "proxy; none for none.",
        live=True,
    )
    proxy_from: Networks = setting(
        Networks(),
        _NETWORKS,
        "Networks of proxies whose connections begin with a header of PROXY protocol version 2, "
        "which has the client's address; none for none.",
        live=True,
    )
    max_sessions: int | None = setting(None, _COUNT, "Sessions of all users together.", live=True)
    max_user_sessions: int | None = setting(
        None,
        _COUNT,
        "Sessions of a user whose account doesn't say otherwise. Default: 100.",
        live=True,
    )
    max_user_transfers: int = setting(
        32,
        whole(1),
        "Transfers of a user that run at the same time. An upload that is open without bytes "
        "makes room for another.",
        live=True,
    )
    max_address_sessions: int | None = setting(
        None, _COUNT, "Sessions from one address.", live=True
    )
    ban_after: int = setting(
        10,
        whole(0),
        "Failed log-ins to an account that have an address refused for it for a time; three "
        "times as many, to any accounts, for all of them. 0 bans nobody.",
        live=True,
    )
    ban_time: float = setting(600.0, seconds(1), "That a ban lasts.", live=True)
    limit_rate: int | None = setting(
        None, optional(SIZE), "Bytes a second for each session, as 10MiB.", live=True
    )
    staging_seconds: int = setting(
        7 * 24 * 3600, DAYS, "That interrupted uploads wait for a resume.", name="staging-days"
    )
    trash_days: int = setting(
        7,
        whole(0, 36500),
        "Days that what was removed or replaced can be restored; 0: removals are final.",
        live=True,
    )
    trash_versions: int = setting(
        5,
        whole(0, 100_000),
        "Most replaced versions of a file that are kept; 0: what is replaced isn't kept.",
        live=True,
    )
    trash_reserve: int = setting(
        5,
        _PERCENT,
        "Percent of a disk that stays free of trash: where less is free, the oldest trash of all "
        "accounts is given up.",
        live=True,
    )
    trash_items: int = setting(
        100_000,
        whole(1),
        "Most things in an account's trash (a tree counts as one); the oldest are given up first.",
        live=True,
    )
    trash_max: int | None = setting(
        None,
        optional(_PERCENT),
        "Percent of its quota that an account's trash may take; without a quota, of the disk.",
        live=True,
    )
    open_registration: bool = setting(
        False, FLAG, "Let strangers make accounts, without an invitation.", live=True
    )
    default_quota: int | None = setting(
        None, optional(SIZE), "Space of each account that registers, as 1GiB.", live=True
    )
    audit_size: int = setting(
        64 * 2**20, SIZE, "From which on the audit log begins another file; 0 writes none."
    )
    audit_keep: int = setting(8, whole(0), "Earlier files of the audit log that are kept.")
    audit_own_size: int = setting(
        16 * 2**20,
        SIZE,
        "Size of the audit file that an account with over 10,000 events an hour gets for itself.",
    )
    allow_loose_modes: bool = setting(
        False,
        FLAG,
        "Start also where others can write to ROOT/.ftpd or above it, as on a file system that "
        "keeps no modes.",
    )
    log_format: Literal["text", "json"] = setting(
        "text", choice({"text": "text", "json": "json"}), "Of the log on stderr."
    )
    discoverable: bool = setting(
        False, FLAG, "Answer who looks for servers on the local network (ftp discover)."
    )
    discovery_port: int = setting(
        DEFAULT_PORT, whole(0, 65535), "UDP, for --discoverable. 0 takes a free one."
    )
    name: str | None = setting(
        None, optional(_NAME), "That discovery tells. Default: the machine's.", live=True
    )

    @property
    def state(self) -> Path:
        """The directory of the server's own state."""
        return state_of(self.root)

    @property
    def most_workers(self) -> int:
        """Most processes that serve at the same time; 1: the server's own alone.

        With ``auto`` that is one for each CPU that the server may use. It is one alone where more
        are of no use (sessions have processes anyway), or where everything shall be as simple as
        can be (``threads = 0``).
        """
        if not isinstance(self.workers, str):
            return self.workers
        if self.isolation == "process" or not self.threads:
            return 1
        return min(MOST_AUTO_WORKERS, cpus())


def cautions(settings: Settings) -> list[str]:
    """Warnings about settings that are valid, but leave the server open to strangers."""
    found = []
    if settings.open_registration and settings.default_quota is None:
        found.append(
            "open-registration without default-quota: anyone can make accounts that fill the disk; "
            "set default-quota"
        )
    if any(network.prefixlen == 0 for network in settings.proxy_from):
        found.append(
            "proxy-from names all addresses: anyone can claim any address, which evades bans; name "
            "the proxies alone"
        )
    return found


TABLE: dict[str, Setting] = {
    one.name: described(one) for one in dataclasses.fields(Settings) if one.name != ROOT
}
"""What is known of every setting but the root, by the name of its field."""
EVERY = {ROOT: Setting(ROOT, Kind(_root, "DIRECTORY", str, path=True), "")} | TABLE
"""The same, with the root."""


def state_of(root: Path) -> Path:
    """Where the server's own state lies for a root of homes."""
    return root / STATE_DIRECTORY


def never_started(root: Path) -> str | None:
    """What to say of a root that has no accounts file, most likely a mistyped one; else None."""
    path = state_of(root) / DATABASE
    return None if path.is_file() else f"{root}: no server was ever started here (no {path})"
