"""The command line of `ftpd`.

Lives here: the group of commands, `start`, `fingerprint`, `completion`, and turning errors into
exit statuses. Lives elsewhere: the other commands (the modules beside this one). A command imports
the modules of the server that it needs, so that ``--help`` is quick.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import click

from ftpserver.cli import (
    backup,
    certificate,
    check,
    config,
    control,
    explain,
    log,
    systemd,
    tokens,
    trash,
    users,
)
from ftpserver.cli.audit import audit_commands
from ftpserver.cli.help import START_HINTS, WORDS, Commands, HintingCommand, usage_text
from ftpserver.cli.options import (
    complain,
    echo,
    fail,
    fail_for_settings,
    json_option,
    root_option,
)
from ftpserver.errors import SettingsError, StateError
from ftpwire import __version__, completion, standard
from ftpwire.errors import CommandError, FtpError, Interrupted, from_oserror


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="ftpd COMMAND --help explains a command.",
)
@click.version_option(__version__, prog_name="ftpd")
def cli() -> None:
    """Serve files to many users: encrypted, durable, verified."""


@cli.command(cls=HintingCommand, hints=START_HINTS)
@config.settings_options
@click.option("-v", "--verbose", is_flag=True, help="Log in more detail.")
@json_option
@click.pass_context
def start(ctx: click.Context, /, verbose: bool, as_json: bool, **_: Any) -> None:
    """Start the server, and serve until Ctrl-C or SIGTERM. Every option can also be set in
    ftpd.toml (port = 1234) or as a variable (FTPD_PORT).
    """
    from ftpserver import light_sqlalchemy

    light_sqlalchemy.load()  # before another module imports sqlalchemy
    from ftpserver.cli.start import serve

    settings = config.settings_in(ctx)
    warnings = config.warnings_about(settings)
    again = functools.partial(config.read_again, ctx.command, ctx.meta[WORDS])
    served = serve(settings, verbose=verbose, again=again, warnings=warnings, as_json=as_json)
    sys.exit(served)


@cli.command()
@root_option
@json_option
def fingerprint(root: Path, as_json: bool) -> None:
    """Print the fingerprint of the server's key.

    Compare it with what a client shows at its first connection.
    """
    from ftpserver.net import tls

    certificate, _ = tls.files_of(config.read_settings(root))
    found = tls.fingerprint_of(certificate)
    echo({"fingerprint": found}, found, as_json)


@cli.command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
@json_option
def completion_script(shell: str, as_json: bool) -> None:
    """Print a script for Tab completion in bash, zsh or fish."""
    script = completion.script(cli, "ftpd", shell)
    echo({"script": script}, script.removesuffix("\n"), as_json)


for _command in (
    *(users.user, check.check, check.scrub, check.recount, explain.why, log.log, systemd.service),
    *(backup.backup, config.config_group, certificate.certificate_group),
    *(trash.trash, tokens.token, tokens.invite, *control.COMMANDS),
):
    cli.add_command(_command)
audit_commands(cli)


def main() -> None:
    """Run `ftpd`; errors become one line and an exit status."""
    standard.open_standard_streams()
    if "_FTPD_COMPLETE" in os.environ:
        completion.register()
    try:
        _run()
    except SystemExit as ended:
        sys.exit(_status(ended.code))


def _status(code: Any) -> Any:
    """Flush standard output and return the exit status of a run that ended with ``code``."""
    error = standard.flush()
    if error is None:
        return code
    if standard.reader_left():
        return standard.READER_LEFT
    failure = from_oserror(error, standard.OUTPUT)
    complain(str(failure), code or 1, code=failure.code)
    return code or 1


def _run() -> None:
    try:
        ended = cli.main(prog_name="ftpd", standalone_mode=False)
        sys.exit(ended if isinstance(ended, int) else 0)
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # since click 8.2
            error.show()
            sys.exit(error.exit_code)
        fail(usage_text(error), error.exit_code, code="usage")
    except config.ConfigError as error:
        fail_for_settings(error.problems)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", Interrupted.exit_code, code=Interrupted.code)
    except standard.ReaderLeft:
        sys.exit(standard.READER_LEFT)
    except FtpError as error:
        path = error.path if isinstance(error, CommandError) else None
        fail(str(error), error.exit_code, code=error.code, path=path)
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        code = from_oserror(error, where).code
        fail(f"{where}{(error.strerror or str(error)).lower()}", code=code)
    except SettingsError as error:
        fail_for_settings(error.problems, error.remark)
    except StateError as error:
        fail(str(error))
