"""Housekeeping: repairs what a crash left in the homes, at the start and while the server runs.

Lives here: the thread for that, choosing the homes, and when to count one.
Lives elsewhere: counting a home (storage/recount.py), the trash (trash_keeping.py), keeping leases
alive (serving/heartbeat.py), finding leases that have expired (storage/ledger.py).
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from ftpserver import ballast
from ftpserver.accounts.account import Account
from ftpserver.clock import RUN
from ftpserver.errors import StateError
from ftpserver.storage.home import Home
from ftpserver.storage.incarnations import LEASE_SECONDS
from ftpserver.storage.recount import clean, put_back_all, recount
from ftpwire.errors import DiskFull, NotFound

if TYPE_CHECKING:
    from ftpserver.serving.service import Service

logger = logging.getLogger("ftpd")

EVERY = LEASE_SECONDS / 5
"""Seconds between two checks for homes whose used space is in doubt."""
_SHORT_PATIENCE = 1.0
"""Seconds to wait for a home's lock while other homes have to be counted, too."""


class Housekeeping:
    """Looks after the homes of a server. Its thread ends when the service stops.

    Args:
        service: The service with the accounts and limits.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reported_foreign: set[int] = set()
        """Accounts whose home belongs to another server, as was logged already."""
        self._thread = threading.Thread(target=self._run, name="housekeeping")
        self._look_read, self._look_write = os.pipe()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has ended, which it does when the service stops. Can be called
        twice."""
        self._thread.join()

    def close(self) -> None:
        """Close the descriptors, after `stop`."""
        read, self._look_read = self._look_read, -1
        write, self._look_write = self._look_write, -1
        os.close(read)
        os.close(write)

    def look_soon(self) -> None:
        """Count the homes that are in doubt soon, without waiting for the usual time. After
        `close`, this does nothing: the next start counts them."""
        if self._look_write >= 0:
            os.write(self._look_write, b"\0")

    def _run(self) -> None:
        """Repair what a crash left; then repeat the checks until the service stops."""
        service = self._service
        try:
            service.limits.tidy()
            self.recount_dirty()
            self.clean_all()
            service.registration.warn()
        except Exception:
            logger.exception("recounting failed; used space stays as it was counted last")
        while self._wait_for_work():
            try:
                self._look_after_ballast()
                service.limits.tidy()
                self.recount_dirty()
            except Exception:
                logger.exception("housekeeping failed; it will be tried again")

    def _look_after_ballast(self) -> None:
        """Release the reserved disk space if the disk is full; else reserve it again."""
        state = self._service.settings.state
        if ballast.is_full(state):
            ballast.release(state)
        else:
            ballast.keep(state)

    def _wait_for_work(self) -> bool:
        """Wait until it is time for the next check. Return False when the server stops."""
        stop_fd = self._service.stop_fd
        readable, _, _ = select.select([stop_fd, self._look_read], [], [], EVERY)
        if self._look_read in readable:
            os.read(self._look_read, 4096)
        return stop_fd not in readable

    def own_accounts(self, ids: Collection[int] | None = None) -> Iterator[Account]:
        """Yield the accounts whose homes don't belong to another server. Others are not touched.

        Args:
            ids: The ids of the accounts to choose from; None for all.
        """
        for account in self._service.accounts if ids is None else self._known(ids):
            try:
                other = self._service.ownership.claim(account.home, use=False)
            except OSError as error:
                logger.error("%s: the home cannot be read: %s", account.name, error)
                continue
            if other is None:
                yield account
            elif account.id not in self._reported_foreign:
                self._reported_foreign.add(account.id)
                logger.error("%s: the home belongs to %s: not touched", account.name, other)

    def _known(self, ids: Collection[int]) -> Iterator[Account]:
        for account_id in sorted(ids):
            try:
                yield self._service.accounts.by_id(account_id)
            except NotFound:
                continue  # removed meanwhile

    def put_back(self) -> None:
        """Rename what a crash left moved aside back to its name. Call this before accepting
        connections."""
        try:
            doubtful = self._service.ledger.in_doubt()
        except StateError as error:
            logger.error("cannot look for directories that a crash left moved aside: %s", error)
            return
        for account in self.own_accounts(doubtful):
            try:
                put_back_all(account.home)
            except OSError as error:
                logger.error("%s: cannot put back what was moved aside: %s", account.name, error)

    def recount_dirty(self) -> None:
        """Count the homes of accounts whose used space is in doubt, and clean their staging.

        Homes that are locked come last, so that they don't delay the others.
        """
        dirty = set(self._service.ledger.reap())
        locked = [
            one for one in self.own_accounts(dirty) if not self._recount(one, _SHORT_PATIENCE)
        ]
        for account in locked:
            if not self._recount(account):
                logger.error("%s: the home cannot be counted: it is locked", account.name)

    def _recount(self, account: Account, patience: float | None = None) -> bool:
        """Count a home. Return False if it is locked for longer than ``patience``."""
        logger.info("%s: recounting the home", account.name)
        more = {} if patience is None else {"patience": patience}
        try:
            recount(self._service.ledger, account.id, Home(account.home), account.inner, **more)
        except TimeoutError:
            return False
        except (OSError, DiskFull, StateError) as error:  # go on with the other homes
            logger.error("%s: the home cannot be counted: %s", account.name, error)
        return True

    def clean_all(self) -> None:
        """Remove from the staging of all homes what belongs to no lease and no interrupted
        upload."""
        for account in self.own_accounts():
            try:
                if clean(self._service.ledger, account.id, account.home):
                    self._recount(account)
            except OSError as error:
                logger.error("%s: staging cannot be cleaned: %s", account.name, error)


class ClockWatch:
    """Logs when the system's clock is set while the server runs."""

    def heartbeat(self) -> None:
        """Check the clock."""
        jump = RUN.take_jump()
        if jump:
            logger.warning(
                "the system's clock was set %s by %.0f seconds: bans and interrupted uploads last "
                "as long as before, and what has expired stays expired until a restart",
                "forward" if jump > 0 else "back",
                abs(jump),
            )
