"""Audit records of administration: each command that changes something writes one.

Lives here: the audited commands and the details in their records. Lives elsewhere: writing a
record (audit/administration.py), the commands (the other cli modules).

A record has the options as they were given, so no option may be a secret: passwords come from
standard input, a terminal or a variable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ftpserver.errors import StateError
from ftpserver.settings.table import DATABASE, state_of
from ftpwire.errors import FtpError

OK, FAILED, CUT = "ok", "failed", "cut"
"""Outcomes, as in audit/record.py, which is slow to import."""

AUDITED = {
    "user add": "user-add",
    "user set": "user-set",
    "user passwd": "user-passwd",
    "user disable": "user-disable",
    "user enable": "user-enable",
    "user rename": "user-rename",
    "user remove": "user-remove",
    "user export": "user-export",
    "user import": "user-import",
    "user tokens": "token-revoke",
    "token revoke": "token-revoke",
    "invite": "invite",
    "kick": "kick",
    "unban": "unban",
    "reload": "reload-asked",
    "drain": "drain",
    "stop": "stop-asked",
    "trash restore": "trash-restore",
    "trash empty": "trash-empty",
    "recount": "recount",
    "scrub": "scrub",
    "backup": "backup",
}
"""The audited commands and the events of their records."""

_WHO = ("name", "user", "who")
_PENDING = "ftpserver.cli.audit.pending"
_DETAILS = "ftpserver.cli.audit.details"
_NOT_RECORDED = frozenset({"root", "as_json", "password_stdin", "yes"})
_CHANGING = {"user tokens": frozenset({"token_id", "revoke_all"})}
"""Options without which a command changes nothing."""
_LOOKING = frozenset({"listing", "list_all", "show", "as_list"})
"""Options with which a command changes nothing."""


def audit_commands(group: click.Group) -> None:
    """Make the audited commands of a group write records."""
    for words, event in AUDITED.items():
        command: click.Command | None = group
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.commands.get(word)
        if command is not None and command.callback is not None:
            command.callback = _audited(command.callback, event, _CHANGING.get(words))


def _audited(
    callback: Callable[..., Any], event: str, changing: frozenset[str] | None
) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **given: Any) -> Any:
        context = click.get_current_context()
        if changing is not None and not any(context.params[name] for name in changing):
            return callback(*args, **given)
        context.meta[_PENDING] = functools.partial(_record, context, event)
        try:
            result = callback(*args, **given)
        except click.ClickException:
            raise  # a wrong option: nothing was done
        except (FtpError, StateError, OSError) as error:
            _finish(FAILED, error)
            raise
        except (SystemExit, click.exceptions.Exit) as ended:
            status = ended.code if isinstance(ended, SystemExit) else ended.exit_code
            _finish(FAILED if status else OK)
            raise
        except BaseException:  # Ctrl-C or a closed pipe: the command may have had its effect
            _finish(CUT)
            raise
        _finish(OK)
        return result

    return run


def finish_now() -> None:
    """Record the running command as successful now: it only waits from here on."""
    _finish(OK)


def add_details(**details: str) -> None:
    """Add details to the running command's record that are not among its options."""
    click.get_current_context().meta[_DETAILS] = details


def _finish(outcome: str, error: Exception | None = None) -> None:
    record = click.get_current_context().meta.pop(_PENDING, None)
    if record is not None:
        record(outcome, error)


def _record(context: click.Context, event: str, outcome: str, error: Exception | None) -> None:
    from ftpserver.audit.administration import administered

    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    root = context.params.get("root")
    if not isinstance(root, Path) or _LOOKING & given.keys():
        return
    state = state_of(root.absolute())
    if not (state / DATABASE).is_file():
        return  # no server was ever started there
    who = next((given.pop(name) for name in _WHO if name in given), None)
    address = given.pop("address", None)
    details = {name: _as_json(value) for name, value in given.items() if name not in _NOT_RECORDED}
    details |= context.meta.get(_DETAILS, {})
    administered(
        state,
        event,
        outcome=outcome,
        user=None if who is None else str(who),
        address=address,
        details=details or None,
        code=error.code if isinstance(error, FtpError) else None,
        reason=None if error is None else str(error),
    )


def _as_json(value: Any) -> Any:
    """Convert a value to one that JSON can hold."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_as_json(one) for one in value]
    return str(getattr(value, "name", value))
