"""`ftp`: the command line, with the shell that it can start.

Lives here: connecting the two.
Lives elsewhere: the command line (cli/main.py), and the shell (shell/shell.py), which runs the same
commands and therefore depends on them.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpclient.cli.app import App, Script

_OBJECTS = 50_000
"""Threshold of Python's garbage collector: the number of objects more than were freed. With the
default of 700 it runs a hundred times while a command is imported, and finds nothing: that is a
tenth of the time of a short command. `ftp put` has made 20,000 before it connects, and one run over
as many takes 3 ms."""


def run_shell(app: App, script: Script | None) -> int:
    """Run the shell, or a script. The module is imported here, so that commands do not load it."""
    from ftpclient.shell import shell

    return shell.run_shell(app, script)


def main() -> None:
    """Run `ftp`."""
    gc.set_threshold(_OBJECTS)
    from ftpclient import light_imports

    light_imports.load()  # before another import loads these modules
    from ftpclient.cli import main as command_line

    command_line.main(run_shell)


if __name__ == "__main__":
    main()
