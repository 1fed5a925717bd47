"""Options, output and errors that all commands of `ftpd` share."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ftpserver.cli.records import error_record
from ftpserver.settings.table import DATABASE, DEFAULT_ROOT, never_started, state_of
from ftpwire.errors import FtpError
from ftpwire.paths import printable
from ftpwire.units import parse_size, parse_typed_size

if TYPE_CHECKING:
    from sqlalchemy import Engine

EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_DAMAGE = 8
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Value = TypeVar("_Value")


def typed(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Return a parser for click that turns the ValueError of ``parse`` into a BadParameter."""

    def read(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read


size = typed(parse_size)
"""Parse a size in bytes: 10MiB, 1.5G, 4096."""
limit = typed(parse_typed_size)
"""Parse a limit in bytes, for which a small number without a unit is refused."""


def root_option(function: _Function) -> _Function:
    """Add the option --root."""
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_ROOT,
        envvar="FTPD_ROOT",
        help=f"Act on the server in this directory (default: {DEFAULT_ROOT}).",
    )(function)


def started(root: Path) -> Path:
    """Return the state directory of a root that has accounts; fail for any other root.

    Nothing is created in another root, which was probably mistyped.
    """
    absolute = root.absolute()
    if (why := never_started(absolute)) is not None:
        fail(why)
    return state_of(absolute)


def open_root(
    root: Path, *, begin: bool = False, changing: bool = True, trying: bool = False
) -> Engine:
    """Open the database of a root.

    Args:
        begin: True to create a missing one.
        changing: False to open it read-only, even on a read-only disk.
        trying: True if, with ``changing`` False, changes are tried and rolled back.
    """
    from ftpserver.database import open_state, open_to_look

    if not changing:
        return open_to_look(started(root), trying=trying)
    act_as_owner(root)
    return open_state(state_of(root.absolute()) if begin else started(root))


def act_as_owner(root: Path) -> None:
    """If run as root, become the server's user, so that this user owns files that are created.

    That is the owner of the accounts file or, if there is none yet, of ROOT/.ftpd or ROOT.
    """
    if os.geteuid() != 0:
        return
    state = state_of(root.absolute())
    owner = next(filter(None, map(_stat, (state / DATABASE, state, root))), None)
    if owner is None or owner.st_uid == 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:  # e.g. in a container without a user database
        gid, groups = owner.st_gid, [owner.st_gid]
    else:
        gid, groups = user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    try:
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(owner.st_uid)
    except OSError as error:
        reason = (error.strerror or "").lower()
        fail(f"cannot become the server's user {owner.st_uid}, who must own new files: {reason}")
    if not all(map(_can_read, (os.__file__, __file__))):
        whom = f"the server's user {owner.st_uid}"
        fail(f"{whom} cannot read this program: run the command as that user")


def _can_read(path: str) -> bool:
    return os.access(path, os.R_OK, effective_ids=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def counted_as(number: int, what: str) -> str:
    """Format a number and a noun: ``1 file``, ``2 files``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def echo(record: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print the record as JSON, or the human-readable text."""
    click.echo(json.dumps(record) if as_json else text)


def wants_json() -> bool:
    """Return whether the command line has --json.

    The arguments are searched unparsed, as errors in them are printed as JSON, too.
    """
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def remark(text: str) -> None:
    """Print a remark on stderr."""
    shown = printable(text)
    click.echo(json.dumps({"remark": shown}) if wants_json() else f"ftpd: {shown}", err=True)


def complain(
    message: str,
    status: int = EXIT_FAILED,
    *,
    code: str = FtpError.code,
    path: bytes | None = None,
) -> None:
    """Print an error on stderr, in one line.

    Args:
        status: The exit status because of it.
        code: The error's code, for JSON.
        path: The remote path that it concerns, if any.
    """
    if wants_json():
        click.echo(json.dumps(error_record(message, code, status, path)), err=True)
    else:
        click.echo(f"ftpd: {printable(message)}", err=True)


def fail(
    message: str,
    status: int = EXIT_FAILED,
    *,
    code: str = FtpError.code,
    path: bytes | None = None,
) -> NoReturn:
    """Print an error, as `complain`, and exit."""
    complain(message, status, code=code, path=path)
    sys.exit(status)


def fail_for_settings(problems: list[str], then: str | None = None) -> NoReturn:
    """Print the problems of invalid settings on stderr, one per line, and exit.

    Args:
        then: A remark after them.
    """
    if wants_json():
        message = "; ".join(problems)
        record = error_record(message, "configuration", EXIT_CONFIGURATION)
        record["problems"] = list(map(printable, problems))
        click.echo(json.dumps(record), err=True)
    else:
        for problem in problems:
            complain(problem)
    if then is not None:
        remark(then)
    sys.exit(EXIT_CONFIGURATION)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one object per line."
)
