"""Registration: people who make an account of their own.

Lives here: who may, how often, and whether the disk can hold what all accounts were promised.
Lives elsewhere: the request (serving/commands/registration.py), invitations and their codes
(invitations.py), accounts (accounts.py).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Protocol

from sqlalchemy import Engine, func, select

from ftpserver.accounts.account import Account, check_name
from ftpserver.accounts.accounts import Accounts, home_of
from ftpserver.accounts.invitations import CLOSED, Invitation, Invitations, take_use
from ftpserver.accounts.passwords import check_new_password
from ftpserver.clock import RUN
from ftpserver.database import reading
from ftpserver.interfaces import apart, asked, told
from ftpserver.net.addresses import network_of
from ftpserver.schema import account
from ftpserver.schema import invitation as invitation_table
from ftpwire.errors import BadAccount, Busy, NameTaken, RegistrationClosed
from ftpwire.units import human

logger = logging.getLogger("ftpd.registration")

_OF_ONE_PLACE = (10, 60.0)
_OF_ALL = (100, 6.0)
"""Tries at once, and the seconds after which there is one more."""
_MOST_PLACES = 4096
_OF_ONE_INVITATION = (30, 60.0)
"""Tries with a good invitation that make no account, which tell what names are taken: at once, and
the seconds after which there is one more."""


class Registration:
    """What one server lets strangers do. Safe to use from many threads.

    Args:
        open: Without an invitation, too.
        default_quota: Bytes, where an invitation doesn't say; None for no limit.
        throttle: Says how often somebody may try, in the place of this process alone.
        probes: The same of tries with an invitation.
    """

    def __init__(
        self,
        engine: Engine,
        accounts: Accounts,
        root: Path,
        *,
        open: bool = False,
        default_quota: int | None = None,
        throttle: Throttling | None = None,
        probes: Probing | None = None,
    ) -> None:
        self._engine = engine
        self._accounts = accounts
        self._invitations = Invitations(engine)
        self.probes: Probing = probes or Probes()
        self.throttle: Throttling = throttle or Throttle()
        self._root = root
        self.open = open
        self.default_quota = default_quota

    def permit(self, code: str | None, host: str) -> Invitation | None:
        """See whether somebody may register, before anything else is looked at.

        Whoever has a good invitation may try at any time: `register` bounds the failures.

        Raises:
            RegistrationClosed: Not here, or not with that code.
            Busy: Too many tried just now.
        """
        if code is not None:
            try:
                return self._invitations.find(code)
            except RegistrationClosed:
                self.throttle.take(host)
                raise
        if not self.open:
            raise RegistrationClosed(CLOSED)
        self.throttle.take(host)
        return None

    def check(self, name: str, password: str) -> None:
        """Check a name and a password as far as that costs no hash. Raises BadAccount."""
        check_name(name)
        check_new_password(password)

    def register(self, name: str, password: str, invited: Invitation | None) -> Account:
        """Add an account for somebody whom `permit` let in.

        Raises:
            NameTaken, BadAccount
            RegistrationClosed: Somebody else was quicker with the invitation's last use.
            Busy: Too many tries with the invitation failed.
        """
        self.check(name, password)
        if invited is None:
            return self._add(name, password, None)
        self.probes.take(invited.id)
        added = self._add(name, password, invited)
        self.probes.give_back(invited.id)
        return added

    def _add(self, name: str, password: str, invited: Invitation | None) -> Account:
        quota = None if invited is None else invited.quota
        try:
            added = self._accounts.add(
                name,
                password,
                within=None if invited is None else lambda link: take_use(link, invited),
                quota=self.default_quota if quota is None else quota,
            )
        except NameTaken:
            raise
        except BadAccount as error:
            if str(self._root) not in str(error):
                raise
            # where homes lie, and what is there, is no stranger's business
            logger.error("can't register %s: %s", name, error)
            raise NameTaken(f"{name}: this name can't be had: take another") from None
        self.warn()
        return added

    def warn(self) -> None:
        """Log which disks can't hold what was promised."""
        for one in overpromised(self._engine, self._root, self.default_quota):
            logger.warning("%s", one)


@apart
class Throttling(Protocol):
    """Who says how often somebody may try to register."""

    @asked
    def take(self, host: str) -> None:
        """Count a try from there. Raises Busy when there were too many."""


@apart
class Probing(Protocol):
    """Who counts the tries with each good invitation."""

    @asked
    def take(self, invitation_id: str) -> None:
        """Count one. Raises Busy when too many failed."""

    @told
    def give_back(self, invitation_id: str) -> None:
        """One made an account."""


class Throttle:
    """Tries to register, of each place and of all: some at once, then one now and then.

    Args:
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._all = _Bucket(*_OF_ALL, now())
        self._places = _Buckets(*_OF_ONE_PLACE)

    def take(self, host: str) -> None:
        """Count one. Raises Busy when there were too many."""
        place = network_of(host)
        now = self._now()
        with self._lock:
            bucket = self._places.of(place, now)
            wait = max(bucket.wait(now), self._all.wait(now))
            if not wait:
                bucket.left -= 1
                self._all.left -= 1
        if wait:
            raise _busy("too many want to register just now", wait)


class Probes:
    """Tries with each good invitation. Those that made an account are given back.

    Args:
        now: Seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._buckets = _Buckets(*_OF_ONE_INVITATION)

    def take(self, invitation_id: str) -> None:
        """Count one. Raises Busy when too many failed."""
        now = self._now()
        with self._lock:
            bucket = self._buckets.of(invitation_id, now)
            wait = bucket.wait(now)
            if not wait:
                bucket.left -= 1
        if wait:
            raise _busy("too many tries with this invitation failed", wait)

    def give_back(self, invitation_id: str) -> None:
        """One made an account."""
        with self._lock:
            self._buckets.give_back(invitation_id)


def _busy(text: str, wait: float) -> Busy:
    seconds = max(1, math.ceil(wait))
    return Busy(f"{text}: try again in {seconds} s", retry_after=seconds)


class _Buckets:
    """A bucket for each of a bounded number of keys: that used longest ago is forgotten first."""

    def __init__(self, most: int, seconds: float) -> None:
        self._rule = most, seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: str, now: float) -> _Bucket:
        """The bucket of a key, which may be a new one."""
        bucket = self._buckets.setdefault(key, _Bucket(*self._rule, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MOST_PLACES:
            self._buckets.popitem(last=False)
        return bucket

    def give_back(self, key: str) -> None:
        """One that was taken did not count."""
        if key in self._buckets:
            self._buckets[key].left += 1


class _Bucket:
    """So many at once, and one more each ``seconds``."""

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self.left = float(most)
        self._most = most
        self._seconds = seconds
        self._filled = now

    def wait(self, now: float) -> float:
        """Seconds until there is one to take; 0 when there is."""
        self.left = min(self._most, self.left + (now - self._filled) / self._seconds)
        self._filled = now
        return max(1.0, (1 - self.left) * self._seconds) if self.left < 1 else 0.0


# promises ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overpromised:
    """A disk that has less room than the accounts and invitations on it were promised.

    Attributes:
        place: A directory on it.
        promised: Bytes that may still come.
        free: Bytes that there are.
    """

    place: Path
    promised: int
    free: int

    def __str__(self) -> str:
        return (
            f"{self.place}: quotas promise {human(self.promised)} more, "
            f"and the disk has {human(self.free)} free"
        )


def overpromised(engine: Engine, root: Path, default_quota: int | None) -> list[Overpromised]:
    """The disks on which not everybody can use up the quota. Accounts without one don't count."""
    promises: defaultdict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for place, promised in _promises(engine, root, default_quota):
        try:
            device = os.stat(place).st_dev
        except OSError:
            continue  # a home that can't be reached just now takes nothing either
        promises[device] += promised
        places.setdefault(device, place)
    found = []
    for device, promised in promises.items():
        disk = os.statvfs(places[device])
        free = disk.f_bavail * disk.f_frsize
        if promised > free:
            found.append(Overpromised(places[device], promised, free))
    return found


def _promises(engine: Engine, root: Path, default_quota: int | None) -> list[tuple[Path, int]]:
    """What may still come, by directory: the root's homes together, and each that is elsewhere."""
    # summed as floats: whoever gives out quotas of exabytes gets a sum, and no overflow
    left = account.c.quota - account.c.used
    inside = select(func.sum(left * 1.0)).where(left > 0, account.c.home.is_(None))
    outside = select(account.c.home, left).where(left > 0, account.c.home.is_not(None))
    invited = func.coalesce(invitation_table.c.quota, default_quota or 0)
    still = select(func.sum(invited * 1.0 * invitation_table.c.uses)).where(
        func.coalesce(invitation_table.c.expires, 2**62) > int(RUN.latest())
    )
    with reading(engine).connect() as connection:
        in_root = int(connection.execute(inside).scalar() or 0)
        in_root += int(connection.execute(still).scalar() or 0)
        rows = connection.execute(outside).all()
    return [(root, in_root), *((home_of(root, "", home), size) for home, size in rows)]
