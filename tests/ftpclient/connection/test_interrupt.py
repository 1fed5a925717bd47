"""Ctrl-C, taken where the connection is in step."""

from __future__ import annotations

import os
import select
import signal

import pytest

from ftpclient.connection.interrupt import Interrupt
from ftpwire.errors import Interrupted


@pytest.fixture
def interrupt():
    made = Interrupt()
    yield made
    made.close()


def is_readable(interrupt: Interrupt) -> bool:
    return bool(select.select([interrupt], [], [], 0)[0])


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_set_and_forgotten(interrupt):
    interrupt.check()
    assert not is_readable(interrupt)
    for _ in range(2):
        interrupt.set()
        for _ in range(2):
            with pytest.raises(Interrupted) as caught:
                interrupt.check()
        assert caught.value.exit_code == 130
        assert is_readable(interrupt)
        interrupt.clear()
        interrupt.check()
        assert not is_readable(interrupt)


def test_any_number_of_times(interrupt):
    """The pipe may be full of earlier ones: a signal handler must not wait."""
    for _ in range(100_000):
        interrupt.set()
    assert is_readable(interrupt)
    interrupt.clear()
    assert not is_readable(interrupt)


def test_ctrl_c_is_noted_and_the_third_is_insisted_on(interrupt):
    before = signal.getsignal(signal.SIGINT)
    with interrupt.on_ctrl_c():
        for _ in range(2):
            press()
            with pytest.raises(Interrupted):
                interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before
    interrupt.check()


def test_what_was_heeded_does_not_count(interrupt):
    with interrupt.on_ctrl_c():
        for _ in range(5):
            press()
            interrupt.clear()


def test_at_once_where_nothing_is_in_use(interrupt):
    with interrupt.on_ctrl_c():
        with pytest.raises(KeyboardInterrupt), interrupt.at_once():
            press()
        press()
        with pytest.raises(Interrupted):
            interrupt.check()


def test_an_error_puts_the_handler_back(interrupt):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), interrupt.on_ctrl_c():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
