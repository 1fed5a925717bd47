"""Options and exits that all commands of `ftpd` share."""

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
EXIT_DAMAGE = 8
_Function = TypeVar("_Function", bound=Callable[..., Any])
_Value = TypeVar("_Value")


def typed(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """What reads an option's text for click, as ``parse`` does, which raises ValueError."""

    def read(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read


size = typed(parse_size)
"""Bytes, as people write them: 10MiB, 1.5G, 4096."""
limit = typed(parse_typed_size)
"""The same for a limit, where a small number without a unit is a mistake."""


def root_option(function: _Function) -> _Function:
    """The option --root, the same for every command."""
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_ROOT,
        envvar="FTPD_ROOT",
        help=f"Act on the server in this directory (default: {DEFAULT_ROOT}).",
    )(function)


def started(root: Path) -> Path:
    """The state directory of a root that has accounts. Of any other, nothing is made: it is most
    likely mistyped."""
    absolute = root.absolute()
    if (why := never_started(absolute)) is not None:
        fail(why)
    return state_of(absolute)


def open_root(
    root: Path, *, begin: bool = False, changing: bool = True, trying: bool = False
) -> Engine:
    """The database of a root.

    Args:
        begin: Make it where there is none yet.
        changing: Without, it is opened also where nothing can be written.
        trying: Changes are tried out then, and rolled back.
    """
    from ftpserver.database import open_state, open_to_look

    if not changing:
        return open_to_look(started(root), trying=trying)
    act_as_owner(root)
    return open_state(state_of(root.absolute()) if begin else started(root))


def act_as_owner(root: Path) -> None:
    """As root, go on as the user whose server it is: what a command makes is that user's then.

    That is the owner of the accounts file; before there is one, that of ROOT/.ftpd, or of ROOT.
    """
    if os.geteuid() != 0:
        return
    state = state_of(root.absolute())
    owner = next(filter(None, map(_stat, (state / DATABASE, state, root))), None)
    if owner is None or owner.st_uid == 0:
        return
    try:
        user = pwd.getpwuid(owner.st_uid)
    except KeyError:  # in a container, where nobody has a name
        gid, groups = owner.st_gid, [owner.st_gid]
    else:
        gid, groups = user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    try:
        os.setgroups(groups)
        os.setegid(gid)
        os.seteuid(owner.st_uid)
    except OSError as error:
        reason = (error.strerror or "").lower()
        fail(f"what root makes here the server's user {owner.st_uid} can't use: {reason}")
    if not all(map(_can_read, (os.__file__, __file__))):
        whom = f"the server's user {owner.st_uid}"
        fail(f"{whom} can't read this program: give the command as that user")


def _can_read(path: str) -> bool:
    return os.access(path, os.R_OK, effective_ids=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def counted_as(number: int, what: str) -> str:
    """A number of things, for people: ``1 file``, ``2 files``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def echo(record: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a line: the record as JSON, or what it says to people."""
    click.echo(json.dumps(record) if as_json else text)


def wants_json() -> bool:
    """Whether the command line says --json. It is looked at as it was given: what is wrong with it
    is told as JSON, too."""
    words = sys.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def remark(text: str) -> None:
    """Something to be known, on stderr; the command goes on."""
    shown = printable(text)
    click.echo(json.dumps({"remark": shown}) if wants_json() else f"ftpd: {shown}", err=True)


def complain(
    message: str,
    status: int = EXIT_FAILED,
    *,
    code: str = FtpError.code,
    path: bytes | None = None,
) -> None:
    """What went wrong, in one line on stderr.

    Args:
        status: The exit status that comes of it.
        code: The kind of error, for programs.
        path: The remote path that it is about, if it is one.
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
    """The same, and out."""
    complain(message, status, code=code, path=path)
    sys.exit(status)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one object per line."
)
