"""Makes the manual pages ftp(1) and ftpd(1) of the same definitions as ``--help``.

    python man/make.py          writes man/ftp.1 and man/ftpd.1
    python man/make.py --check  only tells whether they are as they would be written

The pages are committed, and `pip install` puts them into share/man/man1 (pyproject.toml). Each
program has one page with a section for each command, as sftp(1) and rclone(1) have: that is where
people search, and seventy pages beside the system's own ftp(1) would only be in the way. click-man
makes such pages: one for each command, without variables, files, examples and exit statuses, with
names cut to 45 characters.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from ftpclient.cli import pages as ftp_pages
from ftpclient.cli.app import App
from ftpclient.cli.main import remote
from ftpserver.cli import pages as ftpd_pages
from ftpserver.cli.main import cli as ftpd
from ftpwire import __version__
from ftpwire.command_help import (
    Group,
    RootGroup,
    as_called,
    called,
    command_sections,
    option_row,
    option_sections,
    page_of,
)

DATE = "2026-11-29"
"""The date of the version; a page must not change from day to day."""
_AS_START = frozenset({"config check", "config show"})
"""Commands with the rare options of start, which are not described again."""
HERE = Path(__file__).parent
_WIDTH = 200
_ESCAPES = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}


@dataclass(frozen=True)
class Manual:
    """What a manual has beside the help of its commands.

    Attributes:
        command: The program.
        summary: What it is, for the line NAME.
        statuses: Exit statuses.
        environment: Variables, and what they do.
        files: Files, and what is in them.
        examples: Command lines, and what they do.
        see_also: Other pages, with their sections.
        has_shell: There are commands that only its shell has.
    """

    command: RootGroup
    summary: str
    statuses: Mapping[int, str]
    environment: Mapping[str, str]
    files: Mapping[str, str]
    examples: Iterable[tuple[str, str]]
    see_also: Iterable[tuple[str, int]]
    has_shell: bool = False


def _root(command: object) -> RootGroup:
    assert isinstance(command, RootGroup)
    return command


MANUALS = {
    "ftp": Manual(
        command=_root(remote),
        has_shell=True,
        summary="transfer files to and from an ftpd server",
        statuses=ftp_pages.STATUSES,
        environment={
            "FTP_SERVER": "The server to use where neither a path nor --server names one.",
            "FTP_PASSWORD": "The password. Other processes of the same user can read it.",
            "FTP_SERVER_KEY": "The key that the server must have, as for --accept-key.",
            "FTP_DISCOVERY_PORT": "The UDP port to which discover sends.",
            "XDG_CONFIG_HOME": "The directory in place of ~/.config, below.",
            "VISUAL, EDITOR": "The program that edit runs.",
            "PAGER": "The program that less runs.",
            "LS_COLORS, NO_COLOR": "The colors of listings, or none.",
            "SHELL": "The program that runs local commands.",
        },
        files={
            "~/.config/ftp-client/rc": "Lines that a shell at a terminal runs first.",
            "~/.config/ftp-client/history": "The lines typed in the shell.",
            "~/.config/ftp-client/known_hosts": "Keys of servers.",
            "~/.config/ftp-client/tokens.json": "Access tokens: keep it secret.",
            "~/.config/ftp-client/servers.json": "Saved servers, and the default one.",
            "~/.netrc": "Passwords, in the format of other clients.",
        },
        examples=(
            ("ftp login alice@files.example.com", "Log in once; later commands need no password."),
            ("ftp put -r site /www", "Upload a directory."),
            ("ftp get /www/index.html", "Download a file."),
            ("ftp sync --delete -n site :/www", "Show what a mirror would change."),
            ("ftp connect", "Start a shell."),
        ),
        see_also=(("ftpd", 1), ("sftp", 1), ("rsync", 1)),
    ),
    "ftpd": Manual(
        command=_root(ftpd),
        summary="serve files to many users",
        statuses=ftpd_pages.STATUSES,
        environment={
            "FTPD_ROOT": "The directory of the server, as --root.",
            "FTPD_CONFIG": "The settings file, as --config.",
            "FTPD_PASSWORD": "The password of user add and user passwd.",
            "FTPD_*": "Any option of start: FTPD_PORT is --port.",
        },
        files={
            "ROOT/NAME": "The home of the account NAME.",
            "ROOT/.ftpd/ftpd.toml": "The settings: a line for each option of start.",
            "ROOT/.ftpd/state.db": "Accounts, tokens and used space.",
            "ROOT/.ftpd/tls": "The server's key and its certificate.",
            "ROOT/.ftpd/audit.jsonl": "The audit log.",
        },
        examples=(
            ("ftpd start --root /srv/files", "Start a server; the first start adds an account."),
            ("ftpd user add alice --quota 10GiB", "Add an account."),
            ("ftpd service > /etc/systemd/system/ftpd.service", "Let systemd start it."),
            ("ftpd log --failed -f", "Watch for failures."),
        ),
        see_also=(("ftp", 1), ("systemd.service", 5)),
    ),
}


def make(name: str) -> str:
    """The manual of a program, for man(1)."""
    manual = MANUALS[name]
    ctx = _context(manual.command, name, App() if manual.has_shell else None)
    lines = [
        '.\\" Made by man/make.py: change the help of the commands instead.',
        f'.TH {name.upper()} 1 {DATE} "ftpd {__version__}" "User Commands"',
        ".SH NAME",
        f"{name} \\- {_text(manual.summary)}",
        ".SH SYNOPSIS",
        *_synopsis(ctx),
        ".SH DESCRIPTION",
        *_paragraphs(ctx),
    ]
    lines += [".SH OPTIONS", *_options(ctx), ".SH COMMANDS"]
    for number, (title, rows) in enumerate(command_sections(ctx, _WIDTH, each=True)):
        lines += [".PP"] * bool(number) + [f".B {_text(title)}", *_terms(rows)]
    lines += _commands(ctx)
    if manual.has_shell:
        shell = _context(manual.command, "", App(interactive=True))
        alone = set(manual.command.listed(shell)).difference(manual.command.listed(ctx))
        lines += [".SH SHELL COMMANDS"]
        lines += ["These commands are for the shell that", r".B ftp connect", "starts."]
        lines += ["A line of it can have:", *_terms(ftp_pages.OPERATORS)]
        lines += _commands(shell, alone)
    lines += [".SH EXIT STATUS", *_terms((str(one), text) for one, text in manual.statuses.items())]
    lines += [".SH ENVIRONMENT", *_terms(manual.environment.items())]
    lines += [".SH FILES", *_terms(manual.files.items())]
    lines += [".SH EXAMPLES", *list(_examples(manual.examples))[1:]]
    pages = [f".BR {_text(one)} ({section})" for one, section in manual.see_also]
    lines += [".SH SEE ALSO", *(f"{page} ," for page in pages[:-1]), pages[-1]]
    return "\n".join(piece for line in lines for piece in _wrapped(line)) + "\n"


def _wrapped(line: str) -> list[str]:
    """A line of source, no longer than a terminal is wide; each sentence begins one."""
    if line.startswith(".") or line.startswith(r"\fB") and "  " in line:
        return [line]
    sentences = re.split(r"(?<=[a-z)]\.) (?=[A-Z])", line)
    pieces = [
        piece
        for sentence in sentences
        for piece in textwrap.wrap(
            sentence, 78, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
    ]
    return [rf"\&{piece}" if piece.startswith((".", "'")) else piece for piece in pieces]


def _context(command: click.Command, name: str, app: App | None = None) -> click.Context:
    return click.Context(command, info_name=name, obj=app, **command.context_settings)


def _commands(ctx: click.Context, only: Iterable[str] | None = None) -> Iterator[str]:
    """The sections of the commands in a group, in the order in which help lists them."""
    group = ctx.command
    assert isinstance(group, Group)
    listed = [name for _, rows in command_sections(ctx, _WIDTH, each=True) for name, _ in rows]
    for name in listed:
        command = group.get_command(ctx, name)
        assert command is not None
        if only is None or name in only:
            yield from _command(
                click.Context(command, parent=ctx, info_name=name, **command.context_settings)
            )


def _command(ctx: click.Context) -> Iterator[str]:
    """The section of one command; those of a group follow it."""
    page, command = page_of(ctx), ctx.command
    yield f".SS {_text(ctx.command_path)}"
    yield from _synopsis(ctx)
    yield ".PP"
    yield from _paragraphs(ctx)
    if page.arguments and not isinstance(command, click.Group):
        yield from _terms((rf"\fI{_text(name)}\fR", text) for name, text in page.arguments.items())
    yield from _options(ctx)
    for status, text in page.statuses.items():
        yield from (".PP", rf"Exit status {status}: {_text(text)}")
    examples = [(as_called(ctx, line), text) for line, text in page.examples]
    if examples := [(line, text) for line, text in examples if line]:
        yield from (".PP", "Examples:", *_examples(examples))
    if isinstance(command, click.Group):
        yield from _commands(ctx)


def _synopsis(ctx: click.Context) -> Iterator[str]:
    pieces = " ".join(ctx.command.collect_usage_pieces(ctx))
    yield rf"\fB{_text(ctx.command_path.strip())}\fR {_variables(pieces)}"


def _options(ctx: click.Context) -> Iterator[str]:
    rows = [
        option_row(ctx, option)
        for _, options in option_sections(ctx, everything=called(ctx) not in _AS_START)
        for option in options
        if not option.hidden
    ]
    yield from _terms((_names(names), text) for names, text in rows if "--help" not in names)


def _names(names: str) -> str:
    """The names of an option in bold, what stands for its value slanted."""
    shown = []
    for name in names.split(", "):
        option, _, value = name.partition(" ")
        shown.append(rf"\fB{_text(option)}\fR" + (f" {_variables(value)}" if value else ""))
    return ", ".join(shown)


def _variables(text: str) -> str:
    """Words in capitals slanted, in the brackets that they have."""
    return re.sub(r"[A-Z]{1,}", lambda word: rf"\fI{word[0]}\fR", _text(text))


def _terms(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in rows:
        yield ".TP"
        yield name if name.startswith("\\") else rf"\fB{_text(name)}\fR"
        yield _text(text)


def _examples(examples: Iterable[tuple[str, str]]) -> Iterator[str]:
    for line, text in examples:
        yield from (".PP", _text(text), ".PP", ".RS 4", ".EX", _text(line), ".EE", ".RE")


def _paragraphs(ctx: click.Context) -> Iterator[str]:
    """The description of a command; what stands in it as it is written keeps its lines."""
    paragraphs = inspect.cleandoc(ctx.command.help or "").split("\n\n")
    for number, paragraph in enumerate((*paragraphs, *page_of(ctx).more)):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield ".nf"
            yield from (_text(line, rigid=True) for line in paragraph[1:].strip("\n").split("\n"))
            yield ".fi"
        else:
            yield _text(" ".join(paragraph.split()))


def _text(text: str, *, rigid: bool = False) -> str:
    """A text for roff; what is in backquotes is bold."""
    parts = re.split(r"`([^`]+)`", text) if not rigid else [text]
    shown = "".join(
        rf"\fB{_escaped(part)}\fR" if number % 2 else _escaped(part)
        for number, part in enumerate(parts)
    )
    return rf"\&{shown}" if shown.startswith((".", "'")) else shown


def _escaped(text: str) -> str:
    return "".join(
        _ESCAPES.get(one) or (one if one.isascii() else f"\\[u{ord(one):04X}]") for one in text
    )


def main() -> None:
    """Write the pages, or tell which of them are not as they would be written."""
    checking, status = "--check" in sys.argv[1:], 0
    for name in MANUALS:
        path, page = HERE / f"{name}.1", make(name)
        if checking and (not path.is_file() or path.read_text() != page):
            print(f"{path} is old: run python {HERE.name}/{Path(__file__).name}")
            status = 1
        elif not checking:
            path.write_text(page)
    sys.exit(status)


if __name__ == "__main__":
    main()
