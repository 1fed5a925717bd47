"""The shell: one command a line, from a terminal or from standard input.

Lives here: the loop, the prompt, and what a line is before it is a command.
Lives elsewhere: the commands (cli/commands/), their other names (cli/aliases.py), words (lexer.py),
completion and history (modules of their names).

A line is run as if it were the arguments of `ftp`, so scripts and the shell can't differ. What
goes wrong is one line on stderr, and never the end of the shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpclient.cli import main, render
from ftpclient.cli.aliases import meant
from ftpclient.cli.app import App, ShellState, UsageError
from ftpclient.cli.subprocesses import run_program
from ftpclient.cli.traces import print_trace
from ftpclient.connection.addresses import DEFAULT_PORT
from ftpclient.shell.lexer import split
from ftpwire import paths, standard
from ftpwire.errors import CommandError, FtpError, Interrupted

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import Output

    from ftpclient.client import Client
    from ftpclient.shell.completion import ShellCompleter

_OF_ONE_LINE = ("as_json", "quiet", "verbose", "accept_new")


def run_shell(app: App) -> int:
    """Connect, and run lines until the user leaves or, in a batch, until one fails.

    Returns the exit status. Raises what connecting raises.
    """
    client = app.client
    app.interactive = True
    app.shell = ShellState(batch=not sys.stdin.isatty())
    if app.shell.batch:
        return run_batch(app, _standard_input(app))
    _greet(app, client)
    return _talk(app, client)


# one line -----------------------------------------------------------------------------------


def run_line(app: App, line: str) -> int:
    """Run one line; its exit status. Whatever goes wrong is told here."""
    line = line.lstrip()
    if not line or line.startswith("#"):
        return 0
    if app.known_client is not None:
        app.known_client.look_up()
    if not app.shell.batch:
        app.interrupt.clear()  # pressed when nothing was running any more
    try:
        with _flags_of_its_own(app):
            if line.startswith("!"):
                return main.guarded(app, lambda: _run_local(app, line[1:].strip()))
            return main.guarded(app, lambda: _run_words(app, line))
    except Exception as error:  # with --debug, errors come through to show where they are from
        print_trace(error)
        return error.exit_code if isinstance(error, FtpError) else 1


@contextmanager
def _flags_of_its_own(app: App) -> Iterator[None]:
    """Options given to one line don't stick to the next."""
    before = {name: getattr(app, name) for name in _OF_ONE_LINE}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(app, name, value)


def _run_words(app: App, line: str) -> int:
    words = split(line)
    if not words:
        return 0
    name, *arguments = (word.text for word in words)
    if name.startswith("-"):
        raise UsageError("options come after the command, as in ls --json")
    # where the same word is there with quotes and without, the careful meaning holds for both
    app.shell.patterns = {word.text: word.pattern for word in words if word.pattern != word.text}
    name, arguments = meant(name, arguments, app.expand)
    return main.run(app, [name, *arguments], prog_name="")


def _run_local(app: App, command: str) -> int:
    shell = os.environ.get("SHELL") or "/bin/sh"
    sys.stdout.flush()
    words = [shell, "-c", command] if command else [shell]
    status = run_program(words, with_stdin=not app.shell.batch)
    if status and app.shell.batch:
        app.complain(CommandError(f"!{command}: exit status {status}"))
    return status


# a batch ------------------------------------------------------------------------------------


def run_batch(app: App, lines: Iterable[str]) -> int:
    """Run lines until one fails; its exit status. A leading - ignores a line's failure."""
    for line in lines:
        line = line.strip("\r\n").lstrip()
        ignore = line.startswith("-") and not line.startswith("--")
        status = run_line(app, line[1:] if ignore else line)
        if standard.reader_left():
            return standard.READER_LEFT
        if status == Interrupted.exit_code or (status and not ignore):
            return status
        if app.shell.leaving:
            break
    return 0


def _standard_input(app: App) -> Iterator[str]:
    """The lines of standard input, each as soon as it is there.

    The password's line may have been taken already, unbuffered. No command reads there.
    """
    with open(0, "rb", closefd=False) as stream:
        while True:
            try:
                with app.interrupt.at_once():  # no connection is in use while this waits
                    app.interrupt.check()
                    line = stream.readline()
            except KeyboardInterrupt:
                raise Interrupted("interrupted") from None
            if not line:
                return
            yield line.decode("utf-8", "surrogateescape")


# a terminal ---------------------------------------------------------------------------------


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
        for line in text.split("\n"):  # several, when they were pasted
            run_line(app, line)
            completer.remote_names.forget()
            if app.shell.leaving:
                break
        if standard.reader_left():
            return standard.READER_LEFT
        _begin_line(session.output)
    return 0


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
    )
