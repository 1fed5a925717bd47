"""Credentials: passwords, saved tokens, netrc; and the order in which they are tried.

Lives here: the order, the file of tokens, reading netrc.
Lives elsewhere: sending them (opening.py, dialer.py), asking at a terminal (cli/app.py), the
commands that save and revoke tokens (cli/commands/accounts.py).

A password that was given, or FTP_PASSWORD, is the only one tried. Otherwise the saved token, netrc,
and the function that asks the user are tried, in this order, even after a token was refused.
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
"""Environment variable with the password."""

Password = str | Callable[[], str] | None
Remark = Callable[[str], None]


class Credential(msgspec.Struct, frozen=True):
    """A user name, and a password or a token for it; or the identity of the system user alone.

    Attributes:
        is_peer: True if the kernel identifies the user, over a Unix socket.
    """

    user: str
    secret: str
    is_token: bool = False
    is_peer: bool = False

    def __repr__(self) -> str:
        return f"Credential({self.user!r})"  # never the secret

    def check(self) -> None:
        """Raise LoginRefused if no server can accept it."""
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
        """Return the message to send. Raises LoginRefused if no server can accept it."""
        self.check()
        if self.is_peer:
            return messages.LoginPeer(self.user)
        if self.is_token:
            return messages.LoginToken(self.user, self.secret)
        return messages.Login(self.user, self.secret)


# saved tokens ------------------------------------------------------------------------------


class SavedToken(msgspec.Struct, frozen=True, omit_defaults=True):
    """A token that `ftp login` has saved.

    Attributes:
        id: The ID by which the server lists and revokes it.
        secret: The token itself.
        expires: Expiry time in seconds since 1970; None for never.
        plaintext: True if it was issued without TLS. Other tokens are never sent without TLS.
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
        """Return the token for an address, if there is one.

        Raises CommandError if other users can read the file, because they may have copied it.
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
        """Save a token, replacing any other for that address."""
        with self._file.changing() as contents:
            contents.tokens[str(address)] = saved

    def addresses(self) -> list[ServerAddress]:
        """Return all addresses with a token."""
        return [ServerAddress.parse(address) for address in self._file.read().tokens]

    def forget(self, address: ServerAddress) -> None:
        """Delete the token for an address, if there is one."""
        with self._file.changing() as contents:
            contents.tokens.pop(str(address), None)


# netrc -------------------------------------------------------------------------------------


def from_netrc(address: ServerAddress, remark: Remark) -> Credential | None:
    """Return the credential for a host from ``~/.netrc``, or from the file in NETRC.

    If the address names a user, the entry must be for that user. An entry ``default`` is ignored:
    it would send a password to every host.
    """
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        info = path.stat()
    except OSError:
        return None
    if not files.is_private(info):
        remark(f"{path}: others can read it, so it is not used: chmod 600")
        return None
    import netrc  # here, because few users have such a file

    try:
        entry = netrc.netrc(str(path)).hosts.get(address.host)
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        where = f" (line {error.lineno})" if isinstance(error, netrc.NetrcParseError) else ""
        remark(f"{path}: cannot be read{where}, so it is not used")
        return None
    if entry is None or not entry[2]:
        return None
    user = entry[0] or address.login
    return Credential(user, entry[2]) if address.user in (None, user) else None


# the order ---------------------------------------------------------------------------------


class Credentials:
    """The credentials for one address. One that was accepted is used from then on.

    Args:
        password: The only password to try; or a function that asks for one, if nothing else works.
        plaintext: True if the connection has no TLS.
        saved: True if the saved token may be used.
        tries: How often the function is called if the server refuses the password.
        remark: Function to call with texts that the user should see.
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
        self._prompted: Credential | None = None
        self.accepted: Credential | None = None

    def first(self) -> Credential | None:
        """Return the credential to try first; None if the user has to be asked."""
        if self.accepted is not None:
            return self.accepted
        given = self._password if isinstance(self._password, str) else os.environ.get(PASSWORD)
        if given is not None:
            return Credential(self._address.login, given)
        if self._address.path is not None:
            return self._token() or Credential(self._address.login, "", is_peer=True)
        return self._token() or from_netrc(self._address, self._remark)

    def after(self, refused: Credential | None, error: LoginRefused | None) -> Credential:
        """Return the credential to try next. Raises LoginRefused if there is none left."""
        if refused is not None and refused.is_peer and type(error) is LoginRefused:
            if not callable(self._password):
                raise LoginRefused(
                    f"{self._address}: wrong user name, or your system user needs a password "
                    f"here: set {PASSWORD}, use --password-stdin, or save a token with "
                    "ftp login"
                )
        elif refused is not None and error is not None:
            if type(error) is not LoginRefused:
                raise error  # it does not depend on the credential
            if refused is self._prompted and self._tries > 0:
                left = "1 try is" if self._tries == 1 else f"{self._tries} tries are"
                self._remark(f"{error} ({left} left)")
                return self._ask()
            if not refused.is_token:
                raise error  # a given password is the only one to try
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
        self._prompted = Credential(self._address.login, self._password())
        return self._prompted

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
            self._remark(f"the saved token for {self._address} is not sent without TLS")
            return None
        if saved.expires is not None and saved.expires <= time.time():
            self._remark(f"the saved token for {self._address} has expired: ftp login renews it")
            return None
        return Credential(self._address.login, saved.secret, is_token=True)
