"""The state that the commands of one run share: options, the client, output to the user.

Lives here: the object behind every click command, in scripts and in the shell.
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
from ftpwire.errors import ConnectFailed, FtpError, NotFound
from ftpwire.paths import RemotePath, printable

if TYPE_CHECKING:
    from ftpclient.cli.jobs import Jobs, Report
    from ftpclient.cli.unfinished import Note, Transfer
    from ftpclient.client import Client
    from ftpclient.connection.servers import Server
    from ftpwire.messages import InTrash


_WITH_COLON = r"/(?:[^:]*/)?:/"
"""A resolved path that the user typed with a leading colon, as in sync."""
_WITH_HOST = r"/([^/:@\s]*[A-Za-z][^/:@\s]*):\S"
"""A resolved path that the user typed as HOST:PATH, where HOST is not a saved server."""
_NOT_RUNNING = "is ftpd running there?"
"""The end of the message about a refused connection."""


class UsageError(FtpError):
    """The command line is wrong, or the options contradict each other."""

    code = "usage"
    exit_code = 2


class Where:
    """The position of the line being run.

    Attributes:
        file: The name of its file; empty if error messages shall not name one.
        line: Its line number, starting at 1.
    """

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line


class Script:
    """Lines for a shell that don't come from its terminal.

    Attributes:
        lines: The lines themselves; if empty, they are read from ``path``.
        path: The file to read; ``-`` is standard input.
        name: The file name for error messages; empty for none.
        keep_going: True to go on after a line that failed.
        check: True to only look for syntax errors.
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
    """Accept any alias: the check used without a shell."""


class ShellState:
    """The state that the lines of one shell share.

    Attributes:
        batch: True if the lines come from a script rather than from a user who types them.
        on_stdin: True if that script is standard input, so that no command may read from it.
        where: The position of the line being run, in a script.
        depth: The number of nested `source` commands.
        patterns: For words of the current line, the pattern that each stands for, where quotes
            make it differ from the word.
        previous: The remote directory before the last cd.
        leaving: True if no further line is to be run.
        status: The exit status given to `exit`.
        settings: The values changed by `set`.
        aliases: Aliases and the text of the commands that they stand for.
        in_rc: True while the lines of the rc file run.
        history: A function that returns the lines typed at this terminal, oldest first.
        operations: The ids of the operations that this shell started, as the server knows them.
        check_command: A function that raises UsageError unless the text is a single command.
        jobs: The table of jobs; None before the first one.
        job: In the process of a job, where its progress goes.
        note: The note about the running transfer, in case that it isn't finished.
        resume: A function that starts an unfinished transfer as a job; None outside a shell.
        guards_jobs: True if leaving while jobs run has to be asked for twice.
        warned: True if the last line was refused because leaving would stop jobs.
        warned_before: The same for the line before.
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
        self.jobs: Jobs | None = None
        self.job: Callable[[Report], None] | None = None
        self.note: Note | None = None
        self.resume: Callable[[Transfer], None] | None = None
        self.guards_jobs = False
        self.warned = False
        self.warned_before = False


def no_shell(app: App, script: Script | None = None) -> int:
    """Refuse to run a shell: the default of an App that was created without one."""
    raise UsageError("there is no shell in this program: start it as ftp or python -m ftpclient")


def command_line(words: str, *, in_shell: bool) -> str:
    """Return a command as it is typed in the shell, or outside it."""
    return words if in_shell else f"ftp {words}"


class App:
    """One run of `ftp`, or one shell.

    Attributes:
        server: The value of -s; None for the default server.
        as_json: True to print JSON, one object per line.
        quiet: True to print no progress and no remarks.
        first_directory: The directory in which the shell starts; empty for the home.
        rc: A file whose lines the shell runs first.
        given_password: The password read because of --password-stdin.
        interactive: True inside the shell, where local patterns are expanded and remote paths
            are relative to the current directory.
        run_shell: A function that runs a shell at the terminal, or a script, and returns the
            exit status.
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
        """The beginning of error messages: the file and line being run, or ``ftp``."""
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
        """The address of the server to use. Raises BadAddress."""
        return self.chosen.address

    @property
    def client(self) -> Client:
        """The client, connected at first use."""
        self._check_open()
        client = self._client or self.new_client()
        client.connect()
        return client

    def new_client(self, *, saved_token: bool = True) -> Client:
        """Create the client of this run, without connecting it."""
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
            raise UsageError("not connected: use open to reconnect, or open SERVER")

    @property
    def known_client(self) -> Client | None:
        """The client, if one was created already; it may not be connected."""
        return None if self._is_closed else self._client

    def use(self, server: str) -> None:
        """Use this server, given as the value of -s."""
        self.server = server
        self._chosen = None

    def use_address(self, server: Server) -> None:
        """Use this server, whatever is saved under its name."""
        self._chosen = server

    def switch(self, server: str) -> None:
        """Switch to another server and connect. If that fails, nothing changes.

        Returning to a server restores its current directory and its user. A password, a
        fingerprint or --plaintext given for one server never applies to another.
        """
        from ftpclient.connection.servers import SavedServers

        address, left = self.address, self._client
        before = self.server, self.chosen, self._is_closed
        given = self.plaintext, self.accept_key, self.given_password
        wanted = SavedServers().find(server).address
        if left is not None or self.server is not None:  # else the options are for the new one
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
        """Close the connection; commands are refused until `reopen` or `switch`."""
        self.close()
        self._is_closed = True

    def reopen(self) -> None:
        """Connect again after `leave_server`. Raises the errors of connecting."""
        self._is_closed = False
        try:
            client = self.client
        except BaseException:
            self._is_closed = True
            raise
        assert client is self._client

    def holds_password(self, text: str) -> bool:
        """Return whether a text contains a password that was used in this run."""
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
        """True if questions can be asked on the terminal."""
        return sys.stdin.isatty() and sys.stderr.isatty() and not self.as_json

    @property
    def known_password(self) -> str | None:
        """The password, if it is known without asking the user."""
        from ftpclient.connection.credentials import PASSWORD

        return os.environ.get(PASSWORD) if self.given_password is None else self.given_password

    def read_stdin_password(self) -> None:
        """Read the password's line before anything else reads standard input."""
        self.given_password = self.read_secret_line()

    def read_secret_line(self) -> str:
        """Read the next line of standard input as a secret (--password-stdin)."""
        return _read_line()

    @property
    def _password(self) -> str | Callable[[], str] | None:
        if self.given_password is not None:
            return self.given_password
        return self._ask_password if self.can_ask else None

    def _ask_password(self) -> str:
        return self.ask_secret(f"{self.address}'s password: ")

    def ask_secret(self, prompt: str) -> str:
        """Ask the user for a secret, without echoing what is typed."""
        self.flush()
        import getpass

        with self.interrupt.at_once():
            return getpass.getpass(prompt, stream=sys.stderr)

    def _ask_trust(self, endpoint: str, fingerprint: str) -> bool:
        self.flush()
        print(
            f"The server {endpoint} is unknown. Its key has the fingerprint\n  {fingerprint}",
            file=sys.stderr,
        )
        return self.yes_or_no("Trust it (yes/no)? ", spelled_out=True)

    def _ask_takeover(self, endpoint: str, pinned: str, shown: str, issuer: str) -> bool:
        print(
            f"{endpoint}: the server's key has changed from\n  {pinned} to\n  {shown}.\n"
            f"Its certificate was issued by {issuer}, which this machine trusts.",
            file=sys.stderr,
        )
        return self.yes_or_no(
            "Trust its certificates instead of the old key (yes/no)? ", spelled_out=True
        )

    def yes_or_no(
        self,
        question: str,
        *,
        spelled_out: bool = False,
        show_list: Callable[[], None] | None = None,
    ) -> bool:
        """Ask on the terminal until the answer is yes or no; Enter alone means no.

        Args:
            spelled_out: True if ``y`` is not enough for a yes.
            show_list: Called when the answer is ``list``, before the question is asked again.
        """
        agreeing = ("yes",) if spelled_out else ("y", "yes")
        while True:
            print(question, end="", file=sys.stderr, flush=True)
            with self.interrupt.at_once():
                line = sys.stdin.readline()
            if not line:
                print(file=sys.stderr)  # Ctrl-D leaves the cursor after the question
            answer = line.strip().lower()
            if answer in (*agreeing, "n", "no", ""):
                return answer in agreeing
            if show_list is None:
                print("please answer yes or no", file=sys.stderr)
            elif answer in ("l", "list", "?"):
                show_list()
            else:
                print("please answer yes, no or list", file=sys.stderr)

    def command(self, words: str) -> str:
        """Return a command as the user would type it here: after ``ftp`` outside the shell."""
        return command_line(words, in_shell=self.interactive)

    # words -------------------------------------------------------------------------------

    def pattern(self, word: str) -> str:
        """Return a word as a pattern of remote paths, with quoted characters taken literally."""
        return self.shell.patterns.get(word, word)

    def expand(self, word: str) -> list[str]:
        """Return the local paths that a shell word expands to; the word if nothing matches."""
        path = os.path.expanduser(word)
        if os.path.lexists(path):
            return [path]
        import glob  # only a shell expands words

        return sorted(glob.glob(os.path.expanduser(self.pattern(word)))) or [path]

    # talking -----------------------------------------------------------------------------

    def print(self, text: str) -> None:
        """Print a line of a result. Raises ReaderLeft."""
        self._complaints.flush()
        sys.stdout.write(text + "\n")

    def print_json(self, record: dict[str, Any]) -> None:
        """Print a JSON object as one line and flush it. Raises ReaderLeft."""
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
            raise  # an error of the server, even if its class is an OSError as well
        except OSError as error:
            standard.fail(error)

    def report_done(self, text: str, action: str, **more: Any) -> None:
        """Report that something was done: as an object with --json, else as a remark.

        Args:
            text: The remark; empty for none.
            more: Keys of the object, see `records.done_record`.
        """
        if self.as_json:
            from ftpclient.cli.records import done_record

            self.print_json(done_record(action, **more))
        elif text:
            self.say(text)

    def summarize(self, text: str) -> None:
        """Print a remark after all results. Raises ReaderLeft before it is printed."""
        sys.stdout.flush()
        if self.shell.job is not None:
            from ftpclient.cli.jobs import Report

            self.shell.job(Report(summary=text))
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """Print a human-readable remark on stderr, except with --quiet or --json."""
        self._complaints.flush()
        if not self.quiet and not self.as_json and not standard.reader_left():
            print(text, file=sys.stderr)

    def remark(self, text: str) -> None:
        """Print a notice on stderr, from the server or about a log-in; as JSON with --json."""
        self._complaints.flush()
        if self.as_json:
            print(_json({"remark": printable(text)}), file=sys.stderr)
        elif not self.quiet:
            print(f"ftp: {printable(text)}", file=sys.stderr)

    def complain(self, error: FtpError, exit_code: int | None = None) -> None:
        """Print one line on stderr about a failure; with --debug, a traceback before it.

        Many failures in a row with one cause become a single line, so lines are held back until
        something else is printed or the command ends. See `flush`.

        Args:
            exit_code: The command's exit status because of this failure, if it isn't the one of
                the error.
        """
        if self.debug and error.__traceback__ is not None:
            from ftpclient.cli.traces import print_trace

            print_trace(error)
        text = printable(str(error))
        if isinstance(error, NotFound) and re.match(_WITH_COLON, text):
            text += " (only sync and check take a colon before a remote path)"
        elif isinstance(error, NotFound) and (found := re.match(_WITH_HOST, text)):
            text += f" (to name a server, write USER@{found[1]}:PATH or ftpd://{found[1]}/PATH)"
        elif isinstance(error, ConnectFailed) and text.endswith(_NOT_RUNNING) and self._is_unset:
            text += " (ftpd start starts one; -s names another server)"
        if self.as_json:
            from ftpclient.cli.records import error_record

            line = None if self.shell.where is None else self.shell.where.line
            record = error_record(error, message=text, exit_code=exit_code, line=line)
            print(_json(record), file=sys.stderr)
        else:
            self._complaints.add(error, text)

    @property
    def _is_unset(self) -> bool:
        """True if neither -s nor a variable nor a saved server chose the server."""
        from ftpclient.connection.servers import ENVIRONMENT, SavedServers

        try:
            saved = SavedServers().default_name()
        except (FtpError, OSError):
            return False
        return not (self.server or os.environ.get(ENVIRONMENT) or saved)

    def flush(self) -> None:
        """Print the failures that are held back."""
        self._complaints.flush()


def _read_line() -> str:
    """Read exactly one line of standard input, unbuffered: the rest is data or commands."""
    line = bytearray()
    while byte := os.read(0, 1):
        if byte == b"\n":
            break
        line += byte
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")


def _json(record: dict[str, Any]) -> str:
    import json  # most commands don't need it

    return json.dumps(record)
