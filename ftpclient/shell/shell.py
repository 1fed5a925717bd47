"""The shell: lines from a terminal, or a script.

Lives here: which of the two, the terminal's loop and its prompt.
Lives elsewhere: running a line (running.py), scripts (scripts.py), completion and history (modules
of their names).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ftpclient.cli import render
from ftpclient.cli.app import App, Script, ShellState
from ftpclient.connection.addresses import DEFAULT_PORT
from ftpclient.shell import scripts
from ftpclient.shell.lexer import goes_on, whole_lines
from ftpclient.shell.running import run_line
from ftpwire import paths, standard
from ftpwire.errors import CommandError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output

    from ftpclient.client import Client
    from ftpclient.shell.completion import ShellCompleter


def run_shell(app: App, script: Script | None = None) -> int:
    """Run a script, or lines until the user leaves. In a shell already: a file's lines here.

    Returns the exit status. Raises what connecting raises, and reading the script.
    """
    if script is not None:
        return (
            scripts.source(app, script.path) if app.interactive else scripts.run_script(app, script)
        )
    if not sys.stdin.isatty():
        return scripts.run_script(app, Script(path="-"))
    app.interactive = True
    app.shell = ShellState()
    client = app.client
    if app.first_directory:
        client.change_dir(app.first_directory)
    _greet(app, client)
    return _talk(app, client)


def _greet(app: App, client: Client) -> None:
    try:
        room = f": {render.room_words(client.space())}"
    except CommandError:
        room = ""  # no reason to stay outside
    app.say(f"Connected to {client.address.endpoint}{room}. Type help for more.")


def _talk(app: App, client: Client) -> int:
    from ftpclient.shell.completion import ShellCompleter

    completer = ShellCompleter(app)
    session = _session(completer, client)
    while not app.shell.leaving:
        try:
            text = session.prompt([("bold", prompt_text(client))])
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        for _, line in whole_lines(text.split("\n")):  # several, when they were pasted
            run_line(app, line)
            completer.remote_names.forget()
            if app.shell.leaving:
                break
        if standard.reader_left():
            return standard.READER_LEFT
        _begin_line(session.output)
    return app.shell.status


def _begin_line(output: Output) -> None:
    """Go to the next line, unless the cursor is at the beginning of one already.

    A file's last line may have no end, and the prompt would be drawn over it. Where the cursor
    is can't be known: so many blanks end up on this line only if it began at its beginning.
    """
    from prompt_toolkit.utils import is_dumb_terminal

    if not is_dumb_terminal():
        output.write_raw(" " * (output.get_size().columns - 1) + "\r")
        output.erase_end_of_line()
        output.flush()


def prompt_text(client: Client) -> str:
    """``alice@host:/docs> ``, with the port where it is not the usual one."""
    address = client.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    if address.path is not None:
        host = "local"
    port = "" if address.port in (DEFAULT_PORT, 0) else f":{address.port}"
    return f"{client.user}@{paths.show(host)}{port}:{paths.show(client.cwd)}> "


def _session(completer: ShellCompleter, client: Client) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output
    from prompt_toolkit.shortcuts import CompleteStyle

    from ftpclient.shell.history import LineHistory

    return PromptSession(
        history=LineHistory(is_secret=client.holds_password),
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
    unfinished = Condition(lambda: goes_on(get_app().current_buffer.text))

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER) & unfinished)
    def go_on(event: KeyPressEvent) -> None:
        """Begin another line, wherever the cursor is, instead of running what isn't whole."""
        buffer = event.current_buffer
        buffer.cursor_position = len(buffer.text)
        buffer.newline(copy_margin=False)

    return keys
