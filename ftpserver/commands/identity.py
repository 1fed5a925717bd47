"""Who is asking, with what keys, and how much room they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ftpserver.addresses import peer_uid
from ftpserver.tokens import DEFAULT_SECONDS
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
    from ftpserver.accounts import Account
    from ftpserver.session import Session


def login(session: Session, request: Login) -> Message:
    """Check the password and open the session."""
    accounts, limits = session.server.accounts, session.server.limits

    def prove() -> tuple[Account, str | None]:
        return accounts.log_in(request.user, request.password, session.host), None

    return _log_in(
        session, request.user, lambda: limits.by_password(session.host, request.user, prove)
    )


def login_token(session: Session, request: LoginToken) -> Message:
    """Check the token and open the session."""
    tokens, limits = session.server.tokens, session.server.limits

    def prove() -> tuple[Account, str | None]:
        return tokens.log_in(request.user, request.token, session.host)

    return _log_in(
        session, request.user, lambda: limits.by_token(session.host, request.user, prove)
    )


def login_peer(session: Session, request: LoginPeer) -> Message:
    """Let the system user at the other end in, where the account names it."""
    server = session.server

    def prove() -> tuple[Account, str | None]:
        return server.accounts.log_in_peer(request.user, peer_uid(session.request)), None

    return _log_in(
        session, request.user, lambda: server.limits.by_token(session.host, request.user, prove)
    )


def _log_in(
    session: Session, name: str, prove: Callable[[], tuple[Account, str | None]]
) -> Message:
    if session.account is not None:
        raise CommandError("logged in already")
    try:
        account, token_id = prove()
    except LoginRefused as error:
        session.log_in_failed(name, error)
        raise
    except Busy as error:
        session.hold_back(session.server.limits.delay(session.host, error))
        raise
    session.log_in(account, token_id)
    return LoggedIn(account.name)


def change_password(session: Session, request: ChangePassword) -> Message:
    """Set another password; this session goes on, the others and all tokens end."""
    accounts, name = session.server.accounts, session.user.name

    def prove() -> None:
        if not accounts.check_password(name, request.old):
            raise LoginRefused("that is not your password")

    session.server.limits.by_password(session.host, name, prove)
    with _renewing(session):
        session.renew(accounts.set_password(session.user.name, request.new))
    return Done()


def issue_token(session: Session, request: IssueToken) -> Message:
    """Make a token for scripts."""
    seconds = DEFAULT_SECONDS if request.seconds is None else request.seconds
    made = session.server.tokens.issue(session.user, request.name, seconds)
    return TokenIssued(made.id, made.secret, made.expires)


def list_tokens(session: Session, request: ListTokens) -> Message:
    """Tell the account's tokens."""
    return Tokens(list(session.server.tokens.of(session.user, session.token_id)))


def revoke_token(session: Session, request: RevokeToken) -> Message:
    """Make a token good for nothing."""
    token_id = request.id or session.token_id
    if token_id is None:
        raise NotFound("this session did not log in with a token: say which one")
    with _renewing(session):
        session.server.tokens.revoke(session.user, token_id)
        if token_id == session.token_id:
            session.token_id = None
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
    """Tell total, used, held and free, from the ledger."""
    return session.server.ledger.room(session.user.id)
