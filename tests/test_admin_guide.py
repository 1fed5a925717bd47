"""The guide for administrators says what can be typed, and the settings that there are."""

from __future__ import annotations

import re
import shlex
import tomllib

from ftpserver.settings.kinds import Setting
from ftpserver.settings.table import TABLE
from tests.test_docs import ROOT, every_option, follow, ftpd, remote

GUIDE = (ROOT / "docs" / "admin.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.S | re.M)


def typed() -> list[list[str]]:
    """Every `ftpd` and `ftp` command of the guide."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    code = [*lines, *re.findall(r"`(ftpd? [^`\n]+)`", GUIDE)]
    found = []
    for line in code:
        line = re.sub(r"\s#.*", "", line)  # an apostrophe in a comment opens no quote
        for part in re.split(r"&&|[|;&>]", line):
            words = shlex.split(part)
            if words[:3] == ["sudo", "-u", "ftpd"]:
                words = words[3:]
            if words and words[0] in ("ftpd", "ftp"):
                found.append(words)
    return found


def test_every_command_exists():
    commands = typed()
    assert len(commands) > 40
    for name, *words in commands:
        follow(ftpd if name == "ftpd" else remote, words)


def test_every_option_exists():
    mentioned = {
        option
        for code in re.findall(r"`([^`\n]+)`", GUIDE)
        if not re.match(r"rsync|tar|useradd", code)
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]+", code)
    }
    assert mentioned - {"--help", "--reuse-key"} <= every_option()


def test_every_setting_exists():
    settings: dict[str, Setting] = {setting.name: setting for setting in TABLE.values()}
    for block in blocks("toml"):
        for key, value in tomllib.loads(block).items():
            settings[key].kind.parse(value)
