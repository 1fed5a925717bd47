"""Registration: users who make an account of their own.

Lives here: who may register, how often, and whether the disk can hold what all quotas promise.
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
from ftpserver.interfaces import namespaced, notification, request
from ftpserver.net.addresses import network_of
from ftpserver.schema import account
from ftpserver.schema import invitation as invitation_table
from ftpwire.errors import BadAccount, Busy, NameTaken, RegistrationClosed
from ftpwire.units import human

logger = logging.getLogger("ftpd.registration")

_OF_ONE_NETWORK = (10, 60.0)
_OF_ALL = (100, 6.0)
"""The number of tries at once, and the seconds until one more is allowed."""
_MOST_BUCKETS = 4096
_OF_ONE_INVITATION = (30, 60.0)
"""The same for tries with a valid invitation that make no account: their errors show which names
are taken."""


class Registration:
    """Registration on one server. Safe to use from many threads.

    Args:
        open: True to allow it without an invitation, too.
        default_quota: The quota in bytes, unless the invitation has one; None for no limit.
        throttle: Limits the tries; None for a limit of this process alone.
        probes: Limits the tries with an invitation; None for a limit of this process alone.
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
        """Check that a client may register, before anything else is checked.

        With a valid invitation a client may always try: `register` limits its failures.

        Raises:
            RegistrationClosed: Registration is closed, or the code isn't valid.
            Busy: There were too many tries lately.
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
        """Check a name and a password without hashing it. Raises BadAccount."""
        check_name(name)
        check_new_password(password)

    def register(self, name: str, password: str, invited: Invitation | None) -> Account:
        """Add an account for a client that `permit` has accepted.

        Raises:
            NameTaken, BadAccount
            RegistrationClosed: Another client has just taken the invitation's last use.
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
            # the client must not learn where homes are and what is there
            logger.error("cannot register %s: %s", name, error)
            raise NameTaken(f"{name}: this name is not available: choose another") from None
        self.warn()
        return added

    def warn(self) -> None:
        """Log a warning for each disk that cannot hold what quotas promise."""
        for one in overcommitted(self._engine, self._root, self.default_quota):
            logger.warning("%s", one)


@namespaced
class Throttling(Protocol):
    """The limit for tries to register."""

    @request
    def take(self, host: str) -> None:
        """Count a try from there. Raises Busy if there were too many."""


@namespaced
class Probing(Protocol):
    """The limit for failed tries with each valid invitation."""

    @request
    def take(self, invitation_id: str) -> None:
        """Count a try. Raises Busy if too many failed."""

    @notification
    def give_back(self, invitation_id: str) -> None:
        """Don't count a try, as it has made an account."""


class Throttle:
    """A limit for tries to register, per network and in all: a burst, then one per interval.

    ``_lock`` guards the buckets.

    Args:
        now: A clock in seconds that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._all = _Bucket(*_OF_ALL, now())
        self._networks = _Buckets(*_OF_ONE_NETWORK)

    def take(self, host: str) -> None:
        """Count a try. Raises Busy if there were too many."""
        network = network_of(host)
        now = self._now()
        with self._lock:
            bucket = self._networks.of(network, now)
            wait = max(bucket.wait(now), self._all.wait(now))
            if not wait:
                bucket.left -= 1
                self._all.left -= 1
        if wait:
            raise _busy("too many registrations at the moment", wait)


class Probes:
    """A limit for failed tries with each valid invitation. ``_lock`` guards the buckets.

    Args:
        now: A clock in seconds that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = Lock()
        self._buckets = _Buckets(*_OF_ONE_INVITATION)

    def take(self, invitation_id: str) -> None:
        """Count a try. Raises Busy if too many failed."""
        now = self._now()
        with self._lock:
            bucket = self._buckets.of(invitation_id, now)
            wait = bucket.wait(now)
            if not wait:
                bucket.left -= 1
        if wait:
            raise _busy("too many failed tries with this invitation", wait)

    def give_back(self, invitation_id: str) -> None:
        """Don't count a try, as it has made an account."""
        with self._lock:
            self._buckets.give_back(invitation_id)


def _busy(text: str, wait: float) -> Busy:
    seconds = max(1, math.ceil(wait))
    return Busy(f"{text}: try again in {seconds} s", retry_after=seconds)


class _Buckets:
    """One bucket for each key, up to a limit: the least recently used is forgotten first."""

    def __init__(self, most: int, seconds: float) -> None:
        self._rule = most, seconds
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: str, now: float) -> _Bucket:
        """Return the bucket of a key, a new one if needed."""
        bucket = self._buckets.setdefault(key, _Bucket(*self._rule, now))
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket

    def give_back(self, key: str) -> None:
        """Undo a take."""
        if key in self._buckets:
            self._buckets[key].left += 1


class _Bucket:
    """A token bucket: ``most`` at once, and one more each ``seconds``."""

    def __init__(self, most: int, seconds: float, now: float) -> None:
        self.left = float(most)
        self._most = most
        self._seconds = seconds
        self._filled = now

    def wait(self, now: float) -> float:
        """Return the seconds until one can be taken; 0 if one can be taken now."""
        self.left = min(self._most, self.left + (now - self._filled) / self._seconds)
        self._filled = now
        return max(1.0, (1 - self.left) * self._seconds) if self.left < 1 else 0.0


# promises ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overcommitted:
    """A disk with less free space than the accounts and invitations on it were promised.

    Attributes:
        directory: A directory on the disk.
        promised: Bytes that quotas still allow.
        free: Bytes of free space.
    """

    directory: Path
    promised: int
    free: int

    def __str__(self) -> str:
        return (
            f"{self.directory}: quotas promise another {human(self.promised)}, "
            f"but the disk has only {human(self.free)} free"
        )


def overcommitted(engine: Engine, root: Path, default_quota: int | None) -> list[Overcommitted]:
    """Find the disks that cannot hold all quotas on them. Accounts without a quota don't count."""
    promises: defaultdict[int, int] = defaultdict(int)
    directories: dict[int, Path] = {}
    for directory, promised in _promises(engine, root, default_quota):
        try:
            device = os.stat(directory).st_dev
        except OSError:
            continue  # a home that cannot be reached cannot grow either
        promises[device] += promised
        directories.setdefault(device, directory)
    found = []
    for device, promised in promises.items():
        disk = os.statvfs(directories[device])
        free = disk.f_bavail * disk.f_frsize
        if promised > free:
            found.append(Overcommitted(directories[device], promised, free))
    return found


def _promises(engine: Engine, root: Path, default_quota: int | None) -> list[tuple[Path, int]]:
    """Return the bytes that quotas still allow, for all homes in the root and for each other."""
    # summed as floats, as many quotas of exabytes would overflow integers
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
