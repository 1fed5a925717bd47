"""Running under systemd: its unit, telling it how things stand, sockets that it hands over.

Lives here: the text of the units, sd_notify, socket activation. Lives elsewhere: starting and
stopping (cli/start.py), the listening socket otherwise (server.py), comparing a unit that is
installed (installed_unit.py).
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
"""What stopping may take beyond the grace time."""


# telling how things stand ----------------------------------------------------------------------


def notify(*lines: str) -> None:
    """Tell whoever supervises this process, if anybody does: ``READY=1``, ``STATUS=…``.

    That it isn't heard is logged, and no reason to stop.
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
        logger.warning("the supervisor can't be told: %s", error.strerror)


# sockets that are handed over ------------------------------------------------------------------


def inherited_socket(
    environment: MutableMapping[str, str] = os.environ, first: int = _FIRST_FD
) -> socket.socket | None:
    """The listening socket that systemd has opened for this process, if it has.

    The variables are removed, so that no child takes them for its own.

    Raises:
        StateError: What was handed over is no one listening TCP socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        return None
    if int(count) != 1:
        raise StateError(f"{count} sockets were handed over by LISTEN_FDS, but one is served")
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
        raise StateError("LISTEN_FDS: what was handed over is no listening TCP socket")
    handed.setblocking(True)
    return handed


# units -------------------------------------------------------------------------------------------


_TO_ISOLATE = (
    *("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_SYS_CHROOT", "CAP_KILL"),
    *("CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"),
)
"""What root needs so that sessions become others, and to look after files that are theirs."""
_CALLS_TO_ISOLATE = (
    "chroot",
    *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
)


@dataclass(frozen=True)
class Installation:
    """What a unit is for.

    Attributes:
        command: The words that run `ftpd`.
        paths: What the server writes to, besides the root: homes elsewhere.
        reads: What it has to read, besides: programs, settings, certificates.
        port: That it listens on.
        grace: Seconds that running transfers get when it stops.
        isolated: Each session has a process, which becomes another user where ``user`` is root.
        host: The address that it listens on; None for all.
        unix: The Unix socket that it listens on as well.
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
    """A service unit with as few rights as the server can do with."""
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
        "Documentation=man:systemd.service(5)",
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
        "# It can write to the homes and its own state, and to nothing else.",
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
        "# It can gain nothing.",
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
    """The directory below /run that systemd makes for a socket at each start, for the user alone to
    write to; None where it lies elsewhere, and has to be there."""
    if unix is None or unix.parent.parent not in (Path("/run"), Path("/var/run")):
        return None
    return unix.parent.name


def _namespaces(installation: Installation, becomes_others: bool) -> str:
    """The namespaces that it may make: who can't become others confines sessions by these."""
    return "user net ipc" if installation.isolated and not becomes_others else "yes"


def socket_unit(installation: Installation) -> str:
    """A socket unit: systemd listens, and starts the service at the first connection."""
    lines = [
        "[Unit]",
        "Description=ftpd file server, its socket",
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
    """Compare a socket that was handed over with the settings; returns warnings.

    Raises:
        StateError: It can be reached from where the settings close the server.
    """
    address, port = given.getsockname()[:2]
    told = f"a socket at {address} port {port} was handed over"
    remedy = "print the socket unit again (ftpd service --socket), or change the settings"
    if settings.no_tcp:
        raise StateError(f"{told}, and the settings say no-tcp: {remedy}")
    warnings = []
    if settings.port not in (0, port):
        warnings.append(f"{told}, and the settings say port {settings.port}: {remedy}")
    if settings.host is not None:
        here, wanted = _plain(address), {_plain(one) for one in addresses_of(settings.host)}
        if here not in wanted and not any(_takes_in(one, here) for one in wanted):
            text = f"{told}, and the settings say host {settings.host}: {remedy}"
            only_loopback = all(one.is_loopback for one in wanted)
            if here.is_unspecified or (only_loopback and not here.is_loopback):
                raise StateError(text)
            warnings.append(text)
    return warnings


def _takes_in(wanted: IPv4Address | IPv6Address, here: IPv4Address | IPv6Address) -> bool:
    """Whether it means all addresses, and this one is among them. ``::`` means IPv4 as well."""
    return wanted.is_unspecified and (wanted.version == 6 or here.version == 4)


def addresses_of(host: str) -> list[str]:
    """The addresses of a host that the settings name. Raises StateError."""
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise StateError(f"--host {host}: {error.strerror}") from None
    return [str(address[0]) for *_, address in found]


def _plain(address: str) -> IPv4Address | IPv6Address:
    """An address without its interface, IPv4 as such also where it came in IPv6's clothes."""
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
    """This installation, as a unit needs it. ``user``: by default, whose the root is.

    Raises:
        StateError: There is no such user, or no text that a unit could have.
    """
    try:
        if user is None:
            owner = pwd.getpwuid(root.stat().st_uid if root.exists() else os.getuid())
        else:
            owner = pwd.getpwnam(user)
        group = grp.getgrgid(owner.pw_gid).gr_name
    except KeyError:
        raise StateError(f"{user or 'the owner of the root'}: no such user or group") from None
    elsewhere = tuple(sorted({path for path in paths if not path.is_relative_to(root)}))
    for path in (root, config, unix, *elsewhere):
        if path is not None and not str(path).isprintable():
            raise StateError(f"{str(path)!r}: a unit can't have such a path")
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
    """The words that run this very `ftpd`."""
    found = shutil.which(sys.argv[0])
    if found is not None and Path(found).name == "ftpd":
        return (str(Path(found).absolute()),)
    return (sys.executable, "-c", "from ftpserver.cli.main import main; main()")


def _below(paths: Iterable[Path], *directories: str) -> bool:
    return any(path.is_relative_to(one) for path in paths for one in directories)


def _words(words: Iterable[str]) -> str:
    """A command line as a unit has it: it has variables, too."""
    return " ".join(_word(word).replace("$", "$$") for word in words)


def _word(word: str) -> str:
    """One word as a unit has it: ``%`` means nothing, blanks don't part it."""
    plain = word.replace("%", "%%")
    if re.fullmatch(r"[\w./:@+,=%$-]+", plain):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
