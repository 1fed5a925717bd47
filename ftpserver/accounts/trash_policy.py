"""What an account's trash keeps: its own settings, else the server's.

Lives here: putting the two together. Lives elsewhere: what a policy is (storage/trash/policy.py),
the server's settings (settings/table.py), who obeys it (workspace/, daemon/housekeeping.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpserver.storage.trash.policy import Policy

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.settings.table import Settings


def policy_of(account: Account, settings: Settings) -> Policy:
    """What holds for an account now. Both may be others at the next request."""
    days, share = account.trash_days, account.trash_max
    return Policy(
        days=settings.trash_days if days is None else days,
        versions=settings.trash_versions,
        items=settings.trash_items,
        share=settings.trash_max if share is None else share,
    )
