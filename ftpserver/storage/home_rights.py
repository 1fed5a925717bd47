"""What may be done at which path of a home, while a tree may be on its way to its place.

Lives here: the account's permissions held against a path, and where a redirected path leads.
Lives elsewhere: the rules themselves (permissions.py), what each request needs of them
(workspace/needs.py), building a tree in staging (atomic_tree.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.permissions import UNLIMITED, Action, Permissions
from ftpwire import paths
from ftpwire.errors import Forbidden
from ftpwire.paths import Parts


class PermittedHome(OpenHome):
    """A home in which an account's permissions hold.

    Attributes:
        permissions: What may be done in it; set by ``set_permissions``.
    """

    permissions: Permissions = UNLIMITED
    _redirected: tuple[Parts, Parts] | None = None

    def redirect(self, target: Parts | None, staged: Parts = ()) -> None:
        """Have changes at or below ``target`` go to a directory in staging; None ends that."""
        self._redirected = None if target is None else (target, staged)

    def network_of(self, parts: Parts) -> Parts:
        """Where a change at ``parts`` goes: there, unless a tree is on its way to that place."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(target)] == target:
                return (*staged, *parts[len(target) :])
        return parts

    def name_apart(self, directory: Parts) -> bytes | None:
        """The name in a directory that leads to a tree on its way, where the directory itself does
        not: all other names are where ``network_of`` of the directory says. None: there is none."""
        if self._redirected is not None:
            target, _ = self._redirected
            if target and target[:-1] == directory:
                return target[-1]
        return None

    def _shown_place(self, parts: Parts) -> Parts:
        """The place that ``network_of`` leads away from."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(staged)] == staged:
                return (*target, *parts[len(staged) :])
        return parts

    def parent_of(self, parts: Parts) -> Parts:
        """The directory that something is in; of a tree on its way, that which it goes to."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts == staged:
                return target[:-1]
        return parts[:-1]

    def set_permissions(self, permissions: Permissions) -> None:
        """Keep to these permissions from here on. Those without limits cost nothing."""
        self.permissions = permissions
        self.tree.on_link = None if permissions.unlimited else self._check_link

    def _check_link(self, parts: Sequence[bytes], resolved: Sequence[bytes]) -> None:
        if paths.STAGING in parts or paths.STAGING in resolved:
            raise Forbidden("links in a tree that is on its way are not followed")
        if paths.TRASH in parts or paths.TRASH in resolved:
            raise Forbidden("links into the trash are not followed")
        self.permissions.check_link(tuple(parts), tuple(resolved))

    def require(self, action: Action, parts: Parts, *, whole: bool = False) -> None:
        """Raise Forbidden unless `permits`."""
        if not self.permits(action, parts, whole=whole):
            self.permissions.require(action, self._shown_place(parts), whole=whole)

    def permits(self, action: Action, parts: Parts, *, whole: bool = False) -> bool:
        """Whether the permissions let something be done there, and to ``whole`` of what is below.

        For a tree on its way to its place, its place decides; what was put into it meanwhile is
        nobody's yet, and can be replaced.
        """
        if self.permissions.unlimited:
            return True
        if paths.STAGING in parts and action is not Action.CREATE:
            return True
        parts = self._shown_place(parts)
        below = self.permissions.rules_below(parts) if whole else ()
        return self.permissions.allows(action, parts) and all(
            action in rule.rights.actions for rule in below
        )
