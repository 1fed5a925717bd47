"""The command line of `ftp`.

Lives here: the group with the options of the connection, and turning every error into one line
and an exit status. Lives elsewhere: the commands (commands/), the shell (shell/shell.py).
"""

from __future__ import annotations

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from ftpclient import light_imports
from ftpclient.cli.app import App, Script, UsageError, no_shell
from ftpclient.cli.group import CommandGroup, hint_of_others, no_option, raise_for, saved_servers
from ftpwire import __version__, standard
from ftpwire.command_help import usage_message
from ftpwire.errors import CommandError, FtpError, Interrupted, from_oserror


class _Ftp(CommandGroup):
    """The group of commands, which knows options of other clients."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            with light_imports.without_suggestions():
                return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from ftpclient.cli import foreign

            name = error.option_name
            meant = foreign.BEFORE_A_COMMAND.get(name)
            if meant is None:
                text = no_option(error)
            else:
                text = hint_of_others(ctx, "option", name, meant)
            raise click.UsageError(text, ctx) from None


@click.group(
    cls=_Ftp,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    subcommand_metavar="[COMMAND] [ARGS]...",
    no_args_is_help=True,
)
@click.option(
    "-s",
    "--server",
    metavar="SERVER",
    help="Use this server: [USER@]HOST[:PORT] or a saved name.",
    shell_complete=saved_servers,
)
@click.option(
    "-c",
    "lines",
    metavar="LINE",
    multiple=True,
    help="Run LINE as a shell line; repeatable.",
)
@click.option(
    "-b",
    "-f",
    "batch_file",
    metavar="FILE",
    hidden=True,
    help="Run the lines in FILE, as batch does.",
)
@click.option(
    "--rc", metavar="FILE", default="", help="Run the shell lines in FILE first, also in scripts."
)
@click.option("--accept-new", is_flag=True, help="Trust an unknown server's key without asking.")
@click.option(
    "--accept-key",
    metavar="SHA256:…",
    help="Trust the server only if it has this key, and remember it.",
)
@click.option(
    "--ca", metavar="FILE", help="Trust the certificates in FILE instead of the system's."
)
@click.option("--plaintext", is_flag=True, help="Turn encryption off.")
@click.option("--no-verify", is_flag=True, help="Accept files from a server that sends no digests.")
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password from the first line of standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress and no remarks.")
@click.option("-v", "--verbose", is_flag=True, help="Print the name of every file.")
@click.option("--debug", is_flag=True, help="Print a traceback with an error.")
@click.version_option(__version__, prog_name="ftp")
@click.pass_context
def remote(
    ctx: click.Context,
    server: str | None,
    lines: tuple[str, ...],
    batch_file: str | None,
    rc: str,
    accept_new: bool,
    accept_key: str | None,
    ca: str | None,
    plaintext: bool,
    no_verify: bool,
    password_stdin: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Transfer files to and from an ftpd server. A remote path can name its server:
    USER@HOST:PATH, NAME:PATH or ftpd://HOST:PORT/PATH.
    """
    if isinstance(ctx.obj, App) and ctx.obj.interactive:
        return
    app: App = ctx.obj
    app.server = server
    app.accept_new = accept_new
    app.accept_key = accept_key
    app.ca = ca
    app.plaintext = plaintext
    app.no_verify = no_verify
    app.as_json = as_json
    app.quiet = quiet
    app.verbose = verbose
    app.debug = debug
    app.rc = rc
    app.password_stdin = password_stdin
    given = (
        Script(lines) if lines else Script(path=batch_file, name=batch_file) if batch_file else None
    )
    if given is not None and (ctx.invoked_subcommand or lines and batch_file):
        raise click.UsageError("-c, -b and a command cannot be used together", ctx)
    if given is None and ctx.invoked_subcommand is None:
        ctx.fail("missing command")
    if password_stdin:
        app.read_stdin_password()
    if given is not None:
        raise_for(app.run_shell(app, given))


def run(app: App, arguments: list[str], prog_name: str = "ftp") -> int:
    """Run one command line, of a script or of the shell, and return its exit status.

    All errors are printed; none is raised.
    """

    def command() -> object:
        try:
            return remote.main(
                arguments,
                prog_name=prog_name,
                obj=app,
                standalone_mode=False,
                default_map=app.shell.settings.defaults if app.interactive else None,
            )
        except click.UsageError:  # it may have been raised before --json was parsed
            end = arguments.index("--") if "--" in arguments else len(arguments)
            app.as_json |= "--json" in arguments[:end]
            raise

    return guarded(app, command)


def guarded(app: App, action: Callable[[], object]) -> int:
    """Run an action and return an exit status. All errors are printed; none is raised."""
    status = _guarded(app, action)
    return standard.READER_LEFT if standard.reader_left() else status


def _guarded(app: App, action: Callable[[], object]) -> int:
    try:
        result = action()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        return _usage(app, error)
    except click.ClickException as error:
        app.complain(CommandError(error.format_message()), error.exit_code)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt, Interrupted) as stop:
        _settle(app)
        app.complain(stop if isinstance(stop, Interrupted) else Interrupted("interrupted"))
        return Interrupted.exit_code
    except standard.ReaderLeft:
        _settle(app)
        return standard.READER_LEFT
    except FtpError as error:
        if standard.reader_left():
            _settle(app)  # a consequence of the closed output, not worth a message
        else:
            app.complain(error)
        return error.exit_code
    except BrokenPipeError as error:  # of a file such as /dev/stdout, opened as a target
        with suppress(standard.ReaderLeft, BrokenPipeError):
            standard.fail(error)
        _settle(app)
        return standard.READER_LEFT
    except OSError as error:
        _trace(app)
        what = error.filename
        what = os.fsdecode(what) if isinstance(what, (str, bytes)) else ""
        failure = from_oserror(error, what)
        app.complain(failure)
        return failure.exit_code
    except Exception as error:
        _trace(app)
        app.complain(
            CommandError(
                f"internal error: {type(error).__name__}: {error} (--debug prints a traceback)"
            )
        )
        return 1
    finally:
        app.flush()


def _trace(app: App) -> None:
    """With --debug, print the traceback of the error being handled."""
    error = sys.exception()
    if app.debug and error is not None:
        from ftpclient.cli.traces import print_trace

        print_trace(error)


def _settle(app: App) -> None:
    client = app.known_client
    if client is not None:
        client.settle_interrupt()
    else:
        app.interrupt.clear()


def _usage(app: App, error: click.UsageError) -> int:
    if type(error).__name__ == "NoArgsIsHelpError" and not app.as_json:  # click 8.2 has it
        error.show()
    elif app.as_json or error.ctx is None:
        app.complain(UsageError(usage_message(error)))
    else:
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx.command_path else ""
        app.complain(UsageError(usage_message(error) + hint))
    return UsageError.exit_code


def ended(app: App, status: int, output: str = standard.OUTPUT) -> int:
    """Flush standard output and return the exit status of a run that ended with ``status``.

    Args:
        output: The name of the output in error messages.
    """
    error = standard.flush()
    if error is None:
        return status
    if standard.reader_left():
        return standard.READER_LEFT
    app.complain(from_oserror(error, output), status or 1)
    app.flush()  # nothing follows that would print it
    return status or 1


def main(run_shell: Callable[[App, Script | None], int] = no_shell) -> None:
    """Run `ftp` with the arguments of this process, and exit.

    Args:
        run_shell: A function that runs a shell at the terminal, or a script, and returns the
            exit status.
    """
    standard.open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "_FTP_COMPLETE" in os.environ:
        from ftpwire import completion

        completion.register()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # on_ctrl_c restores this handler, so that Ctrl-C after the work prints no traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    app = App(run_shell=run_shell)
    with app.interrupt.on_ctrl_c():
        status = run(app, sys.argv[1:])
    app.close()
    status = ended(app, status)
    # At exit, Python searches all objects several times for reference cycles. The process's end
    # frees them anyway, and the search would take a tenth of the time of a short command.
    gc.freeze()
    sys.exit(status)
