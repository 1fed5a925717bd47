"""`ftp`: the command line, with the shell that it can start.

Lives here: putting the two together. Lives elsewhere: the command line (cli/main.py), the shell
(shell/shell.py), which runs the same commands and so stands above them.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftpclient.cli.app import App, Script

_OBJECTS = 20_000
"""So many objects more than were freed, and Python looks for circles among them. Its own 700 make
it look a hundred times while a command is imported, of which everything stays: a tenth of the time
of a short command."""


def run_shell(app: App, script: Script | None) -> int:
    """Run the shell, or a script. It is imported when one is wanted, and not for each command."""
    from ftpclient.shell import shell

    return shell.run_shell(app, script)


def main() -> None:
    """Entry point."""
    gc.set_threshold(_OBJECTS)
    from ftpclient import light_imports

    light_imports.load()  # before others do it
    from ftpclient.cli import main as command_line

    command_line.main(run_shell)


if __name__ == "__main__":
    main()
