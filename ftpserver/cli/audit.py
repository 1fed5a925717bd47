"""Administration in the audit log: each command that changes something leaves a record.

Lives here: which commands, and what is recorded of them. Lives elsewhere: the record itself
(audit/trail.py), the commands (the other cli modules).

A record has the options as they were given, so none of them may ever be a secret: passwords come
from stdin, a terminal or a variable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ftpserver.settings.table import DATABASE, state_of
from ftpwire.errors import FtpError

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
    "token revoke": "token-revoke",
    "invite": "invite",
    "kick": "kick",
    "unban": "unban",
    "drain": "drain",
    "stop": "stop-asked",
    "recount": "recount",
    "scrub": "scrub",
    "backup": "backup",
}
"""Commands by their words, and what their records are called."""

_WHO = ("name", "user", "who")
_NOT_TOLD = frozenset({"root", "as_json", "password_stdin", "yes"})
_LOOKING = frozenset({"listing", "list_all", "show", "as_list"})
"""Options that make a command of one that only looks."""


def audit_commands(group: click.Group) -> None:
    """Have the commands of a group leave records."""
    for words, event in AUDITED.items():
        command: click.Command | None = group
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.commands.get(word)
        if command is not None and command.callback is not None:
            command.callback = _audited(command.callback, event)


def _audited(callback: Callable[..., Any], event: str) -> Callable[..., Any]:
    @functools.wraps(callback)
    def run(*args: Any, **given: Any) -> Any:
        context = click.get_current_context()
        try:
            result = callback(*args, **given)
        except FtpError as error:
            _record(context, event, error)
            raise
        _record(context, event, None)
        return result

    return run


def _record(context: click.Context, event: str, error: FtpError | None) -> None:
    from ftpserver.audit.record import FAILED, OK
    from ftpserver.audit.writer import administered

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
        return  # nothing was ever started there
    who = next((given.pop(name) for name in _WHO if name in given), None)
    details = {name: _told(value) for name, value in given.items() if name not in _NOT_TOLD}
    administered(
        state,
        event,
        outcome=OK if error is None else FAILED,
        user=None if who is None else str(who),
        details=details or None,
        code=None if error is None else error.code,
        reason=None if error is None else str(error),
    )


def _told(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_told(one) for one in value]
    return str(getattr(value, "name", value))
