"""`ftp`: the command line, with the shell that it can start.

Lives here: putting the two together. Lives elsewhere: the command line (cli/main.py), the shell
(shell/shell.py), which runs the same commands and so stands above them.
"""

from __future__ import annotations

from ftpclient.cli import main as command_line
from ftpclient.cli.app import App


def run_shell(app: App) -> int:
    """Run the shell. It is imported for whoever wants one, and not for each command."""
    from ftpclient.shell import shell

    return shell.run_shell(app)


def main() -> None:
    """Entry point."""
    command_line.main(run_shell)


if __name__ == "__main__":
    main()
