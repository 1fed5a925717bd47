"""Ctrl-C and timeouts, which take effect at points where the connection is in step.

Lives here: the flag, and the descriptor that wakes a waiting connection; pauses that it ends.
Lives elsewhere: what is cancelled then (connection.py).

A KeyboardInterrupt inside a send would leave half a frame behind. So the signal handler only sets a
flag and writes to a pipe; code that waits or works checks the flag and raises Interrupted.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ftpclient.connection import forks
from ftpwire.errors import Interrupted


class TimeOver(Interrupted):
    """The request took longer than the caller's timeout."""

    code = "timed-out"
    exit_code = 4


class Interrupt:
    """Stops what one connection is doing.

    Attributes:
        until: The deadline on ``time.monotonic()``, for calls that cannot be woken.
    """

    _read = _write = -1

    def __init__(self) -> None:
        self._open()
        self._is_set = False
        self._over: str | None = None
        self._at_once = False
        self._presses = 0
        self.until = math.inf
        forks.follow(self)

    def _open(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """Return a descriptor that is readable while the interrupt is set."""
        return self._read

    def set(self) -> None:
        """Ask to stop. Safe in a signal handler."""
        self._is_set = True  # before the pipe: a thread that it wakes must see the flag
        if self._write < 0:
            return
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # the pipe is full, so the reader will wake up anyway

    def expire(self, text: str) -> None:
        """Ask to stop because the time is over. Any thread may call this."""
        self._over = text
        self.set()

    @property
    def is_over(self) -> bool:
        """True if the time is over."""
        return self._over is not None

    @property
    def is_at_once(self) -> bool:
        """True if no connection is in use that a KeyboardInterrupt could leave out of step."""
        return self._at_once

    def clear(self) -> None:
        """Reset the flag, and the number of presses."""
        self._is_set = False
        self._over = None
        self._presses = 0
        try:
            while os.read(self._read, 64):
                pass
        except BlockingIOError:
            pass

    def check(self) -> None:
        """Raise Interrupted if it is set; TimeOver if the time is over."""
        if self._is_set:
            raise Interrupted("interrupted") if self._over is None else TimeOver(self._over)

    def close(self) -> None:
        """Close the descriptors. Can be called twice."""
        if self._read >= 0:
            ends, self._read, self._write = (self._read, self._write), -1, -1
            for end in ends:  # the numbers may be reused once they are closed
                os.close(end)

    def __del__(self) -> None:
        self.close()

    def _after_fork(self) -> None:
        """Replace the pipe in a child process, so that it and the parent cannot wake each other."""
        if self._read >= 0:
            self.close()
            self._open()

    @contextmanager
    def on_ctrl_c(self) -> Iterator[None]:
        """Let Ctrl-C set this interrupt, within the context.

        If nothing reacts, the third press raises KeyboardInterrupt.
        """

        def note(number: int, frame: FrameType | None) -> None:
            self._presses += 1
            if self._at_once or self._presses > 2:
                raise KeyboardInterrupt
            self.set()

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self.clear()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let Ctrl-C raise KeyboardInterrupt, within the context: for prompts and look-ups.

        No connection is in use then that it could leave out of step. In other threads than the main
        one this has no effect.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self._at_once = self._at_once, True
        try:
            yield
        finally:
            self._at_once = before


def pause(seconds: float, interrupt: Interrupt | None) -> None:
    """Wait about this many seconds before a retry. The time varies, so that many clients do not
    retry at once.

    Raises:
        Interrupted: The user wants to stop.
    """
    wait_for(jittered(seconds), interrupt)


def jittered(seconds: float) -> float:
    """Return a random duration around this many seconds."""
    from random import random  # here, because it is needed only after a lost connection

    return seconds * (0.5 + random())


def wait_for(seconds: float, interrupt: Interrupt | None) -> None:
    """Wait. Raises Interrupted as soon as the user wants to stop."""
    select.select([] if interrupt is None else [interrupt], [], [], seconds)
    if interrupt is not None:
        interrupt.check()
