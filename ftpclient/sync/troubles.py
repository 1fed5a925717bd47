"""Reporting, during the comparison, what a sync cannot mirror or skips.

Lives here: the error texts.
Lives elsewhere: the consequences for the plan (policy.py), reporting each one once (job.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ftpclient.sync.directories import join
from ftpclient.sync.plan import Route, Step
from ftpclient.transfer.report import Result, Status
from ftpwire import paths
from ftpwire.errors import CommandError, InvalidPath, NotRegular, from_oserror
from ftpwire.messages import Failed, Problem


class Troubles:
    """Reports what cannot be mirrored or is skipped.

    Args:
        report: Called with each result.
    """

    def __init__(self, route: Route, report: Callable[[Result], None]) -> None:
        self._route = route
        self._report = report
        self._longest = paths.MAX_PATH - len(paths.child(route.remote, b""))
        """Maximum length of a relative path in a request, in bytes."""

    def report(self, path: bytes, error: CommandError, *, skipped: bool = False) -> None:
        """Report a path that failed or is skipped."""
        source, target = self._route.source(path), self._route.target(path)
        step = Step(self._route.verb, path)
        status: Status = "skipped" if skipped else "failed"
        self._report(Result(source, target, 0, status, error=error, step=step))

    def local(self, path: bytes, error: OSError | CommandError) -> CommandError:
        """Report a local path that cannot be read; return the error."""
        return self._unreadable(path, error, self._route.local_path(path))

    def remote(self, path: bytes, problem: Problem) -> CommandError:
        """Report a remote path that cannot be read; return the error."""
        text = f"{paths.show(self._route.remote_path(path))}: {problem.message}"
        error = Failed(problem.code, text).to_error()
        if not isinstance(error, CommandError):
            error = CommandError(text)
        self.report(path, error)
        return error

    def in_source(self, path: bytes, error: OSError | CommandError) -> CommandError:
        """Report a file of the source that must be read first, and cannot be; return the error."""
        return self._unreadable(path, error, self._route.source(path))

    def _unreadable(self, path: bytes, error: OSError | CommandError, shown: bytes) -> CommandError:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        self.report(path, error)
        return error

    def is_too_long(self, directory: bytes, name: bytes) -> bool:
        """Return whether a path is too long for a request. Reports it as a failure if so."""
        if len(directory) + 1 + len(name) <= self._longest:
            return False
        path = join(directory, name)
        if len(path) <= self._longest:
            return False
        shown = paths.show(self._route.source(path)[:40])
        self.report(path, InvalidPath(f"{shown}…: longer than {paths.MAX_PATH} bytes"))
        return True

    def pass_over(self, path: bytes) -> None:
        """Report a path as skipped because it is not a file, directory or link."""
        shown = paths.show(self._route.source(path))
        error = NotRegular(f"{shown}: not a regular file, directory or link")
        self.report(path, error, skipped=True)
