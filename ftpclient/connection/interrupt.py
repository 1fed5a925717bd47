"""Ctrl-C, taken at a point where the connection is in step.

Lives here: the flag and the descriptor that wakes a waiting connection up.
Lives elsewhere: what is cancelled then (connection.py).

A KeyboardInterrupt inside a send would leave half a frame behind. So the signal's handler only
sets a flag and writes to a pipe; whoever waits or works looks there and raises Interrupted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ftpwire.errors import Interrupted


class Interrupt:
    """Tells one connection that the user wants to stop."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._is_set = False
        self._at_once = False
        self._presses = 0

    def fileno(self) -> int:
        """Readable while the interrupt is set."""
        return self._read

    def set(self) -> None:
        """Ask to stop. Safe in a signal handler."""
        self._is_set = True
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # the pipe is full of earlier ones

    def clear(self) -> None:
        """Forget it, and how often it was asked for."""
        self._is_set = False
        self._presses = 0
        try:
            while os.read(self._read, 64):
                pass
        except BlockingIOError:
            pass

    def check(self) -> None:
        """Raises Interrupted when it is set."""
        if self._is_set:
            raise Interrupted("interrupted")

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._read)
        os.close(self._write)

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

        No connection is in use then that it could leave out of step.
        """
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
