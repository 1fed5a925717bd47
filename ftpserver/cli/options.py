"""Options and exits that all commands of `ftpd` share."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from ftpserver.settings.table import DEFAULT_ROOT, never_started, state_of
from ftpwire.paths import plain_text, printable
from ftpwire.units import parse_size, parse_typed_size

EXIT_FAILED = 1
EXIT_DAMAGE = 8
_Function = TypeVar("_Function", bound=Callable[..., Any])


def size(text: str) -> int:
    """Bytes, as people write them: 10MiB, 1.5G, 4096."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def limit(text: str) -> int:
    """The same for a limit, where a small number without a unit is a mistake."""
    try:
        return parse_typed_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def root_option(function: _Function) -> _Function:
    """The option --root, the same for every command."""
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_ROOT,
        show_default=True,
        envvar="FTPD_ROOT",
        help="Directory of the homes; the server's own state is in its .ftpd.",
    )(function)


def started(root: Path) -> Path:
    """The state directory of a root that has accounts. Of any other, nothing is made: it is most
    likely mistyped."""
    absolute = root.absolute()
    if (why := never_started(absolute)) is not None:
        fail(why)
    return state_of(absolute)


def counted_as(number: int, what: str) -> str:
    """A number of things, for people: ``1 file``, ``2 files``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def path_record(name: str, path: bytes) -> dict[str, str]:
    """A path for JSON: text, and the bytes as well (``NAME_b64``) where they are no UTF-8."""
    text = plain_text(path)
    record = {name: text}
    if text.encode() != path:
        record[f"{name}_b64"] = base64.b64encode(path).decode("ascii")
    return record


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    """One line on stderr, and out."""
    click.echo(f"ftpd: {printable(message)}", err=True)
    sys.exit(status)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
