"""The dispatch table: what a server does for each type of request.

Lives here: the table and its rows' meaning. The handlers live in one module for each family.
A handler is given the session and the decoded request, and returns the reply; None when the
reply comes with the batch's commit. It raises CommandError or OSError to refuse.

A row also says what the request does to which of its paths, and that is checked against the
account's permissions before the handler runs. What only shows on the way, as whether a file is
replaced, is checked where it shows (storage/home.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftpserver.serving.commands import browsing, changing, identity, registration, transfers
from ftpserver.storage.permissions import Action, Permissions
from ftpwire import messages, paths
from ftpwire.messages import Message

if TYPE_CHECKING:
    from ftpserver.serving.session import Session

Handler = Callable[["Session", Any], Message | None]


@dataclass(frozen=True)
class Need:
    """What a request does to one of its paths.

    Attributes:
        action: What has to be permitted.
        field: The path's field in the request.
        whole: Everything below the path is meant, too: no deeper rule may forbid it.
    """

    action: Action
    field: str = "path"
    whole: bool = False


@dataclass(frozen=True)
class Command:
    """What must hold before a handler runs, and how its answer travels.

    Attributes:
        run: The handler.
        before_login: Open to who hasn't logged in yet.
        batched: Joins the batch of small changes; otherwise that is committed first.
        takes_data: DATA frames follow the request.
        transfers: It moves the bytes of a file: it counts as a running transfer.
        ending: The reply closes a stream: it travels as END.
        quick: As a rule it waits for nothing. Others stand aside at once.
        needs: What the account has to be permitted.
    """

    run: Handler
    before_login: bool = False
    batched: bool = False
    takes_data: bool = False
    transfers: bool = False
    ending: bool = False
    quick: bool = False
    needs: tuple[Need, ...] = ()

    def require(self, permissions: Permissions, request: Message) -> None:
        """Raise Forbidden unless an account with these permissions may ask for that."""
        for need in self.needs:
            parts = paths.split(getattr(request, need.field))
            permissions.require(need.action, parts, whole=need.whole)


_SEE, _LIST, _READ = (Need(Action.SEE),), (Need(Action.LIST),), (Need(Action.READ),)
_CREATE = (Need(Action.CREATE),)
_REMOVE = (Need(Action.DELETE, whole=True),)
_MOVE = (Need(Action.DELETE, "source", whole=True), Need(Action.CREATE, "target", whole=True))
_COPY = (Need(Action.READ, "source", whole=True), Need(Action.CREATE, "target", whole=True))


COMMANDS: dict[type[Message], Command] = {
    messages.Login: Command(identity.login, before_login=True),
    messages.LoginToken: Command(identity.login_token, before_login=True),
    messages.LoginPeer: Command(identity.login_peer, before_login=True),
    messages.Register: Command(registration.register, before_login=True),
    messages.ChangePassword: Command(identity.change_password),
    messages.IssueToken: Command(identity.issue_token),
    messages.ListTokens: Command(identity.list_tokens),
    messages.RevokeToken: Command(identity.revoke_token),
    messages.WhoAmI: Command(identity.who_am_i, quick=True),
    messages.Space: Command(identity.space, quick=True),
    messages.ListKept: Command(browsing.list_kept, ending=True),
    messages.DropKept: Command(changing.drop_kept),
    messages.Stat: Command(browsing.stat, quick=True, needs=_SEE),
    messages.List: Command(browsing.list_directory, ending=True, quick=True, needs=_LIST),
    messages.Hash: Command(browsing.hash_file, needs=_READ),
    messages.Get: Command(transfers.get, transfers=True, ending=True, quick=True, needs=_READ),
    messages.Put: Command(
        transfers.put, transfers=True, batched=True, quick=True, takes_data=True, needs=_CREATE
    ),
    # its Put was permitted
    messages.PutPiece: Command(transfers.put_piece, transfers=True, takes_data=True),
    messages.MakeDir: Command(changing.add_to_batch, batched=True, quick=True, needs=_CREATE),
    messages.MakeLink: Command(changing.add_to_batch, batched=True, quick=True, needs=_CREATE),
    messages.SetAttributes: Command(changing.add_to_batch, batched=True, quick=True, needs=_CREATE),
    messages.BeginTree: Command(changing.begin_tree, needs=_CREATE),
    messages.EndTree: Command(changing.end_tree),
    messages.Remove: Command(changing.remove, batched=True, quick=True, needs=_REMOVE),
    messages.Move: Command(changing.move, needs=_MOVE),
    messages.Copy: Command(changing.copy, needs=_COPY),
}
