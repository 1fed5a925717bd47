"""What each request needs of an account's permissions.

Lives here: the one table, which the verbs check (workspace.py) and `ftpd why` reads.
Lives elsewhere: the rules of an account (storage/permissions.py); what only shows on the way, as
whether a file is replaced, is checked where it shows (storage/home.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpserver.storage.permissions import Action, Permissions
from ftpwire import messages, paths
from ftpwire.messages import Message


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


_SEE, _LIST, _READ = (Need(Action.SEE),), (Need(Action.LIST),), (Need(Action.READ),)
_CREATE = (Need(Action.CREATE),)
_REMOVE = (Need(Action.DELETE, whole=True),)
_MOVE = (Need(Action.DELETE, "source", whole=True), Need(Action.CREATE, "target", whole=True))
_COPY = (Need(Action.READ, "source", whole=True), Need(Action.CREATE, "target", whole=True))


NEEDS: dict[type[Message], tuple[Need, ...]] = {
    messages.Space: (),
    messages.ListKept: (),
    messages.DropKept: (),
    messages.Stat: _SEE,
    messages.List: _LIST,
    messages.Hash: _READ,
    messages.Get: _READ,
    messages.GetFiles: (),  # each file is looked at: what may not be read is left out
    messages.Put: _CREATE,
    messages.PutPiece: (),  # its Put was permitted
    messages.PutFiles: (),  # each of its paths needs what it would need alone: see file_run.py
    messages.MakeDir: _CREATE,
    messages.MakeLink: _CREATE,
    messages.SetAttributes: _CREATE,
    messages.BeginTree: _CREATE,
    messages.EndTree: (),
    messages.Remove: _REMOVE,
    messages.Move: _MOVE,
    messages.Copy: _COPY,
    messages.Operation: (),
    messages.ListTrash: (),  # these look at the paths of what is in the trash, one by one
    messages.Restore: (),
    messages.Purge: (),
}
"""Every request that concerns files, and what it needs."""

_IN_TRASH: dict[type[Message], tuple[Action, ...]] = {
    messages.ListTrash: (Action.LIST,),
    messages.Restore: (Action.LIST, Action.CREATE),
    messages.Purge: (Action.LIST, Action.DELETE),
}
"""What has to be permitted somewhere, to ask for the trash at all: who may only put things into a
home sees nothing of it."""


def require(permissions: Permissions, request: Message) -> None:
    """Raise Forbidden unless an account with these permissions may ask for that."""
    if getattr(request, "in_trash", None) is not None:  # its path is no path of the home
        permissions.require_somewhere(Action.LIST)
        return
    for action in _IN_TRASH.get(type(request), ()):
        permissions.require_somewhere(action)
    for need in NEEDS[type(request)]:
        parts = paths.split(getattr(request, need.field))
        permissions.require(need.action, parts, whole=need.whole)
