"""Housekeeping: what a crash left in the homes is put right, and what goes wrong meanwhile.

Lives here: the thread for that, which homes it looks at, when it counts one.
Lives elsewhere: counting a home (storage/recount.py), the trash (trash_keeping.py), keeping leases
alive (serving/heartbeat.py),
whose leases have ended (storage/ledger.py).
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
"""Seconds from one look for homes in doubt to the next."""
_SHORT_PATIENCE = 1.0
"""Seconds that a home's lock is waited for while other homes have to be counted, too."""


class Housekeeping:
    """Looks after the homes of a server. Its thread ends when the service stops.

    Args:
        service: Whose homes and limits they are.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._told_anothers: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="housekeeping")
        self._look_read, self._look_write = os.pipe()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Wait until the thread has ended, because the service stops. Can be called twice."""
        self._thread.join()

    def close(self) -> None:
        """Give everything back, after `stop`."""
        read, self._look_read = self._look_read, -1
        write, self._look_write = self._look_write, -1
        os.close(read)
        os.close(write)

    def look_soon(self) -> None:
        """Have the homes counted that are in doubt, without waiting for the usual time; after
        `close`, the next start does."""
        if self._look_write >= 0:
            os.write(self._look_write, b"\0")

    def _run(self) -> None:
        """Repair what a crash left; then what goes wrong while the server runs."""
        service = self._service
        try:
            service.limits.tidy()
            self.recount_dirty()
            self.clean_all()
            service.registration.warn()
        except Exception:
            logger.exception("recounting failed; quotas keep their last figures")
        while self._wait_for_work():
            try:
                self._look_after_ballast()
                service.limits.tidy()
                self.recount_dirty()
            except Exception:
                logger.exception("housekeeping failed; it is tried again")

    def _look_after_ballast(self) -> None:
        """Use the room that is kept back when the disk is full; keep some again when it is not."""
        state = self._service.settings.state
        if ballast.is_full(state):
            ballast.release(state)
        else:
            ballast.keep(state)

    def _wait_for_work(self) -> bool:
        """Until it is time to look again; False when the server stops."""
        stop_fd = self._service.stop_fd
        readable, _, _ = select.select([stop_fd, self._look_read], [], [], EVERY)
        if self._look_read in readable:
            os.read(self._look_read, 4096)
        return stop_fd not in readable

    def own_accounts(self, ids: Collection[int] | None = None) -> Iterator[Account]:
        """The accounts whose homes are not those of another server: there, nothing is touched.

        Args:
            ids: Only these; None: all.
        """
        for account in self._service.accounts if ids is None else self._known(ids):
            try:
                other = self._service.ownership.claim(account.home, use=False)
            except OSError as error:
                logger.error("%s: the home can't be looked at: %s", account.name, error)
                continue
            if other is None:
                yield account
            elif account.id not in self._told_anothers:
                self._told_anothers.add(account.id)
                logger.error("%s: the home belongs to %s: it is left alone", account.name, other)

    def _known(self, ids: Collection[int]) -> Iterator[Account]:
        for account_id in sorted(ids):
            try:
                yield self._service.accounts.by_id(account_id)
            except NotFound:
                continue  # removed meanwhile

    def put_back(self) -> None:
        """Before anybody comes in: what a crash left moved aside goes back to its name."""
        try:
            doubtful = self._service.ledger.in_doubt()
        except StateError as error:
            logger.error("what a crash left moved aside isn't looked for now: %s", error)
            return
        for account in self.own_accounts(doubtful):
            try:
                put_back_all(account.home)
            except OSError as error:
                logger.error("%s: what was moved aside isn't back: %s", account.name, error)

    def recount_dirty(self) -> None:
        """Count the homes of accounts whose used space is in doubt, and clean their staging.

        Those that others have locked just now come last: they hold up no other.
        """
        dirty = set(self._service.ledger.reap())
        locked = [
            one for one in self.own_accounts(dirty) if not self._recount(one, _SHORT_PATIENCE)
        ]
        for account in locked:
            if not self._recount(account):
                logger.error("%s: the home is locked by others, and not counted", account.name)

    def _recount(self, account: Account, patience: float | None = None) -> bool:
        """Count a home; False when others have locked it."""
        logger.info("%s: recounting the home", account.name)
        more = {} if patience is None else {"patience": patience}
        try:
            recount(self._service.ledger, account.id, Home(account.home), account.inner, **more)
        except TimeoutError:
            return False
        except (OSError, DiskFull, StateError) as error:  # it stops no other's recount
            logger.error("%s: the home can't be counted: %s", account.name, error)
        return True

    def clean_all(self) -> None:
        """Remove what nobody owns from the staging of all homes, whatever it is left from."""
        for account in self.own_accounts():
            try:
                if clean(self._service.ledger, account.id, account.home):
                    self._recount(account)
            except OSError as error:
                logger.error("%s: staging can't be cleaned: %s", account.name, error)


class ClockWatch:
    """Tells in the log when somebody sets the system's clock while the server runs."""

    def heartbeat(self) -> None:
        """Look once more."""
        jump = RUN.take_jump()
        if jump:
            logger.warning(
                "the system's clock was set %s by %.0f seconds: bans and kept uploads last as long "
                "as before; until a restart, what has expired stays so",
                "forward" if jump > 0 else "back",
                abs(jump),
            )
