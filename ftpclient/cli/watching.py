"""sync --watch: syncing again whenever the local tree has changed.

Lives here: the rounds, the first and the second Ctrl-C, what is retried. Lives elsewhere: finding
changes (sync/tree_changes.py), waiting until they are over (sync/quiet.py), comparing only the
directories concerned (sync/partial.py), one sync with its output (commands/sync.py).

A round that fails leaves its directories for the next one. While nothing changes, nothing is sent:
a session that the server ends meanwhile is opened again by the next round.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from ftpclient.cli import operations
from ftpclient.cli.app import App
from ftpclient.cli.patience import RETRY_FOR
from ftpclient.cli.progress import listening
from ftpclient.connection.client_id import in_force
from ftpclient.sync import tree_changes
from ftpclient.sync.quiet import Collector
from ftpclient.sync.tree_changes import Changes, TreeChanges, Unavailable, Walks
from ftpclient.transfer.job import Enough
from ftpclient.transfer.patterns import option_rules
from ftpclient.transfer.report import Forwarding, Listener
from ftpclient.transfer.retry import first_contact
from ftpclient.transfer.selection import Filter
from ftpwire import paths
from ftpwire.errors import CommandError, FtpError, Interrupted, LoginRefused, from_oserror

if TYPE_CHECKING:
    from ftpclient.client import Client
    from ftpclient.sync.job import SyncSummary
    from ftpclient.sync.plan import Options

Sync = Callable[["Options", Callable[[Listener], Listener], bool], "SyncSummary"]
"""Does one sync and prints its results. Its second argument wraps the listener; the third is True
to print the totals even if nothing was done."""


class Watch:
    """One `sync --watch`.

    Args:
        root: The local tree.
        options: The options of each round.
        sync: Does a round.
        patient: False if --retry-for or --retries limits how long a lost server is waited for.
    """

    def __init__(
        self, app: App, client: Client, root: str, options: Options, sync: Sync, *, patient: bool
    ) -> None:
        self._app = app
        self._client = client
        self._root = os.fsencode(root)
        self._options = options
        self._sync = sync
        self._patient = patient
        self._rules = Filter(option_rules(options.patterns), app.interrupt.check)
        self._collector = Collector()
        self._stopping = False
        self._sending = False
        """True while a file may be under way, which the first Ctrl-C lets end."""

    def run(self) -> None:
        """Watch until Ctrl-C.

        Raises:
            FtpError: The first sync failed, the tree is gone, or no later round could succeed.
        """
        try:
            with self._on_ctrl_c(), self._for_ever():
                self._run()
        except (KeyboardInterrupt, Interrupted, Enough):
            if not self._stopping:
                raise
            self._client.settle_interrupt()

    def _run(self) -> None:
        changes = self._begin()
        try:
            if self._round(None).exit_code:
                self._collector.keep(Changes(everything=True))
            end = "" if self._app.shell.job is not None else " (Ctrl-C stops)"
            self._app.say(f"ftp: watching {paths.show(self._root)}{end}")
            while not self._stopping:
                try:
                    found = self._wait(changes)
                except Unavailable as why:
                    changes.close()
                    changes = self._walk(why)
                    continue
                if found:
                    self._later_round(found)
        finally:
            changes.close()

    def _wait(self, changes: TreeChanges) -> Changes:
        """Wait for changes, and return them when the tree is quiet; until then return none.

        Raises:
            Unavailable: See `TreeChanges`.
            CommandError: The tree is gone.
        """
        with self._reading_root():
            self._collector.add(changes.wait(self._collector.seconds_left))
            if self._collector.seconds_left != 0:
                return Changes()
            found = self._collector.take()
            if found.everything:
                changes.renew()
            return found

    @contextmanager
    def _reading_root(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise from_oserror(error, paths.show(self._root)) from None

    def _begin(self) -> TreeChanges:
        with self._reading_root():
            return tree_changes.watching(
                self._root,
                self._rules,
                self._app.interrupt,
                follow=self._options.copy_links,
                remark=self._app.remark,
            )

    def _walk(self, why: Unavailable) -> Walks:
        """Return what walks the tree from now on. Everything may have changed until now."""
        self._app.remark(tree_changes.walking_instead(why))
        self._collector.add(Changes(everything=True))
        with self._reading_root():
            return Walks(self._root, self._rules, self._app.interrupt)

    # one round -----------------------------------------------------------------------------

    def _later_round(self, found: Changes) -> None:
        """Sync what has changed. Failures are printed, and their directories kept.

        Raises:
            FtpError: No later round could succeed.
        """
        self._client.look_up()  # the server may have ended the session
        try:
            with listening(self._app) as listener:
                first_contact(self._client, listener)
            summary = self._round(None if found.everything else found.directories)
        except LoginRefused:
            raise
        except CommandError as error:
            self._app.complain(error)
            self._app.flush()
            self._collector.keep(found)
            return
        if summary.failed or summary.exit_code:
            self._collector.keep(found)

    def _round(self, directories: set[bytes] | None) -> SyncSummary:
        """Sync, all of the tree or only some directories, as an operation of its own."""
        outer = in_force(self._app)
        assert outer is not None
        self._sending = False
        try:
            with operations.running(self._app, lambda: outer.words, keep=outer.keep, apart=True):
                options = replace(self._options, directories=directories)
                return self._sync(options, self._listening, directories is None)
        finally:
            self._sending = False
            self._app.flush()

    def _listening(self, listener: Listener) -> Listener:
        return _Round(listener, self)

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    def now_sending(self, sending: bool) -> None:
        """Note whether files are being sent: not while comparing, or without a connection."""
        self._sending = sending

    # Ctrl-C, and patience ------------------------------------------------------------------

    @contextmanager
    def _on_ctrl_c(self) -> Iterator[None]:
        """Let the first Ctrl-C end the watch after the running file, and the second at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def stop(number: int, frame: FrameType | None) -> None:
            first, self._stopping = not self._stopping, True
            if first and self._sending:
                return
            if callable(before):
                before(number, frame)
            else:
                self._app.interrupt.set()

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def _for_ever(self) -> Iterator[None]:
        """Let the client wait for a lost server without a limit, unless the user gave one."""
        if not self._patient:
            yield
            return
        self._client.retry_for = math.inf
        try:
            yield
        finally:
            self._client.retry_for = RETRY_FOR


class _Round(Forwarding):
    """The listener of a round: stops it between two files, and tells when files are sent."""

    def __init__(self, listener: Listener, watch: Watch) -> None:
        super().__init__(listener)
        self._watch = watch

    @property
    def enough(self) -> bool:  # type: ignore[override]
        return self._watch.is_stopping or super().enough

    def totals(self, files: int, size: int) -> None:
        self._watch.now_sending(True)
        super().totals(files, size)

    def lost(self, error: FtpError) -> None:
        self._watch.now_sending(False)
        super().lost(error)
