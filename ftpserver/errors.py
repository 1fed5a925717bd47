"""Errors of the server's own state.

Lives here: errors of start and administration. Lives elsewhere: errors that are sent to clients
(ftpwire/errors.py).
"""

from __future__ import annotations


class StateError(Exception):
    """The server's state cannot be used; the text is one line for the administrator."""


class SettingsError(StateError):
    """Settings are invalid.

    Attributes:
        problems: Human-readable descriptions, one line for each problem.
        remark: What follows from it, if there is more to say.
    """

    def __init__(self, problems: list[str], remark: str | None = None) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.remark = remark


class RootBusy(StateError):
    """Another server is already running for this root.

    Attributes:
        process: Its process ID as text; ``?`` if it is unknown.
    """

    def __init__(self, message: str, process: str) -> None:
        super().__init__(message)
        self.process = process
