"""The dispatch table: what a server does for each type of request.

Lives here: the table and its rows' meaning. The handlers live in one module for each family.
A handler is given the session and the decoded request, and returns the reply; None when the
reply comes with the batch's commit. It raises CommandError or OSError to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftpserver.commands import browsing, changing, identity, registration, transfers
from ftpwire import messages
from ftpwire.messages import Message

if TYPE_CHECKING:
    from ftpserver.session import Session

Handler = Callable[["Session", Any], Message | None]


@dataclass(frozen=True)
class Command:
    """What must hold before a handler runs, and how its answer travels.

    Attributes:
        run: The handler.
        before_login: Open to who hasn't logged in yet.
        batched: Joins the batch of small changes; otherwise that is committed first.
        takes_data: DATA frames follow the request.
        ending: The reply closes a stream: it travels as END.
    """

    run: Handler
    before_login: bool = False
    batched: bool = False
    takes_data: bool = False
    ending: bool = False


COMMANDS: dict[type[Message], Command] = {
    messages.Login: Command(identity.login, before_login=True),
    messages.LoginToken: Command(identity.login_token, before_login=True),
    messages.Register: Command(registration.register, before_login=True),
    messages.ChangePassword: Command(identity.change_password),
    messages.IssueToken: Command(identity.issue_token),
    messages.ListTokens: Command(identity.list_tokens),
    messages.RevokeToken: Command(identity.revoke_token),
    messages.WhoAmI: Command(identity.who_am_i),
    messages.Space: Command(identity.space),
    messages.Stat: Command(browsing.stat),
    messages.List: Command(browsing.list_directory, ending=True),
    messages.Hash: Command(browsing.hash_file),
    messages.Get: Command(transfers.get, ending=True),
    messages.Put: Command(transfers.put, batched=True, takes_data=True),
    messages.PutPiece: Command(transfers.put_piece, takes_data=True),
    messages.MakeDir: Command(changing.add_to_batch, batched=True),
    messages.MakeLink: Command(changing.add_to_batch, batched=True),
    messages.SetAttributes: Command(changing.add_to_batch, batched=True),
    messages.BeginTree: Command(changing.begin_tree),
    messages.EndTree: Command(changing.end_tree),
    messages.Remove: Command(changing.remove, batched=True),
    messages.Move: Command(changing.move),
    messages.Copy: Command(changing.copy),
}
