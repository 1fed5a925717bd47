"""The trash policy of an account: its own settings, or else the server's.

Lives here: combining the two. Lives elsewhere: the policy as a value (storage/trash/policy.py), the
server's settings (settings/table.py), applying the policy (workspace/, daemon/housekeeping.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpserver.storage.trash.policy import Policy

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.settings.table import Settings


def policy_of(account: Account, settings: Settings) -> Policy:
    """Return the policy of an account now. Both settings may have changed at the next request."""
    days, share = account.trash_days, account.trash_max
    return Policy(
        days=settings.trash_days if days is None else days,
        versions=settings.trash_versions,
        items=settings.trash_items,
        share=settings.trash_max if share is None else share,
    )
