"""Running under systemd: units, status notifications, socket activation.

Lives here: the text of the units, sd_notify, sockets that systemd hands over. Lives elsewhere:
starting and stopping (cli/start.py), sockets that the server opens (server.py), comparing an
installed unit (installed_unit.py).
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
import shutil
import socket
import sys
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ftpserver.errors import StateError
from ftpserver.settings.table import Settings

logger = logging.getLogger("ftpd")

_FIRST_FD = 3
"""The first descriptor that systemd hands over."""
_PRIVILEGED_PORTS = 1024
_STOP_SECONDS = 15
"""Seconds that stopping may take beyond the grace time."""


# status notifications --------------------------------------------------------------------------


def notify(*lines: str) -> None:
    """Send lines such as ``READY=1`` or ``STATUS=…`` to the service manager, if there is one.

    If that fails, it is logged and otherwise ignored.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall("\n".join(lines).encode())
    except OSError as error:
        logger.warning("the service manager cannot be notified: %s", error.strerror)


# sockets that are handed over ------------------------------------------------------------------


def inherited_socket(
    environment: MutableMapping[str, str] = os.environ, first: int = _FIRST_FD
) -> socket.socket | None:
    """Return the listening socket that systemd has opened for this process; None if there is none.

    The variables are removed from the environment, because they are not meant for children.

    Args:
        environment: The environment.
        first: The number of the first descriptor that is handed over.

    Raises:
        StateError: There are several sockets, or it isn't a listening TCP socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        return None
    if int(count) != 1:
        raise StateError(f"LISTEN_FDS: {count} sockets were handed over, but ftpd serves only one")
    try:
        os.set_inheritable(first, False)
        handed = socket.socket(fileno=first)
    except OSError as error:
        raise StateError(f"LISTEN_FDS: no socket was handed over: {error.strerror}") from error
    listening = handed.type == socket.SOCK_STREAM and handed.getsockopt(
        socket.SOL_SOCKET, socket.SO_ACCEPTCONN
    )
    if handed.family not in (socket.AF_INET, socket.AF_INET6) or not listening:
        handed.detach()
        raise StateError("LISTEN_FDS: the descriptor handed over is not a listening TCP socket")
    handed.setblocking(True)
    return handed


# units -------------------------------------------------------------------------------------------


_TO_ISOLATE = (
    *("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_CHROOT", "CAP_KILL"),
    *("CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"),
)
"""The capabilities that root needs to run sessions as other users and to manage their files."""
_CALLS_TO_ISOLATE = (
    "chroot",
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
)


@dataclass(frozen=True)
class Installation:
    """The installation that a unit is made for.

    Attributes:
        command: The words that run `ftpd`.
        root: The server's root.
        config: The settings file, if there is one.
        user: The user that the server runs as.
        group: The group that it runs as.
        paths: The paths outside the root that it writes to: homes elsewhere.
        reads: The paths outside the root that it reads: programs, settings, certificates.
        port: The port that it listens on.
        grace: Seconds that running transfers get to finish on shutdown.
        isolated: True if each session has a process of its own, which runs as another user if
            ``user`` is root.
        host: The address that it listens on; None for all.
        unix: The Unix socket that it also listens on, if any.
    """

    command: tuple[str, ...]
    root: Path
    config: Path | None
    user: str
    group: str
    paths: tuple[Path, ...] = ()
    reads: tuple[Path, ...] = ()
    port: int = 1234
    grace: float = 10.0
    isolated: bool = False
    host: str | None = None
    unix: Path | None = None


def unit(installation: Installation) -> str:
    """Return the text of a service unit, with as few privileges as the server needs."""
    start = [*installation.command, "start", "--root", str(installation.root)]
    if installation.config is not None:
        start += ["--config", str(installation.config)]
    reload = [*installation.command, "reload", "--root", str(installation.root)]
    writes = [installation.root, *installation.paths]
    runtime = _runtime_directory(installation.unix)
    if installation.unix is not None and runtime is None:
        writes.append(installation.unix.parent)
    touched = [*writes, *installation.reads, Path(installation.command[0])]
    privileged = 0 < installation.port < _PRIVILEGED_PORTS
    bind = ["CAP_NET_BIND_SERVICE"] if privileged else []
    becomes_others = installation.isolated and installation.user == "root"
    bounding = " ".join([*bind, *(_TO_ISOLATE if becomes_others else ())])
    ambient = "" if becomes_others else " ".join(bind)
    calls = ["@system-service", *(_CALLS_TO_ISOLATE if installation.isolated else ())]
    lines = [
        "[Unit]",
        "Description=ftpd file server",
        "Documentation=man:ftpd(1)",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={_words(start)}",
        f"ExecReload={_words(reload)}",
        f"User={installation.user}",
        f"Group={installation.group}",
        "Restart=on-failure",
        "RestartSec=2",
        f"TimeoutStopSec={int(installation.grace) + _STOP_SECONDS}",
        "UMask=0077",
        "LimitNOFILE=65536",
        *([] if runtime is None else [f"RuntimeDirectory={_word(runtime)}"]),
        "",
        "# The server can write only to the homes and to its own state.",
        "ProtectSystem=strict",
        f"ReadWritePaths={' '.join(_word(str(path)) for path in writes)}",
        f"ProtectHome={'read-only' if _below(touched, '/home', '/root', '/run/user') else 'yes'}",
        f"PrivateTmp={'no' if _below(touched, '/tmp', '/var/tmp') else 'yes'}",
        "PrivateDevices=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "",
        "# It cannot gain privileges.",
        "NoNewPrivileges=yes",
        f"CapabilityBoundingSet={bounding}",
        f"AmbientCapabilities={ambient}",
        "LockPersonality=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        f"RestrictNamespaces={_namespaces(installation, becomes_others)}",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        f"SystemCallFilter={' '.join(calls)}",
        "SystemCallErrorNumber=EPERM",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _runtime_directory(unix: Path | None) -> str | None:
    """Return the name of the directory below /run that systemd makes for a socket at each start, to
    which only the server's user can write. None if the socket is elsewhere: then its directory must
    exist."""
    if unix is None or unix.parent.parent not in (Path("/run"), Path("/var/run")):
        return None
    return unix.parent.name


def _namespaces(installation: Installation, becomes_others: bool) -> str:
    """Return the namespaces that the server may make. Without the capabilities to run sessions as
    other users, it confines them by namespaces."""
    return "user net ipc" if installation.isolated and not becomes_others else "yes"


def socket_unit(installation: Installation) -> str:
    """Return the text of a socket unit, by which systemd listens, and starts the service at the
    first connection."""
    lines = [
        "[Unit]",
        "Description=ftpd file server socket",
        "",
        "[Socket]",
        f"ListenStream={_listened_on(installation)}",
        "Backlog=1024",
        "NoDelay=yes",
        "",
        "[Install]",
        "WantedBy=sockets.target",
    ]
    return "\n".join(lines) + "\n"


def _listened_on(installation: Installation) -> str:
    host, port = installation.host, installation.port
    if host is None:
        return str(port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_handed(given: socket.socket, settings: Settings) -> list[str]:
    """Compare a socket that was handed over with the settings. Return warnings.

    Raises:
        StateError: It accepts connections that the settings exclude.
    """
    address, port = given.getsockname()[:2]
    found = f"systemd handed over a socket at {address} port {port}"
    remedy = "print the socket unit again (ftpd service --socket), or change the settings"
    if settings.no_tcp:
        raise StateError(f"{found}, but the settings say no-tcp: {remedy}")
    warnings = []
    if settings.port not in (0, port):
        warnings.append(f"{found}, but the settings say port {settings.port}: {remedy}")
    if settings.host is not None:
        here, wanted = _plain(address), {_plain(one) for one in addresses_of(settings.host)}
        if here not in wanted and not any(_takes_in(one, here) for one in wanted):
            text = f"{found}, but the settings say host {settings.host}: {remedy}"
            only_loopback = all(one.is_loopback for one in wanted)
            if here.is_unspecified or (only_loopback and not here.is_loopback):
                raise StateError(text)
            warnings.append(text)
    return warnings


def _takes_in(wanted: IPv4Address | IPv6Address, here: IPv4Address | IPv6Address) -> bool:
    """Return whether ``wanted`` stands for all addresses, including ``here``. ``::`` includes
    IPv4."""
    return wanted.is_unspecified and (wanted.version == 6 or here.version == 4)


def addresses_of(host: str) -> list[str]:
    """Return the addresses of a host in the settings. Raises StateError."""
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StateError(f"--host {host}: {error.strerror}") from None
    return [str(address[0]) for *_, address in found]


def _plain(address: str) -> IPv4Address | IPv6Address:
    """Parse an address, without its interface. Return an IPv4-mapped IPv6 address as IPv4."""
    found = ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def installed(
    root: Path,
    config: Path | None,
    *,
    user: str | None = None,
    paths: Iterable[Path] = (),
    reads: Iterable[Path] = (),
    port: int,
    grace: float,
    isolated: bool = False,
    host: str | None = None,
    unix: Path | None = None,
) -> Installation:
    """Describe this installation for a unit. See `Installation` for the arguments.

    Args:
        user: The user that the server runs as; by default, the owner of the root.
        paths: Paths that it writes to; those below the root are ignored.

    Raises:
        StateError: There is no such user, or a path cannot be written in a unit.
    """
    try:
        if user is None:
            owner = pwd.getpwuid(root.stat().st_uid if root.exists() else os.getuid())
        else:
            owner = pwd.getpwnam(user)
        group = grp.getgrgid(owner.pw_gid).gr_name
    except KeyError:
        raise StateError(f"{user or 'the owner of the root'}: unknown user or group") from None
    elsewhere = tuple(sorted({path for path in paths if not path.is_relative_to(root)}))
    for path in (root, config, unix, *elsewhere):
        if path is not None and not str(path).isprintable():
            raise StateError(f"{str(path)!r}: a unit cannot contain such a path")
    return Installation(
        command=_command(),
        root=root,
        config=config,
        user=owner.pw_name,
        group=group,
        paths=elsewhere,
        reads=tuple(reads),
        port=port,
        grace=grace,
        isolated=isolated,
        host=None if host is None else addresses_of(host)[0],
        unix=unix,
    )


def _command() -> tuple[str, ...]:
    """Return the words that run this `ftpd`."""
    found = shutil.which(sys.argv[0])
    if found is not None and Path(found).name == "ftpd":
        return (str(Path(found).absolute()),)
    return (sys.executable, "-c", "from ftpserver.cli.main import main; main()")


def _below(paths: Iterable[Path], *directories: str) -> bool:
    return any(path.is_relative_to(one) for path in paths for one in directories)


def _words(words: Iterable[str]) -> str:
    """Quote a command line for a unit, so that ``$`` doesn't begin a variable."""
    return " ".join(_word(word).replace("$", "$$") for word in words)


def _word(word: str) -> str:
    """Quote one word for a unit, so that ``%`` isn't a specifier and blanks don't split it."""
    plain = word.replace("%", "%%")
    if re.fullmatch(r"[\w./:@+,=%$-]+", plain):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
