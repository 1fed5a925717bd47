"""Downloads of files and trees from the server to the local machine.

Lives here: sources named by the user, their target paths, and the checks before they begin.
Lives elsewhere: files (file_download.py), trees (tree_download.py), FIFOs and descriptors
(node.py), the base of all transfers (job.py).
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from ftpclient.connection.connection import Connection
from ftpclient.transfer import preflight
from ftpclient.transfer.file_call import Item
from ftpclient.transfer.file_download import FileDownload
from ftpclient.transfer.job import Options
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.named import Named, Targets, directory_and_name
from ftpclient.transfer.removal import Apart
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.tree_download import UNDONE, TreeDownload
from ftpwire import paths
from ftpwire.errors import CommandError, ConnectionLost, IsADirectory, NotADirectory, SourceChanged
from ftpwire.messages import Entry
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.transfer.node import Node


class Download(FileDownload):
    """A download of files and trees. ``add`` the sources, then ``finish``."""

    def __init__(self, connection: Connection, options: Options, listener: Listener) -> None:
        super().__init__(connection, options, listener)
        self._apart = Apart()
        self._nodes: dict[tuple[RemotePath, bytes], Node] = {}
        """FIFOs, devices and descriptors being written to. Bytes cannot be taken back from them, so
        they stay open after a lost connection, and the transfer resumes where it stopped."""
        self.stays: frozenset[bytes] = frozenset()
        """Remote directories that ``remove_source`` leaves in place even when they become empty."""

    def worker(self, connection: Connection) -> FileDownload:
        """Return a worker for this transfer, with a connection of its own."""
        return FileDownload(connection, self.options, self.listener, self)

    def keeps(self, moved: int, size: int | None) -> bool:
        return not self._nodes and super().keeps(moved, size)

    def close(self) -> Summary:
        for node in self._nodes.values():
            node.close()
        return super().close()

    def add(
        self,
        source: RemotePath,
        entry: Entry,
        target: bytes,
        *,
        follow: bool = True,
        there: Targets | None = None,
    ) -> None:
        """Get a remote file, link or directory, to exactly the local path ``target``.

        Args:
            follow: True if the target may be a link to the directory to write into.
            there: What was at the targets before the transfer began. A file is written into a
                FIFO or device found there, and through a link to a file.
        """
        self.go_on()
        named: Named | None = None
        self.goes = self.options.remove_source
        try:
            if self.options.overwrite != "never":
                self.same_names.check_named(source, target)
            if entry.type == "dir":
                if not self.options.recursive:
                    raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
                self._get_tree(source, entry, target, follow=follow)
                return
            if self.options.selection.only is not None:
                raise NotADirectory(
                    f"{paths.show(source)}: not a directory, but a list of paths below it was given"
                )
            named = None if there is None else there.at(target, entry.type)
            if named is not None and named.is_node:
                self._add_into(source, entry, target, named)
            else:
                self._add_named(source, entry, target, named)
        except (OSError, CommandError) as error:
            if isinstance(error, BrokenPipeError) and named and named.descriptor is not None:
                raise  # our own output was closed: end the command, as when printing
            self.fail(source, target, error, named=True)

    def _get_tree(self, source: RemotePath, entry: Entry, target: bytes, *, follow: bool) -> None:
        TreeDownload(self, source, entry, target, follow=follow, stays=self.stays).run()

    def _add_named(
        self, source: RemotePath, entry: Entry, target: bytes, named: Named | None
    ) -> None:
        """Get a file or link to the path ``target``, or a file to where the link there leads."""
        here, name = os.path.split(target.rstrip(b"/"))
        through = named is not None and named.is_link and entry.type == "file"
        if named is not None and through:
            here, name = directory_and_name(named)
        here = here or b"."
        if self.goes:
            self._apart.check(self.connection, here, paths.parent_of(source))
        with closing(LocalTree(here, durable=self.options.remove_source)) as tree:
            if named is not None and through and not named.is_same(tree.stat((name,))):
                raise SourceChanged(
                    f"{paths.show(target)}: the target of this link was moved meanwhile"
                )
            if entry.type == "file":
                preflight.check_get(
                    here, entry.size, lambda: preflight.here_of(here, (name,)), UNDONE
                )
            self.add_one(Item(source, target, tree, (name,)), entry, named=True)
            self.settle()

    def _add_into(self, source: RemotePath, entry: Entry, target: bytes, named: Named) -> None:
        """Write a file into a FIFO, a device or a descriptor."""
        from ftpclient.transfer.node import Node, fetch

        node = self._nodes.get((source, target))
        if node is None:
            node = self._nodes[source, target] = Node(target, named.descriptor)
        if node.ended:
            return  # finished before a connection was lost
        try:
            node.open(named, self.connection, self.listener.remark)
            self.started(source, entry.size)
            self.advanced(node.written)
            in_trash = self.options.in_trash
            size, digest = fetch(self.connection, source, node, self.advanced, in_trash)
            node.close()
        except ConnectionLost as error:
            self.end(source, target, node.written, error=error)
            raise
        except BaseException:
            node.close()
            raise
        self.end(source, target, size, digest=digest)
