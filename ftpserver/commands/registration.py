"""Making an account of one's own, where the administrator lets people do that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ftpserver.accounts import Account, check_name
from ftpwire.errors import BadAccount, CommandError, NameTaken, RegistrationClosed
from ftpwire.messages import LoggedIn, Message, Register

if TYPE_CHECKING:
    from ftpserver.session import Session

logger = logging.getLogger("ftpd.registration")


def register(session: Session, request: Register) -> Message:
    """Make an account, and open the session as its user."""
    if session.account is not None:
        raise CommandError("logged in already")
    if not session.server.settings.open_registration:
        raise RegistrationClosed("registration is closed here: ask the administrator")
    account = _add(session, request)
    logger.info("%s: registered %s", session, account.name)
    session.log_in(account, None)
    return LoggedIn(account.name)


def _add(session: Session, request: Register) -> Account:
    check_name(request.user)
    quota = session.server.settings.default_quota
    try:
        return session.server.accounts.add(request.user, request.password, quota=quota)
    except NameTaken:
        raise
    except BadAccount as error:
        if not isinstance(error.__cause__, OSError) and "exists and has" not in str(error):
            raise
        # where homes lie is no stranger's business
        logger.error("%s: can't register %s: %s", session, request.user, error)
        raise NameTaken(f"{request.user}: this name can't be had: take another") from None
