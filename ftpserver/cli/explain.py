"""The command `ftpd why`, which explains whether a user may do something.

Lives here: parsing the question and printing the answer. Lives elsewhere: finding the answer
(admin/explain.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftpserver.cli.account_names import account_names
from ftpserver.cli.options import json_option, root_option, size
from ftpwire import paths
from ftpwire.command_help import Command
from ftpwire.units import human

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from ftpserver.accounts.account import Account
    from ftpserver.admin.explain import Explainer, Running, Verdict

EXIT_REFUSED = 6


@click.command(cls=Command)
@click.argument("user", shell_complete=account_names)
@click.argument("action", type=click.Choice(["login", "put", "get", "ls", "mkdir", "rm", "mv"]))
@click.argument("details", nargs=-1)
@click.option(
    "-r", "--recursive", is_flag=True, help="Ask about a directory with its contents (rm)."
)
@click.option("--links", is_flag=True, help="Ask about a symbolic link itself (get).")
@click.option(
    "-L",
    "--copy-links",
    is_flag=True,
    hidden=True,
    help="Do nothing: links are followed in any case.",
)
@root_option
@json_option
def why(
    user: str,
    action: str,
    details: tuple[str, ...],
    recursive: bool,
    links: bool,
    copy_links: bool,
    root: Path,
    as_json: bool,
) -> None:
    """Explain whether a user may do something, and why.

    \b
    ftpd why USER login [ADDRESS]
    ftpd why USER put PATH [SIZE]
    ftpd why USER get PATH
    ftpd why USER ls PATH
    ftpd why USER mkdir PATH
    ftpd why USER rm PATH
    ftpd why USER mv PATH NEWPATH

    Names the permission, quota, limit or ban that decides. Nothing is done. The answer applies to
    the current settings file and, if a server runs, to its bans and sessions.
    """
    from ftpserver.cli.users import open_accounts

    if recursive and action != "rm":
        raise click.UsageError("--recursive only works with rm")
    if (links or copy_links) and action != "get":
        raise click.UsageError(f"--{'links' if links else 'copy-links'} only works with get")
    accounts, engine = open_accounts(root, changing=False, trying=True)
    account = accounts.get(user)
    verdict = _ASK[action](_Question(engine, root, account, action, details, recursive, links))
    if as_json:
        record = {"allowed": verdict.allowed, "user": user, "action": action}
        click.echo(json.dumps(record | asdict(verdict)))
    else:
        for line in _lines(verdict):
            click.echo(line)
    if not verdict.allowed:
        sys.exit(EXIT_REFUSED)


class _Question:
    """The question, whose details are taken one by one."""

    def __init__(
        self,
        engine: Engine,
        root: Path,
        account: Account,
        action: str,
        details: tuple[str, ...],
        recursive: bool,
        links: bool,
    ) -> None:
        self.engine = engine
        self.root = root
        self.account = account
        self.recursive = recursive
        self.links = links
        self._action = action
        self._details = list(details)

    def path(self) -> bytes:
        """Take the next detail as a remote path."""
        if not self._details:
            raise click.UsageError(f"{self._action}: missing PATH")
        typed = paths.from_text(self._details.pop(0)).removeprefix(b":")
        return paths.resolve(paths.ROOT, typed)

    def more(self) -> str | None:
        """Take the next detail, if there is one."""
        return self._details.pop(0) if self._details else None

    def end(self) -> None:
        """Check that all details were taken."""
        if self._details:
            raise click.UsageError(f"{self._action}: unexpected argument {self._details[0]!r}")

    def asking(self) -> Explainer:
        """Return the object that answers questions about the account's files."""
        from ftpserver.accounts.trash_policy import policy_of
        from ftpserver.admin.explain import Explainer
        from ftpserver.cli.config import read_settings

        policy = policy_of(self.account, read_settings(self.root))
        return Explainer(self.engine, self.root, self.account, policy)


def _login(question: _Question) -> Verdict:
    from ftpserver.admin.explain import log_in
    from ftpserver.cli.config import read_settings
    from ftpserver.net.addresses import LOCAL, host_of

    given = question.more()
    question.end()
    try:
        host = LOCAL if given is None else host_of((given,))
    except ValueError:
        raise click.UsageError(f"{given!r} is not an IP address") from None
    settings = read_settings(question.root)
    running = _running(settings.state, host, question.account.name)
    return log_in(question.engine, settings, question.account, host, running)


def _running(state: Path, host: str, name: str) -> Running:
    """Ask the running server for its bans and sessions, which are not stored."""
    from ftpserver.admin.explain import Running
    from ftpserver.daemon.control import running
    from ftpwire.errors import ConnectFailed, FtpError

    try:
        found = running(state).entry(host, name)
    except ConnectFailed:
        return Running(note="no server runs: bans and running sessions are unknown")
    except FtpError as error:
        return Running(note=f"the server could not be asked about connections: {error}")
    return Running(found.turned_away, found.too_many, found.note, found.banned, is_there=True)


def _put(question: _Question) -> Verdict:
    path, given = question.path(), question.more()
    question.end()
    bytes_ = None if given is None else size(given)
    return question.asking().put(path, bytes_)


def _get(question: _Question) -> Verdict:
    path = question.path()
    question.end()
    return question.asking().get(path, follow=not question.links)


def _list(question: _Question) -> Verdict:
    path = question.path()
    question.end()
    return question.asking().list(path)


def _make_dir(question: _Question) -> Verdict:
    path = question.path()
    question.end()
    return question.asking().make_dir(path)


def _remove(question: _Question) -> Verdict:
    path = question.path()
    question.end()
    return question.asking().remove(path, recursive=question.recursive)


def _move(question: _Question) -> Verdict:
    source, target = question.path(), question.path()
    question.end()
    return question.asking().move(source, target)


_ASK: dict[str, Callable[[_Question], Verdict]] = {
    "login": _login,
    "put": _put,
    "get": _get,
    "ls": _list,
    "mkdir": _make_dir,
    "rm": _remove,
    "mv": _move,
}


def _lines(verdict: Verdict) -> list[str]:
    said = "allowed" if verdict.allowed else "refused"
    lines = [f"{said}: {verdict.reason}"]
    if verdict.allowed and verdict.rule is not None:
        lines.append(f"rule: {verdict.rule}")
    if verdict.needed is not None:
        free = "unlimited" if verdict.free is None else human(verdict.free)
        lines.append(f"space: {human(verdict.needed)} needed, {free} free")
    if not verdict.allowed:
        lines.append(f"decided by: {verdict.decided_by}")
    if verdict.advice is not None:
        lines.append(f"to change it: {verdict.advice}")
    if verdict.note is not None:
        lines.append(f"note: {verdict.note}")
    return lines
