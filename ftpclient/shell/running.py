"""Running a line: its commands, redirections and local commands.

Lives here: preparing a command, running it, and redirecting its output.
Lives elsewhere: the grammar (grammar.py), local files (redirect.py), scripts (scripts.py), the
commands (cli/commands/) and their other names (cli/aliases.py).

A command runs as if it were the arguments of `ftp`, so scripts and the shell behave the same. An
error is one line on stderr and never ends the shell. The whole line is checked before any part of
it runs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import click

from ftpclient.cli import main, operations
from ftpclient.cli.aliases import ALIASES, meant
from ftpclient.cli.app import App, UsageError, Where
from ftpclient.cli.group import RESUMED, STATUS_1_IS_A_RESULT, WITHOUT_OUTPUT
from ftpclient.cli.traces import print_trace
from ftpclient.shell import grammar
from ftpclient.shell.expansion import expanded
from ftpclient.shell.grammar import AndOr, Line, Pipe, Redirect
from ftpclient.shell.lexer import Mistake, Word
from ftpwire import paths, standard
from ftpwire.command_help import usage_message
from ftpwire.errors import CommandError, FtpError, Interrupted
from ftpwire.foreground import run_program, wait_for_program

_FIRST_WORD = re.compile(r"[^\s;|&>]+")
_READERS = ("diff", "put", "source", "sync")
"""Commands that read local files named in their arguments."""
_OF_ONE_COMMAND = ("as_json", "quiet", "verbose", "accept_new")


def run_line(app: App, text: str) -> int:
    """Run one line and return the status of the last command that ran. Errors are printed."""
    app.shell.warned_before, app.shell.warned = app.shell.warned, False
    try:
        status = _run_line(app, text)
    except Exception as error:  # an error outside of a command must not end the shell
        print_trace(error)
        status = error.exit_code if isinstance(error, FtpError) else 1
    if not grammar.is_forgiven(text) or app.shell.leaving:
        return status
    return status if status in (Interrupted.exit_code, standard.READER_LEFT) else 0


def _run_line(app: App, text: str) -> int:
    line = understood(app, text)
    if isinstance(line, int):
        return line
    if line.local is None and not line.items:
        return 0
    if app.known_client is not None:
        app.known_client.look_up()
    if not app.shell.batch:
        app.interrupt.clear()  # Ctrl-C was pressed after the last command ended
    if (local := line.local) is not None:
        return main.guarded(app, lambda: _run_local(app, local))
    with operations.running(app, lambda: text.strip(), apart=True):
        return grammar.run(
            line.items,
            lambda pipe: _run(app, pipe),
            lambda item: _start_job(app, item, text),
            lambda status: _ends(app, status),
        )


def understood(app: App, text: str) -> Line | int:
    """Parse and check a line. For an error, print it and return the exit status instead."""
    found: list[Line] = []
    before = app.shell.where
    try:
        status = main.guarded(app, lambda: found.append(_parse(app, text)))
    finally:
        app.shell.where = before
    return found[0] if found else status


def _parse(app: App, text: str) -> Line:
    """Parse and check a line. For an error, set ``app.shell.where`` to its position."""
    first = app.shell.where
    try:
        line = grammar.parse(text)
    except Mistake as mistake:
        if first is None:
            raise
        app.shell.where = _below(first, mistake.line)
        raise UsageError(f"{mistake.reason} (column {mistake.column})") from None
    pipes = list(line.pipes)
    of_jobs = {id(pipe) for item in line.items if item.is_job for pipe in item.pipes}
    for pipe in pipes:
        app.shell.where = _below(first, pipe.line)
        try:
            name = _check(app, pipe)
            if id(pipe) in of_jobs:
                from ftpclient.shell import background

                background.check(app, pipe, name)
        except click.UsageError as error:
            if len(pipes) == 1:
                raise  # a single command needs no column
            text = f"{usage_message(error)} (column {pipe.column})"
            raise click.UsageError(text, error.ctx) from None
    return line


def _check(app: App, pipe: Pipe) -> str:
    """Refuse an unknown command, and redirecting a command without output. Return its name.

    Raises UsageError.
    """
    name, *arguments = (word.text for word in expanded(app.shell.aliases, pipe.words))
    name = ALIASES.get(name, name)
    context = click.Context(main.remote, info_name="", obj=app)
    main.remote.resolve_command(context, [name, *arguments])
    if name in WITHOUT_OUTPUT and (pipe.local is not None or pipe.redirect is not None):
        operator = "|" if pipe.redirect is None else ">>" if pipe.redirect.append else ">"
        raise UsageError(f"{name} cannot be used before '{operator}': {WITHOUT_OUTPUT[name]}")
    return name


def begins_with_command(app: App, text: str) -> bool:
    """Return whether a line begins with a known command, or is for the local shell."""
    line = text.strip().removeprefix("-").lstrip()
    if line.startswith(("!", "#")):
        return True
    found = _FIRST_WORD.match(line)
    if found is None:
        return False
    name = found[0]
    if name in app.shell.aliases or name in ALIASES:
        return True
    context = click.Context(main.remote, info_name="", obj=app)
    return main.remote.get_command(context, name) is not None


def _ends(app: App, status: int) -> bool:
    """Return whether the rest of a line must not run."""
    return app.shell.leaving or standard.reader_left() or status == Interrupted.exit_code


def _start_job(app: App, item: AndOr, line: str) -> int:
    from ftpclient.shell import background  # most shells have no jobs

    is_forgiven = grammar.is_forgiven(line)
    return main.guarded(app, lambda: background.start(app, item, is_forgiven=is_forgiven))


# one command --------------------------------------------------------------------------------


def _run(app: App, pipe: Pipe) -> int:
    before = app.shell.where
    app.shell.where = _below(before, pipe.line)
    try:
        with _flags_of_its_own(app):
            return _run_noted(app, pipe)
    finally:
        app.shell.where = before


def _run_noted(app: App, pipe: Pipe) -> int:
    """Run a command; a transfer of a user at a terminal is noted while it is unfinished."""
    name = expanded(app.shell.aliases, pipe.words)[0].text
    client = app.known_client
    is_transfer = ALIASES.get(name, name) in RESUMED
    if app.shell.batch or client is None or not is_transfer or app.holds_password(pipe.text):
        return _run_here(app, pipe)
    from ftpclient.cli import unfinished

    note = unfinished.note(client, app.chosen.plaintext, pipe.text, app.shell.aliases)
    app.shell.note = note
    try:
        status = _run_here(app, pipe)
    finally:
        app.shell.note = None
    note.end(status)
    return status


def _run_here(app: App, pipe: Pipe) -> int:
    if (local := pipe.local) is not None:
        return main.guarded(app, lambda: _run_into_local(app, pipe.words, local))
    if (redirect := pipe.redirect) is not None:
        return main.guarded(app, lambda: _run_into_file(app, pipe.words, redirect))
    return _run_words(app, pipe.words)


def _below(first: Where | None, line: int) -> Where | None:
    """Return the position of a continuation line, given that of the first line."""
    return None if first is None else Where(first.file, first.line + line - 1)


@contextmanager
def _flags_of_its_own(app: App) -> Iterator[None]:
    """Restore the options of the shell after a command that was given some of its own."""
    before = {name: getattr(app, name) for name in _OF_ONE_COMMAND}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(app, name, value)


def _run_words(app: App, words: tuple[Word, ...]) -> int:
    words = expanded(app.shell.aliases, words)
    name, *arguments = (word.text for word in words)
    # if a word occurs both quoted and unquoted, both are taken as quoted
    app.shell.patterns = {word.text: word.pattern for word in words if word.pattern != word.text}
    return main.guarded(app, lambda: _run_meant(app, name, arguments))


def _run_meant(app: App, name: str, arguments: list[str]) -> int:
    name, arguments = meant(name, arguments, app.expand)
    return main.run(app, [name, *arguments], prog_name="")


def _run_into_file(app: App, words: tuple[Word, ...], redirect: Redirect) -> int:
    """Run a command with its output to a file, which is unchanged if the command fails."""
    from ftpclient.shell.redirect import opened

    path = os.fsencode(os.path.expanduser(redirect.file))
    _check_not_read(expanded(app.shell.aliases, words), path)
    with ExitStack() as stack:
        with app.interrupt.at_once():  # opening a FIFO waits for a reader
            output = stack.enter_context(opened(path, append=redirect.append))
        with standard.output_into(os.dup(output.fd)):
            status = main.ended(app, _run_words(app, words), paths.show(path))
        if status == 0 or status == 1 and _name_of(app, words) in STATUS_1_IS_A_RESULT:
            output.keep()
        elif output.whole:
            app.say(f"ftp: {paths.show(path)}: not written, because {words[0].text} failed")
    return status


def _name_of(app: App, words: tuple[Word, ...]) -> str:
    """Return the name of the command that the words run."""
    name = expanded(app.shell.aliases, words)[0].text
    return ALIASES.get(name, name)


def _check_not_read(words: tuple[Word, ...], path: bytes) -> None:
    """Refuse ``put x > x``: the output would replace the file being read. Raises UsageError."""
    name = ALIASES.get(words[0].text, words[0].text)
    if name not in _READERS:
        return
    for word in words[1:]:
        option, equals, value = word.text.partition("=")
        read = value if equals and option.startswith("--") else word.text
        with suppress(OSError):  # probably doesn't exist
            if os.path.samefile(os.path.expanduser(read), path):
                raise UsageError(
                    f"{paths.show(path)}: {name} reads it, so its output cannot go there"
                )


def _run_into_local(app: App, words: tuple[Word, ...], command: str) -> int:
    """Run a command with its output to a local command.

    If the local command ends early, the command ends, too, which is not a failure.

    Returns:
        The local command's status if it isn't 0, else the command's.
    """
    read, write = os.pipe()
    try:
        program = subprocess.Popen([_local_shell(), "-c", command], stdin=read)
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    try:
        with standard.output_into(write):
            status = main.ended(app, _run_words(app, words))
    finally:
        local = wait_for_program(program)  # its input has ended
    _report_status(app, f"| {command}", local)
    return local or (0 if status == standard.READER_LEFT else status)


def _run_local(app: App, command: str) -> int:
    sys.stdout.flush()
    shell = _local_shell()
    words = [shell, "-c", command] if command else [shell]
    status = run_program(words, with_stdin=not app.shell.on_stdin)
    _report_status(app, f"!{command}", status)
    return status


def _report_status(app: App, command: str, status: int) -> None:
    """Print the status of a local command that fails in a script, as it may have printed nothing.

    A command ended by a closed pipe has not failed.
    """
    if app.shell.batch and status not in (0, standard.READER_LEFT):
        app.complain(CommandError(f"{command}: exit status {status}"))


def _local_shell() -> str:
    return os.environ.get("SHELL") or "/bin/sh"
