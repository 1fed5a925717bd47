"""The text of docs/protocol.md, as tests read it."""

from __future__ import annotations

import re
from pathlib import Path

PROTOCOL = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()


def section(title: str) -> str:
    """What stands below a heading of docs/protocol.md, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PROTOCOL, re.S | re.M)
    assert found is not None, f"there is no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without heads and rules."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not line.startswith("| ---"):
            if not following.startswith("| ---"):
                found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found
