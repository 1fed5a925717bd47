"""The account's permissions on paths of a home, and the redirection of an atomic upload.

Lives here: checking a path against the permissions, and where a redirected path leads.
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
    """A home to which an account's permissions apply.

    Attributes:
        permissions: The permissions; set by ``set_permissions``.
    """

    permissions: Permissions = UNLIMITED
    _redirected: tuple[Parts, Parts] | None = None

    def redirect(self, target: Parts | None, staged: Parts = ()) -> None:
        """Send changes at or below ``target`` to a directory in staging; None ends that."""
        self._redirected = None if target is None else (target, staged)

    def redirected(self, parts: Parts) -> Parts:
        """Return the path that a change at ``parts`` goes to: another one at or below the target of
        an atomic upload, else the same."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(target)] == target:
                return (*staged, *parts[len(target) :])
        return parts

    def name_apart(self, directory: Parts) -> bytes | None:
        """Return the one name in a directory that is redirected although the directory is not.

        All other names are where ``redirected`` the directory says. None: there is no such name.
        """
        if self._redirected is not None:
            target, _ = self._redirected
            if target and target[:-1] == directory:
                return target[-1]
        return None

    def _shown_place(self, parts: Parts) -> Parts:
        """Return the path that ``redirected`` redirects to ``parts``."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts[: len(staged)] == staged:
                return (*target, *parts[len(staged) :])
        return parts

    def parent_of(self, parts: Parts) -> Parts:
        """Return the directory of a path; for the top of an atomic upload, that of its target."""
        if self._redirected is not None:
            target, staged = self._redirected
            if parts == staged:
                return target[:-1]
        return parts[:-1]

    def set_permissions(self, permissions: Permissions) -> None:
        """Apply these permissions from now on. Unlimited ones cost nothing."""
        self.permissions = permissions
        self.tree.on_link = None if permissions.unlimited else self._check_link

    def _check_link(self, parts: Sequence[bytes], resolved: Sequence[bytes]) -> None:
        if paths.STAGING in parts or paths.STAGING in resolved:
            raise Forbidden("links are not followed in an atomic upload")
        if paths.TRASH in parts or paths.TRASH in resolved:
            raise Forbidden("links into the trash are not followed")
        self.permissions.check_link(tuple(parts), tuple(resolved))

    def require(self, action: Action, parts: Parts, *, whole: bool = False) -> None:
        """Raise Forbidden unless `permits`."""
        if not self.permits(action, parts, whole=whole):
            self.permissions.require(action, self._shown_place(parts), whole=whole)

    def permits(self, action: Action, parts: Parts, *, whole: bool = False) -> bool:
        """Return whether the permissions allow an action on a path, with ``whole`` on all below it.

        For an atomic upload, its target decides. What was put into it meanwhile isn't visible yet,
        and can always be replaced.
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
