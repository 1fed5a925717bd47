"""Handlers that concern the account: logging in, passwords, tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ftpserver.accounts.authenticator import TooManySessions
from ftpserver.accounts.tokens import DEFAULT_SECONDS
from ftpwire.errors import Busy, CommandError, LoginRefused, NotFound
from ftpwire.messages import (
    ChangePassword,
    Done,
    IssueToken,
    ListTokens,
    Login,
    LoginPeer,
    LoginToken,
    Message,
    RevokeToken,
    TokenIssued,
    Tokens,
    WhoAmI,
)

if TYPE_CHECKING:
    from ftpserver.accounts.authenticator import Admission
    from ftpserver.serving.authentication import Authentication


def login(client: Authentication, request: Login) -> Message:
    """Check the password and open the session."""
    ask = client.authenticator
    client.send_answers()
    return _let_in(
        client,
        request.user,
        lambda: ask.by_password(client.host, request.user, request.password),
    )


def login_token(client: Authentication, request: LoginToken) -> Message:
    """Check the token and open the session."""
    ask = client.authenticator
    return _let_in(
        client, request.user, lambda: ask.by_token(client.host, request.user, request.token)
    )


def login_peer(client: Authentication, request: LoginPeer) -> Message:
    """Log in by the system user at the other end, if the account names it."""
    ask, uid = client.authenticator, client.uid()
    return _let_in(client, request.user, lambda: ask.by_peer(client.host, request.user, uid))


def _let_in(client: Authentication, name: str, prove: Callable[[], Admission]) -> Message:
    """Open the session if the proof is accepted. Otherwise wait for some time, and refuse."""
    if client.account is not None:
        raise CommandError("logged in already")
    try:
        admitted = prove()
    except LoginRefused as error:
        client.refuse(name, error)
        raise
    except TooManySessions as error:
        client.turn_away(name, error)
        raise
    except Busy as error:
        client.hold_back(error)
        raise
    return client.log_in(admitted)


def change_password(client: Authentication, request: ChangePassword) -> Message:
    """Change the password. This session goes on; all others and all tokens end."""
    with client.renewal():
        client.renew(
            client.authenticator.change_password(client.host, client.user, request.old, request.new)
        )
    return Done()


def issue_token(client: Authentication, request: IssueToken) -> Message:
    """Make a token for scripts. A token made with another one expires no later than that one."""
    seconds = DEFAULT_SECONDS if request.seconds is None else request.seconds
    made = client.authenticator.issue_token(client.user, request.name, seconds, client.token_id)
    return TokenIssued(made.id, made.secret, made.expires)


def list_tokens(client: Authentication, request: ListTokens) -> Message:
    """List the account's tokens."""
    return Tokens(list(client.authenticator.tokens_of(client.user, client.token_id)))


def revoke_token(client: Authentication, request: RevokeToken) -> Message:
    """Revoke a token, and all tokens that were made with it."""
    token_id = request.id or client.token_id
    if token_id is None:
        raise NotFound("this session did not log in with a token: name the token to revoke")
    with client.renewal():
        client.authenticator.revoke_token(client.user, token_id)
        if token_id == client.token_id:
            client.token_revoked = True
    return Done()


def who_am_i(client: Authentication, request: WhoAmI) -> Message:
    """Describe the account that is logged in."""
    return client.logged_in()
