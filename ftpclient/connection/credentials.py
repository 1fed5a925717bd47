"""What proves who the user is: passwords, saved tokens, netrc; and which of them comes first.

Lives here: the order, the file of tokens, reading netrc.
Lives elsewhere: sending them (opening.py, dialer.py), asking at a terminal (cli/app.py), the
commands that save and revoke tokens (cli/commands/accounts.py).

A password that was given, or FTP_PASSWORD, is the only one tried. Else the saved token, netrc,
and whoever can be asked, in this order: a refused token is no reason to give up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ftpclient.connection import files
from ftpclient.connection.addresses import ServerAddress
from ftpwire import messages
from ftpwire.errors import CommandError, LoginRefused
from ftpwire.paths import printable

PASSWORD = "FTP_PASSWORD"
"""The environment variable."""

Password = str | Callable[[], str] | None
Remark = Callable[[str], None]


class Credential(msgspec.Struct, frozen=True):
    """A name, and a password or a token for it; or nothing but who runs this.

    Attributes:
        is_peer: The system vouches for the user, over a Unix socket.
    """

    user: str
    secret: str
    is_token: bool = False
    is_peer: bool = False

    def __repr__(self) -> str:
        return f"Credential({self.user!r})"  # never the secret

    def check(self) -> None:
        """Raises LoginRefused when no server could accept it."""
        what = "token" if self.is_token else "password"
        try:
            self.user.encode()
            size = len(self.secret.encode())
        except UnicodeEncodeError:
            raise LoginRefused(f"the user name or the {what} is not UTF-8 text") from None
        most = messages.MAX_TOKEN if self.is_token else messages.MAX_PASSWORD
        if len(self.user) > messages.MAX_USER or size > most:
            raise LoginRefused(f"wrong user name or {what}")

    def request(self) -> messages.Login | messages.LoginToken | messages.LoginPeer:
        """What to send. Raises LoginRefused when no server could accept it."""
        self.check()
        if self.is_peer:
            return messages.LoginPeer(self.user)
        if self.is_token:
            return messages.LoginToken(self.user, self.secret)
        return messages.Login(self.user, self.secret)


# saved tokens ------------------------------------------------------------------------------


class SavedToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token that `ftp login` saved.

    Attributes:
        id: What the server lists and revokes it by.
        expires: Seconds since 1970; None for never.
        plaintext: It was got without TLS; others never travel without.
    """

    id: str
    secret: str
    expires: int | None = None
    plaintext: bool = False

    def __repr__(self) -> str:
        return f"SavedToken(id={self.id!r}, secret=…)"


class _Contents(msgspec.Struct):
    tokens: dict[str, SavedToken] = {}


class SavedTokens:
    """The user's tokens, one for each ``USER@HOST:PORT``, in a file of mode 0600.

    Args:
        path: The file; None for the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = files.JsonFile(path or files.directory() / "tokens.json", _Contents)

    def get(self, address: ServerAddress) -> SavedToken | None:
        """The token for an address.

        Raises CommandError when others can read the file: who knows who has.
        """
        try:
            info = self._file.path.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        if not files.is_private(info):
            raise CommandError(
                f"{self._file.path}: others can read it, so it is not used: chmod 600"
            )
        return self._file.read().tokens.get(str(address))

    def save(self, address: ServerAddress, saved: SavedToken) -> None:
        """Keep a token, instead of any other for that address."""
        with self._file.changing() as contents:
            contents.tokens[str(address)] = saved

    def forget(self, address: ServerAddress) -> None:
        """Drop the token for an address, if there is one."""
        with self._file.changing() as contents:
            contents.tokens.pop(str(address), None)


# netrc -------------------------------------------------------------------------------------


def from_netrc(address: ServerAddress, remark: Remark) -> Credential | None:
    """The password that ``~/.netrc``, or the file in NETRC, has for a host.

    A user that is named has to be the one of the entry. An entry ``default`` is not used: it would
    send a password to every host.
    """
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        info = path.stat()
    except OSError:
        return None
    if not files.is_private(info):
        remark(f"{path}: others can read it, so it is not used: chmod 600")
        return None
    import netrc  # imported here: most have no such file

    try:
        entry = netrc.netrc(str(path)).hosts.get(address.host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        where = f" (line {error.lineno})" if isinstance(error, netrc.NetrcParseError) else ""
        remark(f"{path}: it can't be read{where}, and is not used")
        return None
    if entry is None or not entry[2]:
        return None
    user = entry[0] or address.login
    return Credential(user, entry[2]) if address.user in (None, user) else None


# the order ---------------------------------------------------------------------------------


class Credentials:
    """What to log in with at one address. What was accepted once is used from then on.

    Args:
        password: The only one; or whoever is asked when nothing else is there or good.
        plaintext: The connection has no TLS.
        saved: Whether the saved token may be used.
        tries: How often a password is asked for, when the server refuses it.
        remark: Told what the user should know.
    """

    def __init__(
        self,
        address: ServerAddress,
        password: Password,
        *,
        plaintext: bool,
        saved: bool,
        remark: Remark,
        tries: int = 1,
    ) -> None:
        self._address = address
        self._password = password
        self._plaintext = plaintext
        self._saved = saved
        self._remark = remark
        self._tries = tries
        self._asked: Credential | None = None
        self.accepted: Credential | None = None

    def first(self) -> Credential | None:
        """What to try first; None when somebody has to be asked."""
        if self.accepted is not None:
            return self.accepted
        given = self._password if isinstance(self._password, str) else os.environ.get(PASSWORD)
        if given is not None:
            return Credential(self._address.login, given)
        if self._address.path is not None:
            return self._token() or Credential(self._address.login, "", is_peer=True)
        return self._token() or from_netrc(self._address, self._remark)

    def after(self, refused: Credential | None, error: LoginRefused | None) -> Credential:
        """What to try next. Raises LoginRefused when there is nothing more."""
        if refused is not None and refused.is_peer and type(error) is LoginRefused:
            if not callable(self._password):
                raise LoginRefused(
                    f"{self._address}: wrong user name, or the system user that you are needs a "
                    f"password for it: set {PASSWORD}, use --password-stdin, or save a token with "
                    "ftp login"
                )
        elif refused is not None and error is not None:
            if type(error) is not LoginRefused:
                raise error  # another one would be refused as well
            if refused is self._asked and self._tries > 0:
                left = "1 try is" if self._tries == 1 else f"{self._tries} tries are"
                self._remark(f"{error} ({left} left)")
                return self._ask()
            if not refused.is_token:
                raise error  # nothing else is meant
            found = from_netrc(self._address, self._remark)
            if found is not None or callable(self._password):
                self._remark(
                    f"the saved token for {self._address} was refused: ftp login renews it"
                )
            if found is not None:
                return found
        if callable(self._password):
            return self._ask()
        raise error or LoginRefused(
            f"no password for {self._address}: set {PASSWORD}, use --password-stdin, "
            "or save a token with ftp login"
        )

    def _ask(self) -> Credential:
        assert callable(self._password)
        self._tries -= 1
        self._asked = Credential(self._address.login, self._password())
        return self._asked

    def _token(self) -> Credential | None:
        if not self._saved:
            return None
        try:
            saved = SavedTokens().get(self._address)
        except CommandError as error:
            self._remark(printable(str(error)))
            return None
        if saved is None:
            return None
        if self._plaintext and not saved.plaintext and self._address.path is None:
            self._remark(f"the saved token for {self._address} is for TLS, and not sent without")
            return None
        if saved.expires is not None and saved.expires <= time.time():
            self._remark(f"the saved token for {self._address} has expired: ftp login renews it")
            return None
        return Credential(self._address.login, saved.secret, is_token=True)
