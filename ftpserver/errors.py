"""What goes wrong with the server's own state, whatever finds it out.

Lives here: errors of start and administration. Lives elsewhere: errors that travel
(ftpwire/errors.py).
"""

from __future__ import annotations


class StateError(Exception):
    """The server's state can't be used; the text is one line for the administrator."""


class RootBusy(StateError):
    """Another server serves this root."""
