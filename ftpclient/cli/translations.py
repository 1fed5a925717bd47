"""Translations of other tools' command lines: ``mirror -R . www`` is ``sync . :www`` here.

Lives here: translating their options and operands. Lives elsewhere: single words (foreign.py). A
translation is only shown, never run.

A line is translated as a whole or not at all: if a word has no counterpart, the result is None.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Callable, Container, Mapping, Sequence

from ftpclient.cli.quoting import quote
from ftpclient.connection.addresses import check_no_password

_NEEDLESS = frozenset({"glob", "queue"})
"""Words before a command that have no meaning here."""
_PATTERN = re.compile(r"[\w@%+=:,./*?\[\]-]+")
_MOST_CONNECTIONS = 32
_Options = Mapping[str, str]
"""The counterpart of each option; empty if none is needed. An option that takes a value ends with
``=``."""


def translate(
    name: str, words: Sequence[str], commands: Container[str], *, in_shell: bool
) -> str | None:
    """Return the counterpart of another tool's command line, or None.

    Args:
        commands: The names of our commands.

    Raises:
        BadAddress: One of the words contains a password, which must not be shown.
    """
    before = "" if in_shell else "ftp "
    if not words:
        return None
    for word in words:
        check_no_password(word)
    if name in _NEEDLESS:
        return before + typed(words, before) if words[0] in commands else None
    translator = _TRANSLATORS.get(name)
    return None if translator is None else translator(name, list(words), before)


def line(*parts: str) -> str:
    """Return a command line of these words, quoted so that it can be typed."""
    return " ".join(shlex.quote(part) if part.isprintable() else quote(part) for part in parts)


def typed(words: Sequence[str], before: str) -> str:
    """Return words quoted so that they can be typed; in the shell, patterns are not quoted."""
    return " ".join(
        word if not before and _PATTERN.fullmatch(word) else line(word) for word in words
    )


def _read(words: list[str], options: _Options) -> tuple[list[tuple[str, str]], list[str]] | None:
    """Return the counterparts of options, each with its value or "", and the operands."""
    found: list[tuple[str, str]] = []
    operands: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            operands += rest
        elif word == "-" or not word.startswith("-"):
            operands.append(word)
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            if not equals and name in options:
                found.append((options[name], ""))
            elif (ours := options.get(f"{name}=")) is not None:
                given = value if equals else next(rest, "")
                if not given:
                    return None
                found.append((ours, given))
            else:
                return None
        else:
            letters = word[1:]
            while letters:
                letter, letters = f"-{letters[0]}", letters[1:]
                if letter in options:
                    found.append((options[letter], ""))
                elif (ours := options.get(f"{letter}=")) is not None:
                    given = letters or next(rest, "")
                    if not given:
                        return None
                    found.append((ours, given))
                    letters = ""
                else:
                    return None
    if any(word.startswith("-") and word != "-" for word in operands):
        return None  # our command would take it for an option
    return found, operands


def _written(options: list[tuple[str, str]]) -> list[str]:
    """Return options as words, without those that aren't needed."""
    return [word for name, value in options if name for word in (*name.split(), value) if word]


# lftp ---------------------------------------------------------------------------------------

_REVERSE, _REGEX = "reverse", "regex"
_MIRROR: _Options = {
    **dict.fromkeys(("-R", "--reverse"), _REVERSE),
    **dict.fromkeys(("-e", "--delete"), "--delete"),
    "--delete-first": "--delete-before",
    **dict.fromkeys(("-n", "--only-newer"), "--update"),
    **dict.fromkeys(("-x=", "--exclude="), _REGEX),
    **dict.fromkeys(("-X=", "--exclude-glob="), "--exclude"),
    **dict.fromkeys(("-I=", "--include-glob="), "--include"),
    "--exclude-glob-from=": "--exclude-from",
    **dict.fromkeys(("-P=", "--parallel="), "-P"),
    "--parallel": "",
    **dict.fromkeys(("--use-pget", "--use-pget-n="), ""),
    **dict.fromkeys(("-L", "--dereference"), "-L"),
    "--only-existing": "--existing",
    "--only-missing": "--ignore-existing",
    "--ignore-time": "--checksum",
    **dict.fromkeys(("--dry-run", "--just-print"), "--dry-run"),
    **dict.fromkeys(("-v", "--verbose"), "-v"),
    **dict.fromkeys(
        ("-c", "--continue", "--overwrite", "--no-umask", "--depth-first", "--scan-all-first"), ""
    ),
}


def _mirror(name: str, words: list[str], before: str) -> str | None:
    found = _read(words, _MIRROR)
    if found is None:
        return None
    options, operands = found
    if len(operands) > 2 or any(word.startswith(":") or "://" in word for word in operands):
        return None
    upload = (_REVERSE, "") in options
    written: list[tuple[str, str]] = []
    for ours, value in options:
        if ours == _REGEX:
            pattern = _pattern_of(value)
            if pattern is None:
                return None
            written.append(("--exclude", pattern))
        elif ours == "-P":
            if (count := _connections(value)) is None:
                return None
            written.append((ours, count))
        elif ours != _REVERSE and (ours, value) not in written:
            written.append((ours, value))
    source = operands[0] if operands else "."
    base = posixpath.basename(source.rstrip("/"))
    base = "." if base in ("", "..") else base
    target = operands[1] if len(operands) > 1 else base
    if target.endswith("/") and target.strip("/"):
        target = posixpath.join(target, base)
    ends = (source, f":{target}") if upload else (f":{source}", target)
    return before + line("sync", *_written(written), *ends)


_NAME_IN_REGEX = re.compile(r"(\^?)((?:[\w-]|\\\.)+)(/?)(\$?)")


def _pattern_of(regex: str) -> str | None:
    """Return a pattern equivalent to a simple regular expression, or None."""
    found = _NAME_IN_REGEX.fullmatch(regex)
    if found is None:
        return None
    begins, name, slash, ends = found.groups()
    name = name.replace("\\.", ".")
    return f"{'/' if begins else '*'}{name}{slash or ('' if ends else '*')}"


def _connections(number: str) -> str | None:
    """Return the number of connections, reduced to our maximum; None for an invalid number."""
    if not (number.isascii() and number.isdecimal() and int(number)):
        return None
    return str(min(int(number), _MOST_CONNECTIONS))


def _pget(name: str, words: list[str], before: str) -> str | None:
    found = _read(words, {"-n=": "-P", "-o=": "target", "-O=": "-t", "-c": ""})
    if found is None:
        return None
    options, operands = found
    targets = [value for ours, value in options if ours == "target"]
    written: list[tuple[str, str]] = []
    for ours, value in options:
        if ours == "-P":
            if (count := _connections(value)) is None:
                return None
            written.append((ours, count))
        elif ours != "target":
            written.append((ours, value))
    if not operands or (targets and len(operands) > 1):
        return None
    return " ".join(
        [
            before + line("get", *_written(written)),
            typed(operands, before),
            *map(line, targets[-1:]),
        ]
    )


# rsync, scp ---------------------------------------------------------------------------------

_RSYNC: _Options = {
    **{f"-{letter}": "" for letter in "artplzhPWCogDS"},
    "-v": "-v",
    "-n": "--dry-run",
    "-u": "--update",
    "-c": "--checksum",
    "-L": "-L",
    "-q": "-q",
    "-e=": "",
    **dict.fromkeys(("--archive", "--recursive", "--compress", "--progress", "--partial"), ""),
    **dict.fromkeys(("--inplace", "--stats", "--human-readable", "--whole-file", "--info="), ""),
    "--rsh=": "",
    **{
        f"--{name}": f"--{name}"
        for name in (
            *("delete", "delete-before", "dry-run", "update", "checksum", "existing"),
            *("ignore-existing", "copy-links", "verbose", "quiet"),
        )
    },
    **dict.fromkeys(("--delete-after", "--delete-during"), "--delete"),
    **{f"--{name}=": f"--{name}" for name in ("exclude-from", "files-from", "max-delete")},
    "--exclude=": "--exclude",
}
_SCP: _Options = {
    **{f"-{letter}": "" for letter in "pCvB346"},
    **{f"-{letter}=": "" for letter in "ioFcSJ"},
    "-r": "-r",
    "-q": "-q",
    "-P=": "port",
}
_WITH_HOST = re.compile(r"((?:[^/@:]+@)?(?:[^/@:\[\]]+|\[[^/\]]+\])):(?!:)(.*)", re.DOTALL)


def _rsync(name: str, words: list[str], before: str) -> str | None:
    found = _read(words, _RSYNC)
    if found is None or len(found[1]) != 2:
        return None
    options, operands = found
    hosts, places = _apart(operands, ":")
    if len(hosts) != 1 or (not operands[1].startswith(hosts[0]) and os.path.isfile(operands[1])):
        return None
    if not _WITH_HOST.fullmatch(operands[0]) and os.path.isfile(operands[0]):
        return None  # sync takes directories
    return _at(hosts[0], before) + line("sync", *_written(options), *places)


def _scp(name: str, words: list[str], before: str) -> str | None:
    found = _read(words, _SCP)
    if found is None or len(found[1]) < 2:
        return None
    options, operands = found
    upload = _WITH_HOST.fullmatch(operands[-1]) is not None
    hosts, places = _apart(operands, "")
    if len(set(hosts)) != 1 or len(hosts) != (1 if upload else len(operands) - 1):
        return None
    ports = [f":{value}" for ours, value in options if ours == "port"]
    written = _written([one for one in options if one[0] != "port"])
    server = hosts[0] + "".join(ports[-1:])
    return _at(server, before) + line("put" if upload else "get", *written, *places)


def _apart(operands: list[str], colon: str) -> tuple[list[str], list[str]]:
    """Return the servers that operands name, and the paths; remote ones begin with ``colon``."""
    hosts, places = [], []
    for word in operands:
        if found := _WITH_HOST.fullmatch(word):
            hosts.append(found[1])
            places.append(colon + (found[2] or "."))
        else:
            places.append(word)
    return hosts, places


def _at(server: str, before: str) -> str:
    """Return the beginning of a line for a server; empty in the shell, which has a server."""
    return f"{before}-s {line(server)} " if before else ""


# filters ------------------------------------------------------------------------------------

_FLAGS = {"wc": "clmwL", "sort": "nrufhV", "uniq": "cdui", "zcat": "", "grep": "ivncwFEoq"}
"""Options without a value."""


def _filter(name: str, words: list[str], before: str) -> str | None:
    """Translate a local program that reads files: it becomes a pipe from ``cat``."""
    found = _read(words, {f"-{letter}": f"-{letter}" for letter in _FLAGS[name]})
    if found is None:
        return None
    options, operands = found
    patterns = operands[:1] if name == "grep" else []
    files = operands[len(patterns) :]
    if not files:
        return None
    return f"{before}cat {typed(files, before)} | {line(name, *_written(options), *patterns)}"


_TRANSLATORS: Mapping[str, Callable[[str, list[str], str], str | None]] = {
    "mirror": _mirror,
    "pget": _pget,
    "rsync": _rsync,
    "scp": _scp,
    **dict.fromkeys(_FLAGS, _filter),
}
