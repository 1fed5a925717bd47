"""Ctrl-C, and the end of the time, taken at a point where the connection is in step.

Lives here: the flag and the descriptor that wakes a waiting connection up; pauses that it ends.
Lives elsewhere: what is cancelled then (connection.py).

A KeyboardInterrupt inside a send would leave half a frame behind. So the signal's handler only
sets a flag and writes to a pipe; whoever waits or works looks there and raises Interrupted.
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
    """What was asked for has taken longer than its caller wants to wait."""

    code = "timed-out"
    exit_code = 4


class Interrupt:
    """Tells one connection that the user wants to stop.

    Attributes:
        until: When the time is over, on ``time.monotonic()``: for what can't be woken.
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
        """Readable while the interrupt is set."""
        return self._read

    def set(self) -> None:
        """Ask to stop. Safe in a signal handler."""
        self._is_set = True
        if self._write < 0:
            return
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # the pipe is full of earlier ones

    def expire(self, text: str) -> None:
        """Have it end because its time is over. Safe in another thread."""
        self._over = text
        self.set()

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return self._over is not None

    @property
    def is_at_once(self) -> bool:
        """Whether no connection is in use that a KeyboardInterrupt could leave out of step."""
        return self._at_once

    def clear(self) -> None:
        """Forget it, and how often it was asked for."""
        self._is_set = False
        self._over = None
        self._presses = 0
        try:
            while os.read(self._read, 64):
                pass
        except BlockingIOError:
            pass

    def check(self) -> None:
        """Raises Interrupted when it is set; TimeOver when the time is over."""
        if self._is_set:
            raise Interrupted("interrupted") if self._over is None else TimeOver(self._over)

    def close(self) -> None:
        """Give the descriptors back. Can be called twice."""
        if self._read >= 0:
            ends, self._read, self._write = (self._read, self._write), -1, -1
            for end in ends:  # numbers that may be another file's from here on
                os.close(end)

    def __del__(self) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In a child process: no longer wake up, nor be woken by, the parent."""
        if self._read >= 0:
            self.close()
            self._open()

    @contextmanager
    def on_ctrl_c(self) -> Iterator[None]:
        """While the context is open, Ctrl-C sets this.

        When nothing looks there, the third one is a KeyboardInterrupt.
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
        """While the context is open, Ctrl-C is a KeyboardInterrupt: for prompts and look-ups.

        No connection is in use then that it could leave out of step. It comes in the main thread:
        for other threads this makes no difference.
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
    """Wait about so long before a new try, so that many clients don't come at once.

    Raises:
        Interrupted: The user doesn't want to wait.
    """
    wait_for(jittered(seconds), interrupt)


def jittered(seconds: float) -> float:
    """About so many seconds, others for each client."""
    from random import random  # only after a lost connection

    return seconds * (0.5 + random())


def wait_for(seconds: float, interrupt: Interrupt | None) -> None:
    """Let time pass. Raises Interrupted as soon as the user doesn't want to wait."""
    select.select([] if interrupt is None else [interrupt], [], [], seconds)
    if interrupt is not None:
        interrupt.check()
