"""What a running process has open."""

from __future__ import annotations

import os
from collections.abc import Iterator


def opened_by(pid: int) -> Iterator[str]:
    """Yield what each descriptor of a process refers to, as /proc shows it. Descriptors that are
    closed meanwhile are left out."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            yield os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
