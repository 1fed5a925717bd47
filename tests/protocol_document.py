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


def claims(title: str) -> list[str]:
    """The sentences, and the rows of tables, of a section that have a number or a `code` in them;
    each on one line.

    What is set off as an example is none. Of a message's fields (their sections' titles are in
    lower case) only the meaning is looked at: name, type and default are compared elsewhere.
    """
    text = section(title)
    found = [" | ".join(row[3:] if title.islower() else row) for row in rows(text)]
    found = [f"| {row}" for row in found]
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        is_item = re.match(r"- |\d+\. ", line)
        if not line or line.startswith(("|", "    ")) or is_item:
            found += re.split(r"(?<=\.)(?:\*\*)?\s+(?=[A-Z*`(])", " ".join(paragraph))
            paragraph = []
        if line and not line.startswith(("|", "    ")):
            paragraph.append(line[is_item.end() :] if is_item else line.strip())
    return [claim for claim in found if re.search(r"\d|`", claim)]


def numbers(claim: str) -> str:
    """The numbers in a sentence, in its order."""
    return " ".join(re.findall(r"\d+(?:[.,]\d+)*", claim))


def titles() -> list[str]:
    """The headings of the document, in its order."""
    return re.findall(r"^#+ (.+)$", PROTOCOL, re.M)
