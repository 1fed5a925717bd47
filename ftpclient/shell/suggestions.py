"""Suggestions while a line is typed: the rest of an earlier line.

Lives here: choosing the line. Lives elsewhere: the lines (history.py), the key that accepts a
suggestion (shell.py).
"""

from __future__ import annotations

from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

from ftpclient.cli.app import App
from ftpclient.shell.history import LineHistory

_LEAST_COLUMNS = 40


class FromThisServer(AutoSuggest):
    """Suggests the last line given to this server that begins with the typed text."""

    def __init__(self, app: App, history: LineHistory) -> None:
        self._app = app
        self._history = history

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        """Return the suggested rest of the line, or None."""
        from prompt_toolkit.application import get_app

        typed = document.text
        if not typed.strip() or not self._app.shell.settings.is_on("suggestions"):
            return None
        if get_app().output.get_size().columns < _LEAST_COLUMNS:
            return None
        line = self._history.last_of_server(typed)
        return None if line is None else Suggestion(line[len(typed) :])
