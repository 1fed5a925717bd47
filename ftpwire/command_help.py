"""Help of `ftp` and `ftpd`: one layout for every command, and ``--help --all``.

Lives here: the parts of a help page, and their layout.
Lives elsewhere: the texts of the pages besides the docstrings of the commands
(ftpclient/cli/pages.py, ftpserver/cli/pages.py), and the manual pages that are made from both
(docs/man/make.py).

A command's docstring is its description; the first sentence is its summary in lists. The rest is in
its `Page`, which is loaded only when help is requested, so that commands start quickly.

There are three kinds of options. Common ones are on every page; rare ones, which the page names,
only with ``--help --all``. Options with ``hidden``, and the names in `Option.also`, exist for
users and scripts that know them from other programs: they work, but are not offered.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

ALL = "--all"
_EVERYTHING = "ftpwire.command_help.everything"
"""Key in a context's ``meta``: True if ``--all`` was given with ``--help``."""
_LEFT = 28
"""Columns for names. After a longer name the text is on the next line."""
_LEFT_OF_EXAMPLES = 42
_LAST = ("--json", "--help")
"""Options at the end of every page."""


_NONE: Mapping[Any, Any] = MappingProxyType({})


class Page(NamedTuple):
    """The help of a command, besides its docstring.

    Attributes:
        arguments: The description of each argument, by its placeholder.
        options: Titles of the sections of options, and one name of each option in them. Options
            that are not named here come last.
        rare: One name of each option that only ``--help --all`` shows.
        examples: Command lines, and what they do.
        statuses: Exit statuses of this command that need an explanation.
        see_also: Commands, and other pages.
        commands: Of a group: titles of the sections of commands, and the commands in them. Names
            that share a line are separated by blanks, and the line has one text for all of them.
            With ``--all`` each command has a line of its own.
        together: Title of one section with all these lines, in place of their own titles, if
            ``--all`` is not given.
        more: Paragraphs for ``--help --all`` and the manual page.
    """

    arguments: Mapping[str, str] = _NONE
    options: Mapping[str, tuple[str, ...]] = _NONE
    rare: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    statuses: Mapping[int, str] = _NONE
    see_also: tuple[str, ...] = ()
    commands: Mapping[str, Mapping[str, str]] = _NONE
    together: str = ""
    more: tuple[str, ...] = ()


class Option(click.Option):
    """An option with additional names that are accepted, but not shown.

    Args:
        also: The additional names.
    """

    def __init__(self, *arguments: Any, also: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.also = also
        self.opts += also


def usage_message(error: click.UsageError) -> str:
    """Return the text of an error of the command line: which argument is wrong, and why."""
    text = error.format_message()
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter):
        reason, param = error.message.removesuffix("."), error.param
        if error.param_hint is not None or param is None:
            return reason if error.param_hint is None else text
        option = isinstance(param, click.Option)
        # the name of an argument is as in the usage line: [N]...
        name = max(param.opts, key=len) if option else param.human_readable_name.strip("[.]")
        return f"{name}: {reason}"
    text = re.sub(r"^Option '(.*)' (requires .*)\.$", r"option \1 \2", text)
    return re.sub(r"^Got unexpected extra (arguments?) \((.*)\)$", r"unexpected \1: \2", text)


def shown_names(option: click.Option) -> list[str]:
    """Return the names of an option to show; of a flag that is on by default, its opposite."""
    if option.secondary_opts and option.default is True:
        return [name for name in option.secondary_opts if name.strip()]
    also = option.also if isinstance(option, Option) else ()
    return [name for name in option.opts if name not in also]


def offered_names(option: click.Option) -> list[str]:
    """Return the names of an option that Tab may complete to, including those of its opposite."""
    also = option.also if isinstance(option, Option) else ()
    names = (*option.opts, *option.secondary_opts)
    return [name for name in names if name not in also and name.strip()]


def called(ctx: click.Context) -> str:
    """Return a command's name, preceded by the names of its groups."""
    names: list[str] = []
    while ctx.parent is not None:
        names.insert(0, ctx.info_name or "")
        ctx = ctx.parent
    return " ".join(names)


def page_of(ctx: click.Context) -> Page:
    """Return the page of a context's command; an empty one if it has none."""
    root = ctx.find_root().command
    return root.pages().get(called(ctx), Page()) if isinstance(root, RootGroup) else Page()


def shows_everything(ctx: click.Context) -> bool:
    """Return True if help is to be shown in full, as by ``--help --all``."""
    return bool(ctx.meta.get(_EVERYTHING, False))


def help_text(ctx: click.Context, *, everything: bool = False) -> str:
    """Return the help of a context's command; with ``everything``, as ``--help --all`` shows it."""
    ctx.meta[_EVERYTHING] = everything
    return ctx.get_help()


# commands ------------------------------------------------------------------------------------


class _Formatter(click.HelpFormatter):
    """A formatter that wraps lines, but not at the hyphens of a word: that would split options."""

    _HELD = "\u2011"

    def write(self, string: str) -> None:
        super().write(string.replace(self._HELD, "-"))

    def write_text(self, text: str) -> None:
        super().write_text(text.replace("-", self._HELD))

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        held = [(name, text.replace("-", self._HELD)) for name, text in rows]
        super().write_dl(held, col_max, col_spacing)


class _Paged(click.Command):
    """Base of commands and groups."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[_EVERYTHING] = ALL in args  # also for commands that have an --all of their own
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            if error.option_name != ALL:
                raise
            rest = list(args)
            rest.remove(ALL)
            super().parse_args(ctx, rest)  # shows the help and exits, if --help is among them
            raise

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-"):
            return found
        offered = {name for option in _options(ctx) for name in offered_names(option)}
        return [item for item in found if item.value in offered or item.value[:1] != "-"]

    def get_help(self, ctx: click.Context) -> str:
        formatter = _Formatter(width=ctx.terminal_width, max_width=ctx.max_content_width)
        self.format_help(ctx, formatter)
        return formatter.getvalue().rstrip("\n")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_help_text(ctx, formatter)
        for paragraph in page_of(ctx).more if shows_everything(ctx) else ():
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(paragraph)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write everything that follows the description."""
        page, everything = page_of(ctx), shows_everything(ctx)
        sections = {"Arguments": list(page.arguments.items())}
        sections |= {
            title: [option_row(ctx, option) for option in options]
            for title, options in option_sections(ctx, everything=everything)
        }
        write_sections(formatter, sections)
        examples = [(as_called(ctx, line), text) for line, text in page.examples]
        write_sections(
            formatter, {"Examples": [one for one in examples if one[0]]}, _LEFT_OF_EXAMPLES
        )
        statuses = [(str(status), text) for status, text in page.statuses.items()]
        write_sections(formatter, {"Exit status": statuses})
        if page.see_also and (everything or ctx.parent is not None):
            formatter.write_paragraph()
            formatter.write_text("See also: " + ", ".join(page.see_also))


class Command(_Paged):
    """A command with a help `Page`."""


class Group(_Paged, click.Group):
    """A group with a help `Page`. Its commands are shown before its options."""

    command_class = Command

    def listed(self, ctx: click.Context) -> list[str]:
        """Return the commands that help lists and Tab offers. Others work, but are not shown."""
        return self.list_commands(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        unlisted = set(self.list_commands(ctx)).difference(self.listed(ctx))
        found = super().shell_complete(ctx, incomplete)
        return [item for item in found if item.value not in unlisted]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _Paged.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        page, everything = page_of(ctx), shows_everything(ctx)
        sections = dict(command_sections(ctx, formatter.width, each=everything))
        if page.together and not everything:
            rows = [row for rows in sections.values() for row in rows]
            sections = {page.together: rows}
        write_sections(formatter, sections)


class RootGroup(Group):
    """The group of a whole program. It knows the pages of all its commands."""

    program = ""
    """Name of the program, which examples begin with."""

    def pages(self) -> Mapping[str, Page]:
        """Return the pages by command name; that of the program itself has an empty name."""
        raise NotImplementedError


# what is on a page ---------------------------------------------------------------------------


def option_sections(
    ctx: click.Context, *, everything: bool
) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield the options of a command in sections, the common ones first.

    Args:
        everything: True to include rare options, and those that exist only for compatibility.
    """
    page, left = page_of(ctx), _options(ctx)
    left.sort(key=lambda one: next((i for i, n in enumerate(_LAST, 1) if n in one.opts), 0))
    hidden = [one for one in left if one.hidden]
    left = [one for one in left if not one.hidden and (everything or not _is_rare(ctx, one))]
    for title, names in page.options.items():
        section = [one for name in names for one in left if name in offered_names(one)]
        left = [one for one in left if one not in section]
        if section:
            yield title, section
    if left:
        yield ("Other options" if page.options else "Options"), left
    if everything and hidden:
        yield "Also accepted", hidden


def command_sections(
    ctx: click.Context, width: int, *, each: bool
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the commands of a group in sections.

    Args:
        width: Columns for a summary.
        each: True for one line per command.
    """
    group = ctx.command
    assert isinstance(group, Group)
    commands = {
        name: command
        for name in group.listed(ctx)
        if (command := group.get_command(ctx, name)) is not None and not command.hidden
    }
    sections = page_of(ctx).commands
    if not sections:
        yield "Commands", [(name, one.get_short_help_str(width)) for name, one in commands.items()]
        return
    for title, lines in sections.items():
        rows = []
        for names, text in lines.items():
            here = [name for name in names.split() if name in commands]
            if each:
                rows += [(name, commands[name].get_short_help_str(width)) for name in here]
            elif here:
                rows.append((", ".join(here), text))
        if rows:
            yield title, rows


def _options(ctx: click.Context) -> list[click.Option]:
    return [one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option)]


def _is_rare(ctx: click.Context, option: click.Option) -> bool:
    return option.hidden or any(name in page_of(ctx).rare for name in option.opts)


def as_called(ctx: click.Context, line: str) -> str:
    """Return an example as it is typed here: in the shell, without the program's name. Empty for an
    example that does not work in the shell."""
    root = ctx.find_root()
    if root.info_name or not isinstance(root.command, RootGroup):
        return line
    program = f"{root.command.program} "
    return line.removeprefix(program) if line.startswith(program) and "|" not in line else ""


def option_row(ctx: click.Context, option: click.Option) -> tuple[str, str]:
    """Return the names of an option with the placeholder of its value, and its text."""
    shown = copy.copy(option)
    shown.opts, shown.secondary_opts, shown.hidden = shown_names(option), [], False
    record = shown.get_help_record(ctx)
    assert record is not None
    if "--help" not in option.opts:
        return record[0], option.help or ""
    page = page_of(ctx)
    full = "; with --all, in full" if page.rare or page.commands or page.more else ""
    return record[0], f"Show this help{full}."


def write_sections(
    formatter: click.HelpFormatter,
    sections: Mapping[str, Sequence[tuple[str, str]]],
    left: int = _LEFT,
) -> None:
    """Write sections with the texts of all of them in one column."""
    names = [name for rows in sections.values() for name, _ in rows if len(name) <= left]
    width = max(map(len, names), default=left)
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], width)
