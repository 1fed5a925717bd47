"""The sessions of each account, which share what no other account's may see.

Lives here: who belongs to which account, and what they share: the page that their pace is kept by.
Lives elsewhere: the page (processes/shared_rate.py).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from ftpserver.processes.shared_rate import make_page


@dataclass
class _Group:
    """One account's sessions, by their numbers."""

    page: int
    members: set[int] = field(default_factory=set)


class AccountGroups:
    """All of them. Safe to use from many threads; ``_lock`` guards ``_groups``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, _Group] = {}

    def join(self, account_id: int, session: int) -> int:
        """A session has logged in; returns the descriptor of its account's page."""
        with self._lock:
            group = self._groups.get(account_id)
            if group is None:
                group = self._groups[account_id] = _Group(make_page())
            group.members.add(session)
            return group.page

    def leave(self, account_id: int, session: int) -> None:
        """A session has ended: with an account's last one, what they shared is gone."""
        with self._lock:
            group = self._groups.get(account_id)
            if group is None or session not in group.members:
                return  # it could not join
            group.members.discard(session)
            if not group.members:
                del self._groups[account_id]
                os.close(group.page)
