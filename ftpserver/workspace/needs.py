"""The permissions that each request needs.

Lives here: the one table, which the verbs check (workspace.py) and `ftpd why` reads.
Lives elsewhere: the rules of an account (storage/permissions.py); checks that depend on what is
there, for example whether a file is replaced (storage/home.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ftpserver.storage.permissions import Action, Permissions
from ftpwire import messages, paths
from ftpwire.messages import Message


@dataclass(frozen=True)
class Need:
    """The permission that a request needs for one of its paths.

    Attributes:
        action: The action that must be permitted.
        field: The request's field with the path.
        whole: True if it concerns everything below the path, too: no deeper rule may forbid it.
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
    messages.GetFiles: (),  # checked per file: those that may not be read are left out
    messages.Put: _CREATE,
    messages.PutPiece: (),  # its Put was permitted
    messages.PutFiles: (),  # checked per path, as for a Put: see file_run.py
    messages.MakeDir: _CREATE,
    messages.MakeLink: _CREATE,
    messages.SetAttributes: _CREATE,
    messages.BeginTree: _CREATE,
    messages.EndTree: (),
    messages.Remove: _REMOVE,
    messages.Move: _MOVE,
    messages.Copy: _COPY,
    messages.Operation: (),
    messages.ListTrash: (),  # this and the next two are checked per item, by its former path
    messages.Restore: (),
    messages.Purge: (),
}
"""The permissions that each request about files needs."""

_IN_TRASH: dict[type[Message], tuple[Action, ...]] = {
    messages.ListTrash: (Action.LIST,),
    messages.Restore: (Action.LIST, Action.CREATE),
    messages.Purge: (Action.LIST, Action.DELETE),
}
"""Actions that must be permitted for at least one path, or a request about the trash is refused. An
account that may only upload sees nothing of the trash."""


def require(permissions: Permissions, request: Message) -> None:
    """Raise Forbidden unless these permissions allow a request."""
    if getattr(request, "in_trash", None) is not None:  # its path is below an item, not the home
        permissions.require_somewhere(Action.LIST)
        return
    for action in _IN_TRASH.get(type(request), ()):
        permissions.require_somewhere(action)
    for need in NEEDS[type(request)]:
        parts = paths.split(getattr(request, need.field))
        permissions.require(need.action, parts, whole=need.whole)
