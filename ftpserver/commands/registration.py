"""Making an account of one's own, where the administrator lets people do that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ftpwire.errors import CommandError
from ftpwire.messages import LoggedIn, Message, Register
from ftpwire.paths import printable

if TYPE_CHECKING:
    from ftpserver.session import Session

logger = logging.getLogger("ftpd.registration")


def register(session: Session, request: Register) -> Message:
    """Make an account, and open the session as its user."""
    if session.account is not None:
        raise CommandError("logged in already")
    registration = session.server.registration
    try:
        invited = registration.permit(request.invitation, session.host)
        with session.server.limits.turn(session.host):
            account = registration.register(request.user, request.password, invited)
    except CommandError as error:
        name = printable(request.user)
        logger.warning("%s: can't register %s: %s", session, name, printable(str(error)))
        raise
    logger.info("%s: registered %s", session, account.name)
    session.log_in(account, None)
    return LoggedIn(account.name)
