"""What the commands of one run share: options, the client, and how to talk to the user.

Lives here: the object behind every click command, for scripts and for the shell alike.
Lives elsewhere: parsing options (main.py), the shell's loop (shell/shell.py), texts (render.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ftpclient.cli.complaints import Complaints
from ftpclient.cli.settings import Settings
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.interrupt import Interrupt
from ftpwire import standard
from ftpwire.errors import FtpError, NotFound
from ftpwire.paths import RemotePath, printable

if TYPE_CHECKING:
    from ftpclient.client import Client
    from ftpclient.connection.servers import Server
    from ftpwire.messages import InTrash


_WITH_COLON = r"/(?:[^:]*/)?:/"
"""What a path becomes that was typed as for sync."""
_WITH_HOST = r"/([^/:@\s]*[A-Za-z][^/:@\s]*):\S"
"""What a path becomes that was typed with a host that is no saved server."""


class UsageError(FtpError):
    """The command was used in a way that can't work."""

    code = "usage"
    exit_code = 2


class Where:
    """The place of a line that is run.

    Attributes:
        file: The name of its file; empty where it has none worth telling.
        line: Its number there, from 1 on.
    """

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line


class Script:
    """Lines for a shell that don't come from its terminal.

    Attributes:
        lines: These, or those of a file where there are none.
        path: Of that file; ``-`` is standard input.
        name: What complaints call it; empty for no name.
        keep_going: Run the lines after one that failed, too.
        check: Only look for mistakes.
    """

    def __init__(
        self,
        lines: tuple[str, ...] = (),
        *,
        path: str = "",
        name: str = "",
        keep_going: bool = False,
        check: bool = False,
    ) -> None:
        self.lines = lines
        self.path = path
        self.name = name
        self.keep_going = keep_going
        self.check = check


def _any_command(line: str) -> None:
    """What checks aliases where there is no shell."""


class ShellState:
    """What the lines given to one shell share.

    Attributes:
        batch: The lines were written beforehand: nobody types them.
        on_stdin: And they come from standard input: no command may read there.
        where: The line that is run, in a batch.
        depth: How many files are being run by `source`, one in another.
        patterns: Of the current line: the patterns that its words are, where their quotes make
            a difference.
        previous: The remote directory before the last cd.
        leaving: No more lines.
        status: The exit status that `exit` was given.
        settings: What `set` has changed.
        aliases: Other names, and the commands that they stand for, as they were written.
        in_rc: The lines are those of the rc file.
        history: The lines that were given at this terminal, oldest first.
        operations: The ids of the commands that were run here, which a server keeps apart.
        check_command: Refuses what is not one command. Raises UsageError.
    """

    def __init__(
        self,
        *,
        batch: bool = False,
        on_stdin: bool = False,
        check_command: Callable[[str], None] = _any_command,
    ) -> None:
        self.batch = batch
        self.on_stdin = on_stdin
        self.where: Where | None = None
        self.depth = 0
        self.patterns: dict[str, str] = {}
        self.previous: RemotePath | None = None
        self.leaving = False
        self.status = 0
        self.settings = Settings()
        self.aliases: dict[str, str] = {}
        self.in_rc = False
        self.history: Callable[[], Iterable[str]] = tuple
        self.operations: set[bytes] = set()
        self.check_command = check_command


def no_shell(app: App, script: Script | None = None) -> int:
    """What an App runs that was given no shell."""
    raise UsageError("there is no shell in this program: start it as ftp or python -m ftpclient")


class App:
    """One run of `ftp`, or one shell.

    Attributes:
        server: What was given with -s; None for the default.
        as_json: One JSON object a line.
        quiet: No progress, no summary.
        first_directory: Where the shell begins; empty for the home.
        rc: A file whose lines the shell runs first.
        given_password: What --password-stdin has brought.
        interactive: Inside the shell: local patterns are expanded, paths are relative to cd.
        run_shell: Runs a shell at the terminal, or a script; returns the exit status.
    """

    def __init__(
        self,
        *,
        server: str | None = None,
        plaintext: bool = False,
        accept_new: bool = False,
        debug: bool = False,
        interactive: bool = False,
        shell: ShellState | None = None,
        run_shell: Callable[[App, Script | None], int] = no_shell,
        given_password: str | None = None,
    ) -> None:
        self.server = server
        self.first_directory = ""
        self.rc = ""
        self.accept_new = accept_new
        self.accept_key: str | None = None
        self.ca: str | None = None
        self.plaintext = plaintext
        self.no_verify = False
        self.as_json = False
        self.quiet = False
        self.verbose = False
        self.debug = debug
        self.password_stdin = False
        self.interactive = interactive
        self.interrupt = Interrupt()
        self.shell = shell or ShellState()
        self.run_shell = run_shell
        self.given_password = given_password
        self._chosen: Server | None = None
        self._client: Client | None = None
        self._is_closed = False
        self._left: dict[str, tuple[Client, Server]] = {}
        self._complaints = Complaints(
            lambda text: print(f"{self._beginning}: {text}", file=sys.stderr)
        )

    @property
    def _beginning(self) -> str:
        """How a complaint begins: with the line that is run, where a file has it."""
        where = self.shell.where
        return f"{printable(where.file)}:{where.line}" if where and where.file else "ftp"

    @property
    def chosen(self) -> Server:
        """The server to use. Raises BadAddress."""
        if self._chosen is None:
            from ftpclient.connection.servers import Server, choose

            found = choose(self.server)
            self._chosen = Server(found.address, found.plaintext or self.plaintext)
        return self._chosen

    @property
    def address(self) -> ServerAddress:
        """Where the server to use is. Raises BadAddress."""
        return self.chosen.address

    @property
    def client(self) -> Client:
        """The client, connected at first use."""
        self._check_open()
        client = self._client or self.new_client()
        client.connect()
        return client

    def new_client(self, *, saved_token: bool = True) -> Client:
        """Make the client of this run, without connecting it."""
        self._check_open()
        from ftpclient.client import Client

        kind: type[Client] = Client
        if self.interactive:
            from ftpclient.cli.shell_client import ShellClient

            kind = ShellClient

        self._client = kind(
            self.address,
            password=self._password,
            password_tries=3,
            plaintext=self.chosen.plaintext,
            accept_new=self.accept_new,
            fingerprint=self.accept_key,
            ca=self.ca,
            ask=self._ask_trust if self.can_ask else None,
            ask_takeover=self._ask_takeover if self.can_ask else None,
            interrupt=self.interrupt,
            saved_token=saved_token,
            verify=not self.no_verify,
            remark=self.remark,
        )
        return self._client

    def _check_open(self) -> None:
        if self._is_closed:
            raise UsageError("not connected: open goes on here, open SERVER at another one")

    @property
    def known_client(self) -> Client | None:
        """The client, if one was made already; it may not be connected."""
        return None if self._is_closed else self._client

    def use(self, server: str) -> None:
        """Take this server, as it could be given with -s."""
        self.server = server
        self._chosen = None

    def switch(self, server: str) -> None:
        """Go on at another server, connected. If that fails, everything is as before.

        One that was left is as it was left: its directory, and whoever was logged in. What was
        given for one server isn't sent to another, nor does it excuse it from TLS.
        """
        from ftpclient.connection.servers import SavedServers

        address, left = self.address, self._client
        before = self.server, self.chosen, self._is_closed
        given = self.plaintext, self.accept_key, self.given_password
        wanted = SavedServers().find(server).address
        if left is not None or self.server is not None:  # else nothing was given for another one
            if wanted.endpoint != address.endpoint:
                self.plaintext, self.accept_key = False, None
            if str(wanted) != str(address):
                self.given_password = None
        self.use(server)
        self._is_closed = False
        try:
            if str(wanted) == str(address):
                self._chosen = before[1]
            elif (known := self._left.get(str(wanted))) is not None:
                self._client, self._chosen = known
            else:
                self._client = None
            (self._client or self.new_client()).connect()
        except BaseException:
            self.server, self._chosen, self._is_closed = before
            self.plaintext, self.accept_key, self.given_password = given
            self._client = left
            raise
        self.shell.previous = None
        if left is not None and left is not self._client:
            left.close()
            self._left[str(address)] = left, before[1]

    def leave_server(self) -> None:
        """Close the connection, until another one is wanted."""
        self.close()
        self._is_closed = True

    def reopen(self) -> None:
        """Connect again after `leave_server`. Raises what connecting raises."""
        self._is_closed = False
        try:
            client = self.client
        except BaseException:
            self._is_closed = True
            raise
        assert client is self._client

    def holds_password(self, text: str) -> bool:
        """Whether a password that was used in this run is part of a text."""
        clients = [client for client, _ in self._left.values()]
        if self._client is not None:
            clients.append(self._client)
        return any(client.holds_password(text) for client in clients)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    @property
    def known_password(self) -> str | None:
        """The password, where nobody has to be asked for it."""
        from ftpclient.connection.credentials import PASSWORD

        return os.environ.get(PASSWORD) if self.given_password is None else self.given_password

    def read_stdin_password(self) -> None:
        """Take the password's line now, before anything else reads standard input."""
        self.given_password = self.read_secret_line()

    def read_secret_line(self) -> str:
        """The next line of standard input, which --password-stdin says is secret."""
        return _read_line()

    @property
    def _password(self) -> str | Callable[[], str] | None:
        if self.given_password is not None:
            return self.given_password
        return self._ask_password if self.can_ask else None

    def _ask_password(self) -> str:
        return self.ask_secret(f"{self.address}'s password: ")

    def ask_secret(self, prompt: str) -> str:
        """Ask the user for something that the terminal must not show."""
        self.flush()
        import getpass

        with self.interrupt.at_once():
            return getpass.getpass(prompt, stream=sys.stderr)

    def _ask_trust(self, endpoint: str, fingerprint: str) -> bool:
        self.flush()
        print(
            f"{endpoint} is not known yet. Its key's fingerprint is\n  {fingerprint}",
            file=sys.stderr,
        )
        return self.yes_or_no("Trust it (yes/no)? ")

    def _ask_takeover(self, endpoint: str, pinned: str, shown: str, issuer: str) -> bool:
        print(
            f"{endpoint}: the server's key has changed from\n  {pinned} to\n  {shown}.\n"
            f"Its certificate is issued by {issuer}, which is trusted on this machine.",
            file=sys.stderr,
        )
        return self.yes_or_no("Trust certificates instead of the old key (yes/no)? ")

    def yes_or_no(self, question: str) -> bool:
        """Ask on the terminal until the answer is clear; Enter alone means no."""
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            with self.interrupt.at_once():
                line = sys.stdin.readline()
            if not line:
                print(file=sys.stderr)  # Ctrl-D leaves the cursor behind the question
            answer = line.strip().lower()
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
        import glob  # only a shell expands words

        return sorted(glob.glob(os.path.expanduser(self.pattern(word)))) or [path]

    # talking -----------------------------------------------------------------------------

    def print(self, text: str) -> None:
        """A line of result. Raises ReaderLeft."""
        self._complaints.flush()
        sys.stdout.write(text + "\n")

    def print_json(self, record: dict[str, Any]) -> None:
        """A JSON object as a line, written out at once. Raises ReaderLeft."""
        sys.stdout.write(_json(record) + "\n")
        sys.stdout.flush()

    def cat(self, path: RemotePath, in_trash: InTrash | None = None) -> None:
        """Write a remote file to standard output. Raises ReaderLeft.

        Args:
            in_trash: See `Client.stat`.
        """
        try:
            self.client.get_stream(path, sys.stdout.fileno(), in_trash=in_trash)
        except FtpError:
            raise  # of the server, though it may be an OSError as well
        except OSError as error:
            standard.fail(error)

    def tell_done(self, text: str, action: str, **more: Any) -> None:
        """Tell that something was done: as an object with --json, else as a remark.

        Args:
            text: The remark; empty for none.
            more: What the object has, see `records.done_record`.
        """
        if self.as_json:
            from ftpclient.cli.records import done_record

            self.print_json(done_record(action, **more))
        elif text:
            self.say(text)

    def summarize(self, text: str) -> None:
        """A remark after all results. Raises ReaderLeft, so that nothing is said then."""
        sys.stdout.flush()
        self.say(text)

    def say(self, text: str) -> None:
        """A remark for people, on stderr."""
        self._complaints.flush()
        if not self.quiet and not self.as_json and not standard.reader_left():
            print(text, file=sys.stderr)

    def remark(self, text: str) -> None:
        """Something that the user should know, from the server or about a log-in, on stderr."""
        self._complaints.flush()
        if self.as_json:
            print(_json({"remark": printable(text)}), file=sys.stderr)
        elif not self.quiet:
            print(f"ftp: {printable(text)}", file=sys.stderr)

    def complain(self, error: FtpError, exit_code: int | None = None) -> None:
        """One line on stderr about what failed; with --debug after where it comes from.

        Many of one cause in a row are one line: so they are held back until something else is
        printed, or the command ends. See `flush`.

        Args:
            exit_code: The status that the command ends with because of it, where that isn't the
                error's own.
        """
        if self.debug and error.__traceback__ is not None:
            from ftpclient.cli.traces import print_trace

            print_trace(error)
        text = printable(str(error))
        if isinstance(error, NotFound) and re.match(_WITH_COLON, text):
            text += " (paths on the server have no colon before them, except in sync)"
        elif isinstance(error, NotFound) and (found := re.match(_WITH_HOST, text)):
            text += f" (a server is named as USER@{found[1]}:PATH or ftpd://{found[1]}/PATH)"
        if self.as_json:
            from ftpclient.cli.records import error_record

            line = None if self.shell.where is None else self.shell.where.line
            record = error_record(error, message=text, exit_code=exit_code, line=line)
            print(_json(record), file=sys.stderr)
        else:
            self._complaints.add(error, text)

    def flush(self) -> None:
        """Print the failures that are held back: something went well, or it is the end."""
        self._complaints.flush()


def _read_line() -> str:
    """Exactly one line of standard input, unbuffered: the rest is data, or commands."""
    line = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            break
        line += byte
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _json(record: dict[str, Any]) -> str:
    import json  # most commands print none

    return json.dumps(record)
