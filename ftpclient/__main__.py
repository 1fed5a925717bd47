"""`ftp`: the command line, with the shell that it can start.

Lives here: putting the two together. Lives elsewhere: the command line (cli/main.py), the shell
(shell/shell.py), which runs the same commands and so stands above them.
"""

from __future__ import annotations

from ftpclient.cli import main as command_line
from ftpclient.cli.app import App, Script


def run_shell(app: App, script: Script | None) -> int:
    """Run the shell, or a script. It is imported when one is wanted, and not for each command."""
    from ftpclient.shell import shell

    return shell.run_shell(app, script)


def main() -> None:
    """Entry point."""
    command_line.main(run_shell)


if __name__ == "__main__":
    main()
