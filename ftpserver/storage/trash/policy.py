"""The policy of an account's trash: how long, and how much, it keeps."""

from __future__ import annotations

from dataclasses import dataclass

DAY = 24 * 3600


@dataclass(frozen=True)
class Policy:
    """The policy for one account: its own settings, or else the server's.

    Attributes:
        days: Days that an operation is kept; 0: there is no trash, and removals are final.
        versions: Most versions that are kept of one path; 0: replaced files are not kept.
        items: Most lines of all indexes together.
        share: The largest share of the quota (of the disk, if there is no quota) that the trash may
            take, in percent; None: as much as fits.
    """

    days: int = 7
    versions: int = 5
    items: int = 100_000
    share: int | None = None

    @property
    def on(self) -> bool:
        """True if anything is kept."""
        return self.days > 0

    @property
    def seconds(self) -> int:
        """Seconds that an operation is kept."""
        return self.days * DAY


NO_TRASH = Policy(days=0, versions=0)
