"""Who is asking, with what keys, and how much room they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ftpserver.accounts.authenticator import NoPlace
from ftpserver.accounts.tokens import DEFAULT_SECONDS
from ftpserver.net.addresses import peer_uid
from ftpwire.errors import Busy, CommandError, LoginRefused, NotFound
from ftpwire.messages import (
    ChangePassword,
    Done,
    IssueToken,
    ListTokens,
    LoggedIn,
    Login,
    LoginPeer,
    LoginToken,
    Message,
    RevokeToken,
    Space,
    TokenIssued,
    Tokens,
    WhoAmI,
)

if TYPE_CHECKING:
    from ftpserver.accounts.authenticator import Admission
    from ftpserver.serving.session import Session


def login(session: Session, request: Login) -> Message:
    """Check the password and open the session."""
    entrance = session.server.entrance
    return let_in(
        session,
        request.user,
        lambda: entrance.by_password(session.host, request.user, request.password),
    )


def login_token(session: Session, request: LoginToken) -> Message:
    """Check the token and open the session."""
    entrance = session.server.entrance
    return let_in(
        session,
        request.user,
        lambda: entrance.by_token(session.host, request.user, request.token),
    )


def login_peer(session: Session, request: LoginPeer) -> Message:
    """Let the system user at the other end in, where the account names it."""
    entrance, uid = session.server.entrance, peer_uid(session.request)
    return let_in(session, request.user, lambda: entrance.by_peer(session.host, request.user, uid))


def let_in(session: Session, name: str, prove: Callable[[], Admission]) -> Message:
    """Open the session, if whoever it is can prove it; else refuse, after some time."""
    if session.account is not None:
        raise CommandError("logged in already")
    try:
        admitted = prove()
    except LoginRefused as error:
        session.log_in_failed(name, error)
        raise
    except NoPlace as error:
        session.turn_away(name, error)
        raise
    except Busy as error:
        session.hold_back(session.server.entrance.delay(session.host, error))
        raise
    session.log_in(admitted)
    return LoggedIn(admitted.account.name)


def change_password(session: Session, request: ChangePassword) -> Message:
    """Set another password; this session goes on, the others and all tokens end."""
    entrance = session.server.entrance
    with _renewing(session):
        session.renew(
            entrance.change_password(session.host, session.user, request.old, request.new)
        )
    return Done()


def issue_token(session: Session, request: IssueToken) -> Message:
    """Make a token for scripts. What a token makes is good no longer than that one."""
    seconds = DEFAULT_SECONDS if request.seconds is None else request.seconds
    made = session.server.entrance.issue_token(
        session.user, request.name, seconds, session.token_id
    )
    return TokenIssued(made.id, made.secret, made.expires)


def list_tokens(session: Session, request: ListTokens) -> Message:
    """Tell the account's tokens."""
    return Tokens(list(session.server.entrance.tokens_of(session.user, session.token_id)))


def revoke_token(session: Session, request: RevokeToken) -> Message:
    """Make a token good for nothing, and all that were made with it."""
    token_id = request.id or session.token_id
    if token_id is None:
        raise NotFound("this session did not log in with a token: say which one")
    with _renewing(session):
        session.server.entrance.revoke_token(session.user, token_id)
        if token_id == session.token_id:
            session.token_revoked = True
    return Done()


@contextmanager
def _renewing(session: Session) -> Iterator[None]:
    """The session's own keys become others: what ends its sisters doesn't end it."""
    session.renewing = True
    try:
        yield
    finally:
        session.renewing = False


def who_am_i(session: Session, request: WhoAmI) -> Message:
    """Tell the account's name."""
    return LoggedIn(session.user.name)


def space(session: Session, request: Space) -> Message:
    """Tell total, used, held and free, from the ledger, and what the disk has and keeps."""
    room = session.server.ledger.room(session.user.id)
    kept = session.home.kept_times(request.times) if request.times else None
    return replace(room, disk_free=session.home.disk_free(), kept_times=kept)
