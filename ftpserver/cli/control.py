"""Commands to the running server: `ftpd status`, `sessions`, `kick`, `bans`, `stop` and others.

Lives here: options and output. Lives elsewhere: asking the server (daemon/control.py).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli import records, tables
from ftpserver.cli.account_names import account_names
from ftpserver.cli.audit import finish_now
from ftpserver.cli.options import (
    counted_as,
    echo,
    json_option,
    open_root,
    remark,
    root_option,
    typed,
)
from ftpserver.errors import SettingsError
from ftpserver.settings.kinds import seconds
from ftpserver.settings.table import state_of
from ftpwire import paths
from ftpwire.command_help import Command
from ftpwire.errors import NotFound
from ftpwire.units import human, span

if TYPE_CHECKING:
    from rich.table import Table

    from ftpserver.daemon.control import (
        BanInfo,
        Control,
        Ended,
        Sessions,
        Stopping,
    )
    from ftpserver.serving.stats import SessionInfo

_REFRESH = 1.0
"""Seconds between two updates of `sessions --watch`."""
_BY_NAME = "user:"


def _running(root: Path) -> Control:
    from ftpserver.daemon import control

    return control.running(state_of(root.absolute()))


# looking -----------------------------------------------------------------------------------


@click.command(cls=Command)
@root_option
@json_option
def status(root: Path, as_json: bool) -> None:
    """Show the server's state."""
    found = _running(root).status()
    if as_json:
        click.echo(json.dumps(records.status_record(found)))
        return
    unauthenticated = f" ({found.unauthenticated} not logged in)" if found.unauthenticated else ""
    here = [] if found.unix is None else [f"unix:{found.unix}"]
    where = [found.address, *(one for one in here if one != found.address)]
    lines = {
        "server": f"{found.software}, process {found.process}, {found.state}",
        "since": f"{records.iso_of(found.since)} ({span(time.time() - found.since)})",
        "listening on": " and ".join(where),
        "key": found.fingerprint or "none: plaintext",
        "sessions": f"{found.sessions}{unauthenticated}",
        "transfers": f"{found.transfers} under way",
        "moved": f"{human(found.bytes_in)} in, {human(found.bytes_out)} out",
        "accounts": str(found.accounts),
    }
    if (kept := found.trash) is not None:
        where_kept = f" in {counted_as(kept.operations, 'operation')}" if kept.operations else ""
        lines["trash"] = (
            f"{human(kept.size)}{where_kept}, {kept.given_up_today} purged for space today"
        )
    if found.workers:
        numbers = ", ".join(map(str, found.workers))
        lines["workers"] = f"{len(found.workers)} (processes {numbers})"
    if (seen := found.discovery) is not None:
        lines["discovery"] = (
            f"UDP port {seen.port}, {seen.answered} answered, "
            f"{seen.limited} rate-limited, {seen.dropped} malformed"
        )
    if found.trouble:
        lines["trouble"] = "; ".join(found.trouble)
    if found.warnings:
        lines["warnings"] = "; ".join(found.warnings)
    for name, text in lines.items():
        click.echo(f"{name:<13} {paths.printable(text)}")


@click.command(cls=Command)
@root_option
@click.option("--watch", is_flag=True, help="Show a live table until Ctrl-C.")
@json_option
def sessions(root: Path, watch: bool, as_json: bool) -> None:
    """List sessions: user, address, activity and rate."""
    if not watch:
        _print_sessions(_look(root), as_json)
        return
    if not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal, or --json")
    try:
        if as_json:
            while True:
                _print_sessions(_look(root), as_json)
                time.sleep(_REFRESH)
        else:
            _watch(root)
    except KeyboardInterrupt:
        pass  # the way to end it


def _look(root: Path) -> Sessions:
    return _running(root).sessions()


def _report_silent(answer: Sessions | Ended) -> None:
    """Print which processes did not answer."""
    for one in answer.silent:
        remark(f"{one} doesn't answer: its sessions are not included")


def _print_sessions(answer: Sessions, as_json: bool) -> None:
    _report_silent(answer)
    tables.print_list(
        answer.sessions,
        as_json,
        _COLUMNS,
        "no sessions",
        row=_cells,
        fields=_fields,
        record=records.session_record,
    )
    sys.stdout.flush()  # with --watch, there is more to come


def _fields(one: SessionInfo) -> tuple[object, ...]:
    return (
        one.id,
        one.user,
        one.peer,
        records.iso_of(one.since),
        _doing(one),
        one.bytes_in,
        one.bytes_out,
        int(one.speed),
    )


def _watch(root: Path) -> None:
    """Draw the sessions repeatedly, the busiest first, as many as fit on the screen."""
    from rich.console import Console
    from rich.live import Live

    answer = _look(root)  # fails before anything is drawn if no server runs
    console = Console(highlight=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            busiest = sorted(answer.sessions, key=lambda one: (-one.speed, one.quiet, one.id))
            live.update(_table(busiest, console.width, title=_summary(answer)), refresh=True)
            time.sleep(_REFRESH)
            answer = _look(root)


def _summary(answer: Sessions) -> str:
    found = answer.sessions
    busy = sum(one.request is not None for one in found)
    speed = human(int(sum(one.speed for one in found)))
    now = datetime.now().strftime("%H:%M:%S")
    silent = "".join(f", {one} doesn't answer" for one in answer.silent)
    counts = f"{counted_as(len(found), 'session')}, {busy} busy, {speed}/s{silent}, {now}"
    return f"{counts} (Ctrl-C to quit)"


_COLUMNS = (
    tables.Column("ID", right=True),
    tables.Column("USER", is_cut=True),
    tables.Column("FROM", rank=4),
    tables.Column("AGE", rank=3),
    tables.Column("DOING", is_cut=True),
    tables.Column("IN", right=True, rank=2),
    tables.Column("OUT", right=True, rank=2),
    tables.Column("SPEED", right=True, rank=1),
)
_HEADS = ("ID", "USER", "FROM", "AGE", "DOING", "IN", "OUT", "SPEED")
_NUMBERS = frozenset({"ID", "IN", "OUT", "SPEED"})
_WIDE = 90
"""Terminal width from which on all columns are shown."""
_ONLY_WIDE = frozenset({"FROM", "AGE"})


def _table(found: Sequence[SessionInfo], width: int, title: str | None = None) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=None, pad_edge=False, title_justify="left", expand=True)
    shown = [width >= _WIDE or head not in _ONLY_WIDE for head in _HEADS]
    for head in compress(_HEADS, shown):
        table.add_column(
            head,
            justify="right" if head in _NUMBERS else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if head == "DOING" else None,  # takes the remaining width
        )
    for one in found:
        table.add_row(*map(Text, compress(_cells(one), shown)))
    return table


def _cells(one: SessionInfo) -> tuple[str, ...]:
    """Return the fields of a session, escaped for a terminal."""
    return (
        str(one.id),
        paths.show(one.user or "-"),
        paths.show(one.peer),
        span(time.time() - one.since),
        _doing(one),
        human(one.bytes_in),
        human(one.bytes_out),
        f"{human(int(one.speed))}/s" if one.speed >= 1 else "-",
    )


def _doing(one: SessionInfo) -> str:
    if one.request is None:
        return f"idle {span(one.quiet)}" if one.user is not None else "logging in"
    words = [one.request]
    if one.path is not None:
        words.append(paths.show(one.path))
    if one.target is not None:
        words += ["→", paths.show(one.target)]
    return " ".join(words)


# acting ------------------------------------------------------------------------------------


class _Name(str):
    """The name of an account that was given as ``user:NAME``, and may be a number."""


def _id_or_name(text: str) -> str:
    return _Name(text.removeprefix(_BY_NAME)) if text.startswith(_BY_NAME) else text


@click.command(cls=Command)
@click.argument("who", shell_complete=account_names, type=_id_or_name, metavar="ID|USER")
@root_option
@click.option(
    "--user",
    "is_user",
    hidden=True,
    is_flag=True,
    help="Treat the argument as a user name, as user:NAME does.",
)
@json_option
def kick(who: str, root: Path, is_user: bool, as_json: bool) -> None:
    """End a session, or all sessions of a user.

    The client does not reconnect by itself. To keep a user out, run `ftpd user disable`.
    """
    server = _running(root)
    by_id = who.isascii() and who.isdigit() and not (is_user or isinstance(who, _Name))
    try:
        answer = server.kick(session=int(who)) if by_id else server.kick(user=_text(who))
    except NotFound:
        if by_id or not _has_none(server, root, who):
            raise
        echo(records.action_record("kick", ended=[]), f"{who} has no sessions", as_json)
        return
    _report_silent(answer)
    ended = answer.sessions
    record = records.action_record("kick", ended=ended)
    echo(record, f"ended {counted_as(len(ended), 'session')}", as_json)


def _has_none(server: Control, root: Path, user: str) -> bool:
    """Return whether an account surely has no session. Raises NotFound if there is no account."""
    from ftpserver.accounts.accounts import Accounts

    Accounts(open_root(root, changing=False), root.absolute()).get(user)
    answer = server.sessions()
    return not answer.silent and all(one.user != user for one in answer.sessions)


@click.command(cls=Command)
@root_option
@json_option
def bans(root: Path, as_json: bool) -> None:
    """List banned addresses.

    An address is banned after failed log-ins (some bans are for one account only), and after too
    many connections without a log-in.
    """
    tables.print_list(
        _running(root).bans().bans,
        as_json,
        _BAN_COLUMNS,
        "no bans",
        row=_ban_cells,
        fields=_ban_fields,
        record=records.ban_record,
    )


_BAN_COLUMNS = (
    tables.Column("ADDRESS"),
    tables.Column("ACCOUNT", is_cut=True),
    tables.Column("FOR ANOTHER"),
    tables.Column("AFTER", rank=1, is_cut=True),
)


def _ban_fields(one: BanInfo) -> tuple[object, ...]:
    return one.address, one.account, records.iso_of(one.until), one.failures, one.reason


def _ban_cells(one: BanInfo) -> tuple[str, ...]:
    return (
        paths.show(one.address),
        "all" if one.account is None else paths.show(one.account),
        span(one.until - time.time()),
        paths.show(one.reason or counted_as(one.failures, "failed log-in")),
    )


@click.command(cls=Command)
@click.argument("address", required=False)
@click.argument("account", shell_complete=account_names, required=False)
@click.option("--all", "everybody", is_flag=True, help="Lift all bans.")
@root_option
@json_option
def unban(
    address: str | None, account: str | None, everybody: bool, root: Path, as_json: bool
) -> None:
    """Lift the bans of an address.

    Its failed log-ins are forgotten.
    """
    if (address is None) != everybody:
        raise click.UsageError("name an ADDRESS, or use --all")
    subject = None if address is None else _text(" ".join(filter(None, (address, account))))
    lifted = _running(root).unban(subject).bans
    if as_json:
        for one in lifted:
            click.echo(json.dumps(records.action_record("unban", **records.ban_record(one))))
    else:
        click.echo(f"lifted {counted_as(len(lifted), 'ban')}")


@click.command(cls=Command)
@root_option
@json_option
def reload(root: Path, as_json: bool) -> None:
    """Reload settings and certificate.

    Sessions go on. SIGHUP does the same, but the command shows errors.
    """
    try:
        lines = _running(root).reload().lines
    except SettingsError as error:
        raise SettingsError(error.problems, "the running settings were not changed") from None
    if as_json:
        click.echo(json.dumps(records.action_record("reload", changes=list(lines))))
        return
    for line in lines or ["nothing has changed"]:
        click.echo(paths.printable(line))


@click.command(cls=Command)
@root_option
@click.option(
    "--timeout",
    type=typed(seconds().parse),
    metavar="DURATION",
    help="Exit after this time at the latest, e.g. 90s or 10m (default: no limit).",
)
@json_option
def drain(root: Path, timeout: float | None, as_json: bool) -> None:
    """Stop accepting connections; exit after the last session.

    Sessions without a request for half a minute are closed. Returns when the server has exited;
    Ctrl-C only ends the waiting.
    """
    text = "draining: no new connections, waiting for the sessions to end"
    _end(root, lambda server: server.drain(timeout), "drain", as_json, text)


@click.command(cls=Command)
@root_option
@click.option(
    "--grace",
    type=typed(seconds().parse),
    metavar="DURATION",
    help="Allow running transfers this long, e.g. 90s (default: the --grace of start).",
)
@json_option
def stop(root: Path, grace: float | None, as_json: bool) -> None:
    """Shut the server down gracefully.

    Returns when the server has exited.
    """
    _end(root, lambda server: server.stop(grace), "stop", as_json)


def _end(
    root: Path,
    end: Callable[[Control], Stopping],
    action: str,
    as_json: bool,
    text: str | None = None,
) -> None:
    from ftpserver.daemon import control

    for _ in control.ask_until_end(state_of(root.absolute()), end):
        finish_now()  # record it now: the server may take hours to exit
        if text is not None:
            remark(text)
    echo(records.action_record(action), "the server has exited", as_json)


def _text(argument: str) -> str:
    """Return an argument as valid Unicode for JSON; no name has the replaced characters."""
    return argument.encode("utf-8", "replace").decode()


COMMANDS = (status, sessions, kick, bans, unban, reload, drain, stop)
