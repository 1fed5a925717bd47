"""Ways of serving: the same tests over each engine, isolation, number of workers and transport.

Lives here: the one table of modes, and what a test may need that not every mode has.
Lives elsewhere: who runs in which mode (conftest.py), starting a server in one (programs.py).

Without an option every test runs in the default mode, and those marked ``telling`` in every mode.
``--serve-as all``, or ``--serve-as NAME,NAME``, runs all tests in those modes instead. A new mode
is one row of `MODES`. A test that cannot hold in some modes says why with ``needs``.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass

NEEDS = {
    "tls": "is about TLS, certificates, or known hosts",
    "network": "is about addresses and ports, which a client shows or was given",
    "one-process": "looks into the one process that all sessions are in, or ends it",
    "workers": "starts workers of its own, which sessions in processes of their own don't go with",
    "isolation": "starts sessions in processes of their own, whatever the mode",
}
"""What a test may need, and what that says about the test."""


@dataclass(frozen=True)
class Mode:
    """One way of serving.

    Attributes:
        name: For ``--serve-as``, and in the names of the tests.
        options: Of `ftpd start`; those of a test come after them.
        plaintext: Clients and servers speak without TLS, also over TCP.
        unix: Clients reach the server by a Unix socket; it listens on TCP as well.
        bows: Sessions have no more rights over files than whom they belong to, also a root's.
        lacks: Keys of `NEEDS`: tests that need one of them are left out.
    """

    name: str
    options: tuple[str, ...] = ()
    plaintext: bool = False
    unix: bool = False
    bows: bool = False
    lacks: frozenset[str] = frozenset()


THREADED = frozenset({"isolation"})
"""What none of the modes has that are not `process`: once is enough for such a test."""

ALONE = ("--workers", "1")
"""One process serves, however many sessions are busy: what a test sees doesn't depend on load."""
DEFAULT = Mode("threads", ALONE, lacks=THREADED)
"""Idle sessions are parked, and each that has something to do has a thread. TCP, TLS."""
AUTO = Mode("auto", lacks=THREADED | {"one-process"})
"""The same without any option: with more processes while several sessions are busy."""

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        DEFAULT,
        AUTO,
        Mode("threads-0", ("--threads", "0"), lacks=THREADED),
        Mode("unix", ALONE, unix=True, lacks=THREADED | {"tls", "network"}),
        Mode(
            "process",
            ("--isolation", "process"),
            bows=True,
            lacks=frozenset({"one-process", "workers"}),
        ),
        Mode("workers-2", ("--workers", "2"), lacks=THREADED | {"one-process"}),
        Mode("plaintext", ALONE, plaintext=True, lacks=THREADED | {"tls"}),
    )
}


def chosen(text: str) -> list[Mode]:
    """The modes that a value of ``--serve-as`` names.

    Raises:
        ArgumentTypeError: There is none of such a name.
    """
    if text == "all":
        return list(MODES.values())
    names = text.split(",")
    unknown = [name for name in names if name not in MODES]
    if unknown:
        raise ArgumentTypeError(
            f"no mode is called {', '.join(unknown)}: there are {', '.join(MODES)}"
        )
    return [MODES[name] for name in names]


def fitting(modes: list[Mode], needed: set[str]) -> list[Mode]:
    """Those modes in which a test with such needs can hold."""
    assert needed <= NEEDS.keys(), f"no such need: {needed - NEEDS.keys()}"
    return [mode for mode in modes if not needed & mode.lacks]
