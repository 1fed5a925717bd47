"""The sessions of each account, and what only they share.

Lives here: the sessions of each account, and the memory page that paces all of them.
Lives elsewhere: the page itself (processes/shared_rate.py).
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from ftpserver.processes.shared_rate import make_page


@dataclass
class _Group:
    """One account's sessions, by number, and the descriptor of their page."""

    page: int
    members: set[int] = field(default_factory=set)


class AccountGroups:
    """All groups. Safe to use from many threads; ``_lock`` guards ``_groups``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: dict[int, _Group] = {}

    def join(self, account_id: int, session: int) -> int:
        """Add a session that has logged in; return the descriptor of its account's page.

        The descriptor stays open until the account's last session leaves."""
        with self._lock:
            group = self._groups.get(account_id)
            if group is None:
                group = self._groups[account_id] = _Group(make_page())
            group.members.add(session)
            return group.page

    def leave(self, account_id: int, session: int) -> None:
        """Remove a session that has ended, and with an account's last one the page."""
        with self._lock:
            group = self._groups.get(account_id)
            if group is None or session not in group.members:
                return  # it never joined
            group.members.discard(session)
            if not group.members:
                del self._groups[account_id]
                os.close(group.page)
