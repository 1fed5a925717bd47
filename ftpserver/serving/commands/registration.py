"""The handler of registration: making one's own account, if the administrator permits it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ftpserver.accounts.authenticator import TooManySessions
from ftpwire.errors import CommandError
from ftpwire.messages import Message, Register
from ftpwire.paths import printable

if TYPE_CHECKING:
    from ftpserver.serving.authentication import Authentication

logger = logging.getLogger("ftpd.registration")


def register(client: Authentication, request: Register) -> Message:
    """Make an account, and log in to it."""
    if client.account is not None:
        raise CommandError("logged in already")
    try:
        admitted = client.authenticator.register(
            client.host, request.user, request.password, request.invitation
        )
    except TooManySessions as error:
        client.turn_away(request.user, error)
        raise
    except CommandError as error:
        name = printable(request.user)
        logger.warning("%s: cannot register %s: %s", client, name, printable(str(error)))
        raise
    logger.info("%s: registered %s", client, admitted.account.name)
    return client.log_in(admitted)
