"""How long, and how much, an account's trash keeps."""

from __future__ import annotations

from dataclasses import dataclass

DAY = 24 * 3600


@dataclass(frozen=True)
class Policy:
    """What holds for one account: its own settings, else the server's.

    Attributes:
        days: How long something is kept; 0: there is no trash, and removals are final.
        versions: Most versions of one path that are kept; 0: what is replaced isn't kept.
        items: Most lines of all indexes together.
        share: Most of the quota, or without one of the disk, that the trash may take, in percent;
            None: as much as there is room for.
    """

    days: int = 7
    versions: int = 5
    items: int = 100_000
    share: int | None = None

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.days > 0

    @property
    def seconds(self) -> int:
        """How long something is kept."""
        return self.days * DAY


NO_TRASH = Policy(days=0, versions=0)
