"""What the commands of one run share: options, the client, and how to talk to the user.

Lives here: the object behind every click command, for scripts and for the shell alike.
Lives elsewhere: parsing options (cli.py), the shell's loop (shell.py), texts (render.py).
"""

from __future__ import annotations

import glob
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftpclient.addresses import ServerAddress, default_address
from ftpclient.interrupt import Interrupt
from ftpwire.errors import CommandError, FtpError, LoginRefused
from ftpwire.paths import RemotePath, printable

if TYPE_CHECKING:
    from ftpclient.client import Client


class UsageError(FtpError):
    """The command was used in a way that can't work."""

    code = "usage"
    exit_code = 2


@dataclass
class ShellState:
    """What the lines given to one shell share.

    Attributes:
        batch: The lines come from standard input, which is no terminal.
        patterns: Of the current line: the patterns that its words are, where their quotes make
            a difference.
        previous: The remote directory before the last cd.
        leaving: No more lines.
    """

    batch: bool = False
    patterns: dict[str, str] = field(default_factory=dict)
    previous: RemotePath | None = None
    leaving: bool = False


@dataclass
class App:
    """One run of `ftp`, or one shell.

    Attributes:
        server: What was given with -s; None for the default.
        as_json: One JSON object a line.
        quiet: No progress, no summary.
        interactive: Inside the shell: local patterns are expanded, paths are relative to cd.
    """

    server: str | None = None
    accept_new: bool = False
    plaintext: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    password_stdin: bool = False
    interactive: bool = False
    retries: int = 5
    interrupt: Interrupt = field(default_factory=Interrupt)
    shell: ShellState = field(default_factory=ShellState)
    _client: Client | None = None
    _stdin_password: str | None = None

    @property
    def address(self) -> ServerAddress:
        """The server to use. Raises BadAddress."""
        return ServerAddress.parse(self.server) if self.server else default_address()

    @property
    def client(self) -> Client:
        """The client, connected at first use."""
        if self._client is None:
            from ftpclient.client import Client

            self._client = Client(
                self.address,
                password=self._ask_password,
                plaintext=self.plaintext,
                accept_new=self.accept_new,
                ask=self._ask_trust if self.can_ask else None,
                interrupt=self.interrupt,
                retries=self.retries,
            )
        self._client.connect()
        return self._client

    @property
    def known_client(self) -> Client | None:
        """The client, if one was made already; it may not be connected."""
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    def read_stdin_password(self) -> None:
        """Take the password's line now, before anything else reads standard input."""
        self._stdin_password = _read_line()

    def _ask_password(self) -> str:
        if self._stdin_password is not None:
            return self._stdin_password
        password = os.environ.get("FTP_PASSWORD")
        if password is not None:
            return password
        if not self.can_ask:
            raise LoginRefused(
                f"no password for {self.address}: set FTP_PASSWORD or use --password-stdin"
            )
        import getpass

        with self.interrupt.at_once():
            return getpass.getpass(f"{self.address}'s password: ", stream=sys.stderr)

    def _ask_trust(self, endpoint: str, fingerprint: str) -> bool:
        print(
            f"{endpoint} is not known yet. Its key's fingerprint is\n  {fingerprint}",
            file=sys.stderr,
        )
        while True:
            print("Trust it (yes/no)? ", end="", file=sys.stderr, flush=True)
            with self.interrupt.at_once():
                answer = sys.stdin.readline().strip().lower()
            if answer in ("yes", "no", ""):
                return answer == "yes"

    # words -------------------------------------------------------------------------------

    def pattern(self, word: str) -> str:
        """The pattern of remote paths that a word is; the shell knows what was quoted in it."""
        return self.shell.patterns.get(word, word)

    def expand(self, word: str) -> list[str]:
        """The local paths that a word in the shell means; itself when nothing matches."""
        path = os.path.expanduser(word)
        if os.path.lexists(path):
            return [path]
        return sorted(glob.glob(os.path.expanduser(self.pattern(word)))) or [path]

    # talking -----------------------------------------------------------------------------

    def print(self, text: str) -> None:
        """A line of result."""
        sys.stdout.write(text + "\n")

    def print_json(self, record: dict[str, Any]) -> None:
        """A JSON object as a line, written out at once."""
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A remark for people, on stderr."""
        if not self.quiet and not self.as_json:
            print(text, file=sys.stderr)

    def complain(self, error: FtpError) -> None:
        """One line on stderr about what failed; with --debug after where it comes from."""
        if self.debug and error.__traceback__ is not None:
            import traceback

            traceback.print_exception(error)
        text = printable(str(error))
        if self.as_json:
            record: dict[str, Any] = {"error": error.code, "message": text}
            if isinstance(error, CommandError) and error.needed is not None:
                record |= {"needed": error.needed, "free": error.free}
            print(json.dumps(record), file=sys.stderr)
        else:
            print(f"ftp: {text}", file=sys.stderr)


def _read_line() -> str:
    """Exactly one line of standard input, unbuffered: the rest is data, or commands."""
    line = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            break
        line += byte
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
