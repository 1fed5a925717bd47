"""The dispatch table: what a server does for each type of request.

Lives here: the table and its rows' meaning. The handlers live in one module for each family.
Lives elsewhere: what requests need of an account's permissions (workspace/needs.py).

A handler of files is given the exchange, the workspace of who is logged in, and the decoded
request; one of accounts the connection's authentication and the request. It returns the reply;
None when that comes with the batch's commit. It raises CommandError or OSError to refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftpserver.serving.commands import (
    browsing,
    changing,
    identity,
    registration,
    transfers,
    trash,
)
from ftpwire import messages
from ftpwire.messages import Message

if TYPE_CHECKING:
    from ftpserver.serving.authentication import Authentication
    from ftpserver.serving.exchange import Exchange
    from ftpserver.workspace.workspace import Workspace

Handler = Callable[["Exchange", "Workspace", Any], Message | None]
IdentityHandler = Callable[["Authentication", Any], Message]


@dataclass(frozen=True)
class Command:
    """What must hold before a handler runs, and how its answer travels.

    Attributes:
        run: The handler, of a request that concerns files.
        identify: The handler, of one that concerns the account itself.
        before_login: Open to who hasn't logged in yet.
        batched: Joins the batch of small changes; otherwise that is committed first.
        takes_data: DATA frames follow the request.
        transfers: It moves the bytes of a file: it counts as a running transfer.
        reads: It only reads a file, which stays open until the answer.
        ending: The reply closes a stream: it travels as END.
        quick: As a rule it waits for nothing. Others stand aside at once.
    """

    run: Handler | None = None
    identify: IdentityHandler | None = None
    before_login: bool = False
    batched: bool = False
    takes_data: bool = False
    transfers: bool = False
    reads: bool = False
    ending: bool = False
    quick: bool = False


COMMANDS: dict[type[Message], Command] = {
    messages.Login: Command(identify=identity.login, before_login=True),
    messages.LoginToken: Command(identify=identity.login_token, before_login=True),
    messages.LoginPeer: Command(identify=identity.login_peer, before_login=True),
    messages.Register: Command(identify=registration.register, before_login=True),
    messages.ChangePassword: Command(identify=identity.change_password),
    messages.IssueToken: Command(identify=identity.issue_token),
    messages.ListTokens: Command(identify=identity.list_tokens),
    messages.RevokeToken: Command(identify=identity.revoke_token),
    messages.WhoAmI: Command(identify=identity.who_am_i, quick=True),
    messages.Space: Command(browsing.space, quick=True),
    messages.ListKept: Command(browsing.list_kept, ending=True),
    messages.DropKept: Command(changing.drop_kept),
    messages.Stat: Command(browsing.stat, quick=True),
    messages.List: Command(browsing.list_directory, ending=True, quick=True),
    messages.Hash: Command(browsing.hash_file),
    messages.Get: Command(transfers.get, transfers=True, reads=True, ending=True, quick=True),
    messages.GetFiles: Command(
        transfers.get_files, transfers=True, reads=True, ending=True, quick=True
    ),
    messages.Put: Command(transfers.put, transfers=True, batched=True, quick=True, takes_data=True),
    messages.PutPiece: Command(transfers.put_piece, transfers=True, takes_data=True),
    messages.PutFiles: Command(
        transfers.put_files, transfers=True, batched=True, quick=True, takes_data=True
    ),
    messages.MakeDir: Command(changing.change, batched=True, quick=True),
    messages.MakeLink: Command(changing.change, batched=True, quick=True),
    messages.SetAttributes: Command(changing.change, batched=True, quick=True),
    messages.BeginTree: Command(changing.begin_tree),
    messages.EndTree: Command(changing.end_tree),
    messages.Remove: Command(changing.remove, batched=True, quick=True),
    messages.Move: Command(changing.move),
    messages.Copy: Command(changing.copy),
    messages.Operation: Command(trash.begin_operation, quick=True),
    messages.ListTrash: Command(trash.list_trash, ending=True),
    messages.Restore: Command(trash.restore),
    messages.Purge: Command(trash.purge),
}
