"""The shell: lines from a terminal or a script.

Lives here: choosing between the two, and the loop on the terminal.
Lives elsewhere: running a line (running.py), scripts and the rc file (scripts.py), jobs
(background.py, above_prompt.py), the prompt, completion, history and suggestions (modules of their
names).
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftpclient.cli import job_display, render, unfinished
from ftpclient.cli.app import App, Script, ShellState
from ftpclient.shell import background, prompt, scripts
from ftpclient.shell.expansion import check_command
from ftpclient.shell.lexer import goes_on, whole_lines
from ftpclient.shell.running import begins_with_command, run_line
from ftpwire import standard
from ftpwire.errors import CommandError, Interrupted

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output

    from ftpclient.client import Client
    from ftpclient.shell.above_prompt import AbovePrompt
    from ftpclient.shell.completion import ShellCompleter


_LONG = 10.0
"""Seconds after which the end of a line rings the bell."""


def run_shell(app: App, script: Script | None = None) -> int:
    """Run a script, or lines from the terminal, and return the exit status.

    Inside a shell, the script runs in that shell. Raises the errors of connecting and of reading
    the script.
    """
    if script is not None:
        return (
            scripts.source(app, script.path) if app.interactive else scripts.run_script(app, script)
        )
    if not sys.stdin.isatty():
        return scripts.run_script(app, Script(path="-"))
    app.interactive = True
    app.shell = ShellState(check_command=check_command)
    client = app.client
    if app.first_directory:
        client.change_dir(app.first_directory)
    _greet(app, client)
    if reminder := unfinished.reminder(client):
        app.say(reminder)
    scripts.run_rc(app, Path(app.rc) if app.rc else None)
    return _talk(app)


def _greet(app: App, client: Client) -> None:
    try:
        space = f": {render.space_words(client.space())}"
    except CommandError:
        space = ""  # the greeting works without it
    app.say(f"Connected to {client.address.endpoint}{space}. Type help for more.")


def _talk(app: App) -> int:
    from ftpclient.shell.above_prompt import AbovePrompt
    from ftpclient.shell.completion import ShellCompleter

    completer = ShellCompleter(app)
    session = _session(app, completer)
    app.shell.history = session.history.get_strings
    with background.running(app) as jobs:
        above = AbovePrompt(app, session)
        jobs.listeners.append(above.changed)
        return _run_typed(app, session, above, completer)


def _run_typed(
    app: App, session: PromptSession[str], above: AbovePrompt, completer: ShellCompleter
) -> int:
    """Run the lines typed at the prompt until the user leaves; return the exit status."""
    status = 0
    while not app.shell.leaving:
        above.begin()
        try:
            text = session.prompt(partial(_prompt, app, status, session.output))
        except KeyboardInterrupt:
            continue
        except EOFError:
            app.shell.warned_before = app.shell.warned
            if job_display.may_leave(app):
                break
            app.flush()
            continue
        for _, line in whole_lines(text.split("\n")):  # pasted text may have several
            began = time.monotonic()
            status = run_line(app, line)
            if app.shell.settings.is_on("bell") and time.monotonic() - began > _LONG:
                session.output.bell()
            completer.remote_names.forget()
            if app.shell.leaving or status == Interrupted.exit_code:
                break
        if standard.reader_left():
            return standard.READER_LEFT
        _begin_line(session.output)
    return app.shell.status


def _prompt(app: App, status: int, output: Output) -> FormattedText:
    """Return the prompt for the terminal's current width."""
    from prompt_toolkit.formatted_text import FormattedText

    return FormattedText(prompt.parts(app, status, output.get_size().columns))


def _begin_line(output: Output) -> None:
    """Move the cursor to the beginning of a line, without overwriting output.

    A file's last line may have no end, and the prompt would overwrite it. The cursor's position
    is unknown, so a line of blanks is written: it wraps to the next line unless the cursor was at
    the beginning.
    """
    from prompt_toolkit.utils import is_dumb_terminal

    if not is_dumb_terminal():
        output.write_raw(" " * (output.get_size().columns - 1) + "\r")
        output.erase_end_of_line()
        output.flush()


def _session(app: App, completer: ShellCompleter) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output
    from prompt_toolkit.shortcuts import CompleteStyle

    from ftpclient.shell.history import LineHistory
    from ftpclient.shell.suggestions import FromThisServer

    def server() -> str:
        return "" if app.known_client is None else str(app.known_client.address)

    history = LineHistory(
        is_secret=app.holds_password,
        is_command=lambda line: begins_with_command(app, line),
        server=server,
    )
    return PromptSession(
        history=history,
        auto_suggest=FromThisServer(app, history),
        enable_open_in_editor=True,
        completer=completer,
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        enable_suspend=True,
        reserve_space_for_menu=0,
        output=create_output(always_prefer_tty=True),
        key_bindings=_keys(),
        prompt_continuation="… ",
    )


def _keys() -> KeyBindings:
    from prompt_toolkit.application import get_app
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @Condition
    def suggested() -> bool:
        buffer = get_app().current_buffer
        return buffer.suggestion is not None and buffer.document.is_cursor_at_the_end

    @keys.add("end", filter=has_focus(DEFAULT_BUFFER) & suggested)
    def take(event: KeyPressEvent) -> None:
        """Accept the suggestion, as the right arrow does."""
        suggestion = event.current_buffer.suggestion
        if suggestion is not None:
            event.current_buffer.insert_text(suggestion.text)

    unfinished = Condition(lambda: goes_on(get_app().current_buffer.text))

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER) & unfinished)
    def go_on(event: KeyPressEvent) -> None:
        """Begin a new line at the end of an unfinished one, instead of running it."""
        buffer = event.current_buffer
        buffer.cursor_position = len(buffer.text)
        buffer.newline(copy_margin=False)

    return keys
