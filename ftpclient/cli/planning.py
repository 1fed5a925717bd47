"""The dry run of cp, mv and rm: what the server would do.

Lives here: checking what exists, the permissions and the quota; printing the steps.
Lives elsewhere: the commands (commands/changing.py), put and get (transfer/rehearsal.py).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from ftpclient.cli.app import App
from ftpclient.cli.rehearsal import PlanPrinter, finish
from ftpclient.transfer import preflight
from ftpclient.transfer.listing import list_pages
from ftpclient.transfer.rehearsal import NEW, REPLACES, PlannedStep, check_permitted
from ftpclient.transfer.report import Result, Summary
from ftpwire import paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
)
from ftpwire.messages import Entry, List, Remove
from ftpwire.paths import RemotePath


@dataclass
class _Tree:
    """The number of entries and bytes of a path: itself and, for a directory, its contents."""

    count: int = 1
    size: int = 0


class Plan:
    """The dry run of one command. ``finish`` prints the totals.

    Attributes:
        made: A directory that the command would create first.
    """

    made: RemotePath | None = None

    def __init__(self, app: App) -> None:
        self._app = app
        self._printer = PlanPrinter(app)
        self._summary = Summary()

    def remove(self, path: RemotePath, *, recursive: bool) -> None:
        """Print what removing a path would do. Raises CommandError if it would fail."""
        entry = self._app.client.stat(path)
        self._check_removable(path)
        tree = self._look(path, entry)
        if entry.type == "dir" and not recursive:
            raise IsADirectory(f"{paths.show(path)}: is a directory")
        self._report(PlannedStep("remove", path, entry.type, tree.size, count=tree.count), path)

    def move(self, source: RemotePath, to: RemotePath, *, no_clobber: bool) -> None:
        """Print what moving would do. Raises CommandError if it would fail."""
        entry = self._app.client.stat(source)
        self._check_removable(source)
        there = self._target(to)
        if _is_below(to, source) and not (there and no_clobber):
            raise InvalidPath(f"{paths.show(source)}: cannot be moved into itself")
        if to == source and not no_clobber:  # nothing to do
            step = PlannedStep("move", to, entry.type, source=source)
            self._add(Result(source, to, 0, "planned", unchanged=True, step=step))
            return
        if there is not None and entry.type == "dir" and not no_clobber:
            raise AlreadyExists(f"{paths.show(to)}: exists")
        self._replace("move", source, to, entry, there, no_clobber)

    def copy(
        self,
        source: RemotePath,
        to: RemotePath,
        *,
        no_clobber: bool,
        recursive: bool,
        links: bool,
    ) -> None:
        """Print what copying would do. Raises CommandError if it would fail."""
        entry = self._app.client.stat(source, follow=not links)
        if entry.type == "dir" and not recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        if entry.type == "dir" and (to == source or _is_below(to, source)):
            raise InvalidPath(f"{paths.show(source)}: cannot be copied into itself")
        there = self._target(to)
        if entry.type == "dir" and there is not None and there.type != "dir":
            raise NotADirectory(f"{paths.show(to)}: not a directory")
        size = self._look(source, entry).size
        if there is not None and there.type == "file" and entry.type != "dir":
            size -= there.size
        if size > 0 and not no_clobber:
            preflight.check(self._app.client.space(), size, "nothing would be copied")
        self._replace("copy", source, to, entry, there, no_clobber)

    def finish(self, status: int) -> None:
        """Print the totals of a command that ends with an exit status."""
        self._summary.exit_code = status
        finish(self._app, self._summary)

    def _replace(
        self,
        action: str,
        source: RemotePath,
        to: RemotePath,
        entry: Entry,
        there: Entry | None,
        no_clobber: bool,
    ) -> None:
        merges = action == "copy" and entry.type == "dir" and there is not None
        if there is not None and there.type == "dir" and not merges and not no_clobber:
            raise IsADirectory(f"{paths.show(to)}: a directory is there")
        if there is not None and no_clobber and not merges:
            error = AlreadyExists(f"{paths.show(to)}: exists")
            step = PlannedStep(action, to, entry.type, source=source)
            self._add(Result(source, to, 0, "skipped", error=error, step=step))
            return
        tree = self._look(source, entry)
        why = NEW if there is None else "adds to it" if merges else REPLACES
        step = PlannedStep(action, to, entry.type, tree.size, why, source, tree.count)
        self._report(step, source)

    def _target(self, to: RemotePath) -> Entry | None:
        """Return what exists at a target, if anything. Raises CommandError if it cannot be used."""
        client = self._app.client
        there = client.find(to)
        check_permitted(client.connection, to, there)
        above = paths.parent_of(to)
        if there is None and above != self.made and not client.is_dir(above):
            raise NotFound(f"{paths.show(above)}: no such directory on the server")
        return there

    def _check_removable(self, path: RemotePath) -> None:
        """Check the permission to remove a path. Raises Forbidden.

        It asks the server to remove a random name below the path, which cannot exist.
        """
        name = secrets.token_hex(16).encode()
        try:
            self._app.client.connection.ask(Remove(paths.child(path, name)))
        except Forbidden as error:
            raise Forbidden(str(error).replace(f"/{name.decode()}", "")) from None
        except CommandError:
            pass

    def _look(self, path: RemotePath, entry: Entry) -> _Tree:
        """Count the entries at and below a path, and their bytes."""
        if entry.type != "dir":
            return _Tree(1, entry.size if entry.type == "file" else 0)
        tree = _Tree()
        for page in list_pages(self._app.client.connection, List(path, recursive=True)):
            tree.count += len(page.entries)
            tree.size += sum(one.size for one in page.entries if one.type == "file")
        return tree

    def _report(self, step: PlannedStep, source: RemotePath) -> None:
        self._add(Result(source, RemotePath(step.path), step.size, "planned", step=step))

    def _add(self, result: Result) -> None:
        if result.status == "planned":
            assert result.step is not None
            self._summary.done += result.step.count
            self._summary.size += result.size
        else:
            self._summary.add(result)
        self._printer.finished(result)


def _is_below(path: RemotePath, top: RemotePath) -> bool:
    """Return whether a path is below another one."""
    return path != top and path.startswith(top.rstrip(b"/") + b"/")
