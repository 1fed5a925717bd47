"""The help of every command of both programs: its words, its layout, its screens.

One walk over all commands: what holds for one page holds for all of them.
"""

from __future__ import annotations

import re

import click
import pytest

from ftpclient.cli import pages as ftp_pages
from ftpclient.cli.main import remote
from ftpserver.cli import pages as ftpd_pages
from ftpserver.cli.main import cli as ftpd
from ftpwire.command_help import (
    Group,
    Option,
    help_text,
    offered_names,
    option_row,
    option_sections,
    page_of,
)
from tests import screens
from tests.command_walk import PLACES, options, root

COLUMNS = 80
VERBS = frozenset(
    """
    Accept Acknowledge Act Add Allow Answer Ask Ban Change Check Clear Close Color Compare
    Copy Count Create Define Delete Disable Do Download Draw Drop Edit Empty Enable End
    Exempt Exit Expect Explain Export Find Follow Generate Give Go Grant Ignore Import
    Include Keep Leave Let Lift Limit List Listen Log Make Manage Mark Match Mirror Move
    Name Open Print Purge Put Quote Read Recount Recurse Refuse Register Reload Remove
    Rename Replace Report Request Restore Reverse Revoke Rotate Run Save Send Serve Set Show
    Shut Skip Sort Start Stop Store Sum Switch Take Transfer Treat Trust Turn Undo Update
    Upload Use Wait Watch Write
    """.split()
)
"""What a help text may begin with."""
SCREENFUL = range(24, 31)


each = pytest.mark.parametrize("place", [pytest.param(one, id=one.words) for one in PLACES])


@pytest.fixture(autouse=True)
def _terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


def check_words(text: str) -> None:
    """A help text is a sentence that begins with a verb and ends with a period."""
    assert text.split()[0].rstrip(",") in VERBS, text
    assert text.endswith("."), text


@each
def test_a_page_is_complete(place):
    ctx, page = place.ctx, page_of(place.ctx)
    help = ctx.command.help or ""
    check_words(help.split("\n\n")[0].strip())
    assert not ctx.command.get_short_help_str(62).endswith("..."), "the summary is too long"
    for option in options(ctx):
        names, text = option_row(ctx, option)
        assert text, f"{names} has no help"
        check_words(text)
    usage = " ".join(ctx.command.collect_usage_pieces(ctx)).removeprefix("[OPTIONS]")
    reported = " ".join((*page.arguments, *page.arguments.values()))
    if not isinstance(ctx.command, click.Group):
        for word in re.findall(r"[A-Z]{1,}", usage):
            assert re.search(rf"\b{word}\b", reported), f"{word} is not explained"
    for text in (*page.arguments.values(), *(text for _, text in page.examples)):
        assert text.endswith("."), text


@each
def test_what_a_page_names_exists(place):
    ctx, page = place.ctx, page_of(place.ctx)
    names = {name for option in options(ctx) for name in offered_names(option)}
    named = [name for section in page.options.values() for name in section]
    assert names >= {*named, *page.rare}
    assert len(named) == len(set(named))
    if isinstance(ctx.command, Group) and page.commands:
        listed = [one for rows in page.commands.values() for names in rows for one in names.split()]
        assert len(listed) == len(set(listed))
        assert set(listed) >= set(ctx.command.listed(ctx))


@pytest.mark.parametrize("pages", [ftp_pages.PAGES, ftpd_pages.PAGES], ids=["ftp", "ftpd"])
def test_every_page_belongs_to_a_command(pages):
    program = "ftpd" if pages is ftpd_pages.PAGES else "ftp"
    known = {re.sub(f"^{program} ?", "", place.words) for place in PLACES}
    assert known >= set(pages)


@each
def test_all_shows_every_option(place):
    ctx = place.ctx
    shown = help_text(ctx, everything=True)
    every = {option_row(ctx, option)[0] for option in options(ctx)}
    for names in every if place.words else ():  # the shell has no options itself
        assert f"  {names}" in shown
    sections = list(option_sections(ctx, everything=False))
    assert not any(option.hidden for _, section in sections for option in section)
    kept = {option_row(ctx, option)[0] for _, section in sections for option in section}
    text = help_text(ctx)
    for names in every - kept:
        assert f"\n  {names} " not in text and f"\n  {names}\n" not in text


@each
def test_the_screen(place):
    name = place.words.replace(" ", "-") or "shell"
    if place.words and not place.ctx.find_root().info_name:
        name = f"shell-{name}"
    screens.check(f"help/{name}", help_text(place.ctx), columns=COLUMNS)


@each
def test_all_fits_the_width(place):
    for line in help_text(place.ctx, everything=True).splitlines():
        assert screens.width(line) <= COLUMNS, line


WHOLE = ("ftp", "ftpd", "ftpd start")


@pytest.mark.parametrize("words", WHOLE)
def test_one_screen_is_enough(words):
    (place,) = (one for one in PLACES if one.words == words)
    assert len(help_text(place.ctx).splitlines()) in SCREENFUL
    screens.check(
        f"help/{words.replace(' ', '-')}--all",
        help_text(place.ctx, everything=True),
        columns=COLUMNS,
    )


def test_no_screen_is_left_over():
    names = {
        place.words if place.ctx.find_root().info_name else f"shell {place.words}".strip()
        for place in PLACES
    }
    names |= {f"{words}--all" for words in WHOLE}
    assert screens.kept("help") == {f"help/{name.replace(' ', '-')}" for name in names}


@pytest.mark.parametrize("program", ["ftp", "ftpd"])
def test_examples_are_lines_that_parse(program):
    """Each example's options exist in the command that it calls."""
    import shlex

    for place in PLACES:
        for line, _ in page_of(place.ctx).examples:
            for part in re.split(r"[|$()<>]", line):
                words = shlex.split(part.replace('"', ""))
                if not words or words[0] != program:
                    continue
                ctx = root(remote if program == "ftp" else ftpd, program, interactive=True)
                command, rest = ctx.command, words[1:]
                while isinstance(command, click.Group):
                    if command is remote and rest[0] in ("completion", "batch", "connect"):
                        ctx.obj.interactive = False
                    if command is remote and rest[0] in ("login", "logout", "register"):
                        ctx.obj.interactive = False
                    name, found, rest = command.resolve_command(ctx, rest)
                    assert found is not None, line
                    ctx, command = click.Context(found, parent=ctx, info_name=name), found
                known = {name for one in options(ctx) for name in (*one.opts, *one.secondary_opts)}
                for word in rest:
                    if word.startswith("-") and word != "-" and not re.match(r"-[\d]", word):
                        assert word.partition("=")[0] in known or all(
                            f"-{letter}" in known for letter in word[1:]
                        ), line


@each
def test_hidden_names_work(place):
    """What is not shown is still taken: names of options, and whole options."""
    parser = place.ctx.command.make_parser(place.ctx)
    taken = {*parser._short_opt, *parser._long_opt}
    for option in options(place.ctx):
        if isinstance(option, Option):
            assert not set(option.also) & set(offered_names(option))
            assert taken >= set(option.also)
        assert taken >= {name for name in option.opts if name.strip()}


@pytest.mark.parametrize("columns", [50, 57, 64, 71, 78])
def test_no_word_with_a_hyphen_is_cut(columns, monkeypatch):
    """`--no-` at the end of a line is no option that somebody could copy."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for place in PLACES:
        for line in help_text(place.ctx, everything=True).splitlines():
            assert not re.search(r"\w-$", line), f"{place.words}: {line}"
