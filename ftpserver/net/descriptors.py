"""How many descriptors this process may open. Passing them to others is in fd_passing.py."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Let the process open as many descriptors as the system permits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # macOS refuses some values: the soft limit stays
