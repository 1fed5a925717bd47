"""The command du, which sums up sizes.

Lives here: adding up the server's listing, and the output. Lives elsewhere: the account's quota
(df in browsing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import click
import msgspec

from ftpclient.cli import records
from ftpclient.cli.app import App
from ftpclient.cli.commands.browsing import complain_about, for_each
from ftpclient.cli.filter_options import Patterns, SelectingCommand, filter_options, walking
from ftpclient.cli.group import RemoteArgument, raise_for, remote_command
from ftpclient.transfer import spool
from ftpclient.transfer.report import Summary
from ftpwire import paths, units
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath


class Sum(msgspec.Struct):
    """The sum of a directory, or a single file.

    Attributes:
        path: The path relative to the starting point.
        size: Bytes of files; directories themselves don't count.
        files: The number of files.
        depth: The level below the starting point, which has 0.
    """

    path: bytes
    size: int = 0
    files: int = 0
    depth: int = 0
    is_file: bool = False


def _after_contents(one: Sum) -> object:
    """Return the key of the default order: that of `find`, but a directory after its contents."""
    # no byte of a name is 0, so what is in a directory sorts before its own end, the 1
    return not one.path, one.path.replace(b"/", b"\0") + b"\1"


_ORDERS: dict[str, Callable[[Sum], object]] = {
    "name": lambda one: one.path,
    "size": lambda one: (-one.size, one.path),
    "files": lambda one: (-one.files, one.path),
}


@remote_command("du", SelectingCommand)
@click.argument("tops", cls=RemoteArgument, metavar="[PATH]...", nargs=-1)
@click.option(
    "-s", "--summarize", "only_sum", is_flag=True, help="Print only the sum of each PATH."
)
@click.option("-a", "--all", "everything", is_flag=True, help="Print files, too.")
@click.option(
    *("-d", "--max-depth", "depth"),
    type=click.IntRange(0),
    metavar="N",
    help="Print at most N levels below PATH.",
)
@click.option(
    "-S",
    "--separate-dirs",
    "separate",
    is_flag=True,
    help="Leave subdirectories out of a directory's sum.",
)
@click.option("-c", "--total", is_flag=True, help="Print a grand total.")
@click.option("-h", "--human-readable", "human", is_flag=True, help="Print human-readable sizes.")
@click.option(
    "--sort", "order", type=click.Choice([*_ORDERS]), help="Sort by name, size or number of files."
)
@filter_options
def du_command(
    app: App,
    tops: tuple[str, ...],
    only_sum: bool,
    everything: bool,
    depth: int | None,
    separate: bool,
    total: bool,
    human: bool,
    order: str | None,
    patterns: Patterns,
) -> None:
    """Sum up the sizes of files below directories.

    Sorted by name, each directory after its contents. Excluded files are not counted.
    """
    failures = Summary()
    whole = Sum(b"")
    most = 0 if only_sum else depth

    def print_sum(path: RemotePath, one: Sum) -> None:
        if app.as_json:
            app.print_json(records.usage_record(path, one.size, one.files))
        else:
            app.print(_line(one, paths.show(path), human=human))

    def show(path: RemotePath) -> None:
        walk = walking(patterns)
        complain = complain_about(app, path, failures, walk)
        blocks = walk.through(app.client.walk(path, on_problem=complain))
        sums = added_up(blocks, separate=separate, files=everything)
        shown = (one for one in counted(sums) if most is None or one.depth <= most)
        key = _after_contents if order is None else _ORDERS[order]
        for one in spool.sort(shown, key, kind=Sum):
            print_sum(paths.child(path, one.path) if one.path else path, one)

    def counted(sums: Iterable[Sum]) -> Iterator[Sum]:
        """Yield the sums, and add those that don't overlap to the grand total."""
        for one in sums:
            if not one.is_file if separate else not one.depth:
                whole.size += one.size
                whole.files += one.files
            yield one

    status = for_each(app, tops or (".",), show)
    if total and app.as_json:
        app.print_json(records.usage_record(None, whole.size, whole.files))
    elif total:
        app.print(_line(whole, "total", human=human))
    raise_for(status or failures.exit_code)


def added_up(
    blocks: Iterable[tuple[bytes, list[Entry]]], *, separate: bool = False, files: bool = False
) -> Iterator[Sum]:
    """Yield the sum of each directory once its contents have been seen.

    Args:
        blocks: Directories and their entries, in the order of `Client.walk`: each directory is
            followed by its subdirectories.
        separate: True to leave subdirectories out of a directory's sum.
        files: True to yield each file, too.
    """
    stack = [Sum(b"")]

    def leave() -> Sum:
        done = stack.pop()
        if stack and not separate:
            stack[-1].size += done.size
            stack[-1].files += done.files
        return done

    for directory, entries in blocks:
        while stack[-1].path and directory != stack[-1].path:
            if directory.startswith(stack[-1].path + b"/"):
                break
            yield leave()
        here = stack[-1]
        if directory != here.path:
            here = Sum(directory, depth=directory.count(b"/") + 1)
            stack.append(here)
        for entry in entries:
            if entry.type != "file":
                continue
            here.size += entry.size
            here.files += 1
            if files and entry.path:
                path = directory + b"/" + entry.path if directory else entry.path
                yield Sum(path, entry.size, 1, here.depth + 1, is_file=True)
    while stack:
        yield leave()


def _line(one: Sum, name: str, *, human: bool) -> str:
    return f"{units.human(one.size) if human else one.size:>12}  {name}"
