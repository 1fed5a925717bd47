"""The limit of open descriptors of this process. fd_passing.py passes them to other processes."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Raise the process's limit of open descriptors as far as the system permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # macOS refuses some values: the soft limit stays
