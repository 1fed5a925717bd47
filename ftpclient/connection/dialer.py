"""Making connections that are logged in.

Lives here: trying credentials, asking for a password, registering, remarks of the server.
Lives elsewhere: opening a connection (opening.py), the order of credentials (credentials.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import Credential, Credentials, Remark
from ftpclient.connection.driver import Trusted
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.opening import Opened, connect
from ftpclient.connection.trust import Trust
from ftpwire.errors import LoginRefused

_QUICK_ANSWER = 10.0
"""Seconds that every server waits at least for a log-in."""
_MOST_REMARKS = 20
_LONGEST_REMARK = 500


class Remarks:
    """Passes each remark on once. It limits their number and length, so that a server cannot fill
    memory or the screen.

    Args:
        on_remark: Function to call with a remark; None to drop all.
    """

    def __init__(self, on_remark: Remark | None) -> None:
        self._on_remark = on_remark
        self._reported: set[str] = set()

    def add(self, text: str) -> None:
        """Pass a remark on, unless that was done before."""
        text = text[:_LONGEST_REMARK]
        if (
            self._on_remark is None
            or text in self._reported
            or len(self._reported) >= _MOST_REMARKS
        ):
            return
        self._reported.add(text)
        self._on_remark(text)


class Dialer:
    """Connects to one server as one user. Several threads may use it, each with its own
    ``interrupt``.

    Args:
        plaintext: True to connect without TLS.
        verify: True to refuse a whole file that the server sends without a digest.
        remark: Function to call with texts that the user should see.
    """

    def __init__(
        self,
        address: ServerAddress,
        credentials: Credentials,
        trust: Trust,
        *,
        plaintext: bool,
        verify: bool,
        remark: Remark,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self._trust = trust
        self.plaintext = plaintext
        self._verify = verify
        self._remark = remark

    def open(
        self, interrupt: Interrupt | None, like: Trusted | None, credential: Credential | None
    ) -> Opened:
        """Return a connection that is not logged in yet; see `connect`."""
        opened = connect(
            self.address,
            plaintext=self.plaintext,
            trust=self._trust,
            interrupt=interrupt,
            like=like,
            credential=credential,
            on_remark=self._remark,
        )
        opened.verify = self._verify
        return opened

    def dial(self, interrupt: Interrupt | None, like: Trusted | None) -> Opened:
        """Return a connection that is logged in. This may ask the user for a password."""
        credential = self.credentials.first()
        opened = self.open(interrupt, like, credential)
        refusal: LoginRefused | None = None
        try:
            while True:
                if credential is not None:
                    try:
                        opened.log_in(credential)
                    except LoginRefused as error:
                        refusal = error
                    else:
                        self.credentials.accepted = credential  # to be used for reconnecting
                        return opened
                began = time.monotonic()
                credential = self.credentials.after(credential, refusal)
                opened = self._still_good(opened, began, interrupt, like)
        except BaseException:
            opened.close()
            raise

    def log_in(
        self, credential: Credential, interrupt: Interrupt | None, like: Trusted | None
    ) -> Opened:
        """Return a connection that is logged in with this credential. Raises LoginRefused."""
        opened = self.open(interrupt, like, credential)
        try:
            opened.log_in(credential)
        except BaseException:
            opened.close()
            raise
        self.credentials.accepted = credential
        return opened

    def register(
        self,
        user: str,
        password: str | Callable[[], str],
        invitation: str | None,
        interrupt: Interrupt | None,
        like: Trusted | None,
    ) -> Opened:
        """Create an account, and return a connection that is logged in to it.

        Args:
            password: The password, or a function that asks for it, called after the server's key
                was verified.
        """
        opened = self.open(interrupt, like, None)
        try:
            if callable(password):
                began = time.monotonic()
                password = password()
                opened = self._still_good(opened, began, interrupt, like)
            credential = Credential(user, password)
            opened.register(credential, invitation)
        except BaseException:
            opened.close()
            raise
        self.credentials.accepted = credential
        return opened

    def _still_good(
        self, opened: Opened, began: float, interrupt: Interrupt | None, like: Trusted | None
    ) -> Opened:
        """Return the connection; a new one if the server may have closed it meanwhile."""
        if time.monotonic() - began < _QUICK_ANSWER:
            return opened
        opened.close()
        return self.open(interrupt, like, None)
