"""Who is asking, and how much room they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpwire.errors import CommandError, LoginRefused
from ftpwire.messages import LoggedIn, Login, Message, Space, WhoAmI

if TYPE_CHECKING:
    from ftpserver.session import Session


def login(session: Session, request: Login) -> Message:
    """Check the password and open the session."""
    if session.account is not None:
        raise CommandError("logged in already")
    try:
        account = session.server.accounts.log_in(request.user, request.password)
    except LoginRefused:
        session.log_in_failed(request.user)
        raise
    session.log_in(account)
    return LoggedIn(account.name)


def who_am_i(session: Session, request: WhoAmI) -> Message:
    """Tell the account's name."""
    return LoggedIn(session.user.name)


def space(session: Session, request: Space) -> Message:
    """Tell total, used, held and free, from the ledger."""
    return session.server.ledger.room(session.user.id)
