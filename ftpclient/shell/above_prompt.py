"""Messages of jobs while a line is typed: lines above the prompt, and a line below it.

Lives here: when they are drawn. Lives elsewhere: their texts (cli/job_lines.py), notices at other
times (cli/job_display.py), the prompt (shell.py).

The line editor runs in the event loop of the main thread. Everything here happens in that loop;
the thread of the jobs only asks it to look. What was typed, and the cursor, stay.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.utils import is_dumb_terminal

from ftpclient.cli import job_display, job_lines
from ftpclient.cli.app import App
from ftpwire import standard

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import StyleAndTextTuples

_LINES_EVERY_SECONDS = 1.0
"""Interval of messages. The end of a job is shown at once."""
_REDRAW_EVERY_SECONDS = 0.5


class AbovePrompt:
    """Shows notices about jobs above a prompt, and those that run below it.

    Args:
        session: The session of the prompt.
    """

    def __init__(self, app: App, session: PromptSession[str]) -> None:
        self._app = app
        self._session = session
        self._is_asked_to_look = False
        self._is_printing = False
        self._printing: asyncio.Future[None] | None = None  # a loop keeps no reference to it
        self._timer: asyncio.TimerHandle | None = None
        self._printed_at = self._drawn_at = -math.inf

    def begin(self) -> None:
        """Print what is due before a prompt, and prepare the line below it."""
        # what the loop of the last prompt was asked to do may not have been done
        self._is_asked_to_look = self._is_printing = False
        self._timer = None
        job_display.print_notices(self._app)
        self._printed_at = time.monotonic()
        self._set_line()

    def changed(self) -> None:
        """Show a change soon, if a line is being typed. Any thread may call it,
        without waiting."""
        loop = self._session.app.loop
        if loop is None or is_dumb_terminal() or self._is_asked_to_look:
            return
        self._is_asked_to_look = True
        with suppress(RuntimeError):  # the loop has just ended: `begin` shows it
            loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Show what is due; look again when more is."""
        self._is_asked_to_look = False
        jobs = self._app.shell.jobs
        if jobs is None or not self._session.app.is_running or self._is_printing:
            return
        now = time.monotonic()
        lines_due = self._printed_at + _LINES_EVERY_SECONDS if jobs.has_notices else math.inf
        if now >= lines_due or jobs.has_ended_some:
            self._is_printing = True
            self._printing = asyncio.ensure_future(self._print())
            return
        line_due = self._drawn_at + _REDRAW_EVERY_SECONDS
        if now >= line_due:
            self._draw(now)
            line_due = math.inf
        self._look_again(min(lines_due, line_due) - now)

    def _look_again(self, seconds: float) -> None:
        """Look after this time, and at no other that was planned before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < math.inf:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    async def _print(self) -> None:
        """Print notices above the prompt, which is then drawn again."""
        try:
            await run_in_terminal(self._print_now)
        finally:
            self._is_printing = False
        self._printed_at = time.monotonic()
        self._draw(self._printed_at)

    def _print_now(self) -> None:
        with suppress(standard.ReaderLeft):  # the shell ends after this line
            job_display.print_notices(self._app)

    def _draw(self, now: float) -> None:
        """Draw the line below the prompt, except while the history is searched."""
        self._drawn_at = now
        if not self._session.app.layout.is_searching:
            self._set_line()
            self._session.app.invalidate()

    def _set_line(self) -> None:
        jobs = self._app.shell.jobs
        shows = jobs is not None and bool(jobs.active()) and not self._app.quiet
        self._session.bottom_toolbar = self._line if shows else None

    def _line(self) -> StyleAndTextTuples:
        jobs = self._app.shell.jobs
        width = self._session.output.get_size().columns - 1
        return [("", "" if jobs is None else job_lines.below_prompt(jobs.active(), width))]
