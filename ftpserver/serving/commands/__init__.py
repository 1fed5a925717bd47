"""The dispatch table: what a server does for each type of request.

Lives here: the table and the meaning of its rows. The handlers live in one module per family.
Lives elsewhere: the permissions that requests need (workspace/needs.py).

A handler for files takes the exchange, the workspace of the account that is logged in, and the
decoded request. A handler for accounts takes the connection's authentication and the request. It
returns the reply, or None if that comes with the batch's commit. To refuse, it raises CommandError
or OSError.
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
    """A handler, the conditions before it runs, and how its reply is sent.

    Attributes:
        run: The handler, for a request that concerns files.
        identify: The handler, for a request that concerns the account itself.
        before_login: True if it is open to clients that haven't logged in.
        batched: True if it joins the batch of small changes; otherwise the batch is committed
            first.
        takes_data: True if DATA frames follow the request.
        transfers: True if it moves the bytes of a file: it may count as a running transfer.
        reads: True if it only reads a file, which stays open until the reply.
        ending: True if the reply closes a stream: it is sent as END.
        quick: True if it usually waits for nothing. The threads of all other requests give up
            their turn at once.
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
