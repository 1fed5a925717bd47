"""Somebody at a terminal, in the shell of `ftp connect`.

Lives here: typing, and reading what a command has printed until the next prompt.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pexpect

from tests.system.programs import PATIENCE, User

COLUMNS = 80
BEGIN = "\x1b[?2004h"
"""What the line editor sends when a prompt begins."""
END = "\x1b[?2004l"
"""And when its line was entered."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROMPT = re.compile(r"\x1b\[[0-9;]*m([a-z]+@[^\x1b]*>)")

CTRL_C, CTRL_D, CTRL_Z, TAB, UP = "\x03", "\x04", "\x1a", "\t", "\x1b[A"


def plain(text: str) -> str:
    """Text without what moves the cursor or colours."""
    return _ESCAPES.sub("", text)


class Terminal:
    """A terminal of 80 columns with `ftp` in it.

    Attributes:
        prompt: The last one that was read.
        greeting: The lines before the first one.
    """

    def __init__(
        self, user: User, *arguments: str, cwd: Path | None = None, **environment: str
    ) -> None:
        command, *words = user.command(*(arguments or ("connect",)))
        settings = {**user.settings, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        for name in [name for name, value in environment.items() if not value]:
            del settings[name]
        self.child = pexpect.spawn(
            command,
            words,
            cwd=str(cwd or user.home),
            env=settings,  # type: ignore[arg-type]
            dimensions=(24, COLUMNS),
            encoding="utf-8",
            codec_errors="surrogateescape",
            timeout=PATIENCE,
        )
        self.child.delaybeforesend = None
        self.prompt = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.child.close(force=True)

    def wait_for_prompt(self) -> list[str]:
        """The lines before the next prompt, without blank ones."""
        self.child.expect_exact(BEGIN)
        printed = plain(self.child.before)
        self.child.expect(_PROMPT)
        self.prompt = self.child.match[1]
        return [line.strip() for line in re.split(r"[\r\n]+", printed) if line.strip()]

    def keys(self, *keys: str) -> None:
        """Type, without entering."""
        self.child.send("".join(keys))

    def expect(self, text: str) -> str:
        """Wait for a text; returns what came before it."""
        self.child.expect_exact(text)
        return plain(self.child.before)

    def enter(self, line: str) -> None:
        """Type a line, and wait until the shell has it."""
        self.keys(line, "\r")
        self.child.expect_exact(END)

    def run(self, line: str) -> list[str]:
        """Type a line; the lines that were printed until the next prompt."""
        self.enter(line)
        return self.wait_for_prompt()

    def end(self) -> tuple[list[str], int | None]:
        """Wait until `ftp` has left: what it still printed, and its exit status."""
        self.child.expect_exact(pexpect.EOF)
        printed = [line.strip() for line in plain(self.child.before).splitlines() if line.strip()]
        self.child.close()
        status = self.child.exitstatus
        return printed, -os.WTERMSIG(self.child.status) if status is None else status
