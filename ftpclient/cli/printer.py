"""Results of a transfer as they come: JSON lines, names with -v, error messages.

Lives here: the listeners for pipes and for --quiet. Lives elsewhere: bars (bars.py), choosing the
listener (progress.py), texts (render.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftpclient.cli import render
from ftpclient.transfer.report import Listener, Result
from ftpwire import paths, standard
from ftpwire.errors import Cancelled, ConnectionLost

if TYPE_CHECKING:
    from ftpclient.cli.app import App


_FIRST_LINE = 5.0
"""Seconds without a connection before that is printed; then again whenever the time doubled."""
_LAST_LINE = 60.0
"""The longest interval between these lines, in seconds."""


class Printer(Listener):
    """A listener that prints results: JSON, or names with -v; failures always go to stderr.

    Args:
        action: The transfer's action in JSON: ``put`` or ``get``. Steps of a sync and of a dry run
            have actions of their own.
    """

    def __init__(self, app: App, action: str = "") -> None:
        self._app = app
        self._action = action
        self._next_line = _FIRST_LINE

    def started(self, name: bytes, size: int | None) -> None:
        self._app.flush()  # it may take long until something else is printed
        self._note(size or 0)

    def _note(self, size: int) -> None:
        """Note the transfer as unfinished while it runs, if it is large."""
        if self._app.shell.note is not None:
            self._app.shell.note.begin(size)

    def finished(self, result: Result) -> None:
        try:
            self._finished(result)
        except standard.ReaderLeft:  # not raised among pending replies: the transfer stops itself
            self.enough = True

    def _finished(self, result: Result) -> None:
        if self._app.as_json:
            from ftpclient.cli import records

            self._app.print_json(records.result_record(result, self._action))
            return
        if result.remark is not None:
            self.remark(f"{paths.show(result.source)}: {result.remark}")
        if isinstance(result.error, (Cancelled, ConnectionLost)):
            return  # it affects all files: reported once, at the command's end
        if result.error is not None and result.status == "failed":
            self._app.complain(result.error)
        elif result.error is not None:
            if result.error.code == "not-regular" or self._app.verbose:
                self._app.say(f"ftp: skipped: {paths.printable(str(result.error))}")
        else:
            self._app.flush()  # failures before and after it are not in a row
            self._succeeded(result)

    def _succeeded(self, result: Result) -> None:
        if result.step is not None:
            if self._app.verbose or result.status == "planned":
                same = result.status == "planned" and result.unchanged
                self._app.print(render.step_line(result.step, "same" if same else ""))
        elif self._app.verbose:
            self._app.print(f"{paths.show(result.source)} -> {paths.show(result.target)}")

    def remark(self, text: str) -> None:
        self._app.say(f"ftp: {paths.printable(text)}")

    def waiting(self, lost: float, left: float) -> None:
        if left and lost >= self._next_line:
            self._next_line = lost + min(lost, _LAST_LINE)
            self._app.say(f"ftp: {render.waiting_line(lost, left)}")

    def regained(self) -> None:
        self._next_line = _FIRST_LINE


class Complaining(Printer):
    """A listener without --json and -v, which prints only failures and remarks of single files."""

    def all_stored(self, results: Sequence[Result]) -> None:
        if any([result.remark is not None for result in results]):
            super().all_stored(results)
            return
        try:
            self._app.flush()  # failures before and after them are not in a row
        except standard.ReaderLeft:
            self.enough = True
