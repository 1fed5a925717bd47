"""What a session does with its trash, and what is there before: for every way of ending it.

Lives here: each verb that removes, replaces or restores. Lives elsewhere: ending it before each of
its steps (steps.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from ftpserver.storage.trash.directory import alone, names_in, open_trash
from ftpserver.storage.trash.glance import entry_names
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.messages import (
    BeginTree,
    EndTree,
    Failed,
    Move,
    Operation,
    Purge,
    Put,
    Remove,
    Restore,
    Sent,
)
from tests.ftpserver.storage.trash.steps import TIME, Scene


def write(path: Path, content: bytes, mode: int = 0o640) -> None:
    """A file with a mode and a time that nothing else gives."""
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(TIME, TIME + len(content)))


def write_tree(top: Path) -> None:
    """A tree of files, links and directories, one of them closed."""
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    write(top / "one", b"1")
    write(top / "sub" / "two", b"22")
    write(top / "sub" / "deep" / "three", b"333", 0o400)
    (top / "link").symlink_to("sub/two")
    (top / "sub" / "deep").chmod(0o750)
    for directory in (top / "sub" / "deep", top / "sub", top / "empty", top):
        os.utime(directory, ns=(TIME, TIME + len(directory.name)))


def put(workspace: Workspace, path: bytes, content: bytes, **options: bool) -> None:
    """Have the next commit store a file."""
    request = Put(path, size=len(content), mtime_ns=TIME + 7, **options)
    workspace.stage(request, content, Sent(len(content), digests.digest(content)))


def commit(workspace: Workspace) -> None:
    """Make it durable; all of it has to be done."""
    for _, outcome in workspace.commit():
        assert not isinstance(outcome, Failed), outcome


def begin(workspace: Workspace, number: int) -> bytes:
    """What follows is a command of its own; returns its key."""
    key = number.to_bytes(8, "big")
    workspace.begin_operation(Operation(key, f"command {number}", b"a client"))
    return key


def operations(workspace: Workspace) -> list[str]:
    """The names of the operations in the trash, the oldest first."""
    trash = open_trash(workspace.home)
    assert trash is not None
    try:
        return names_in(trash)
    finally:
        os.close(trash)


class RemoveFile(Scene):
    """`rm` of a file, as a session does that asks for one at a time."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write(home / "f", b"content")
        write(home / "stays", b"other")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        assert workspace.remove(Remove(b"/f")).trashed


class RemoveFiles(Scene):
    """`rm` of several files and a link, in one batch, in several directories."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        for name in ("f", "g"):
            write(home / name, name.encode())
        (home / "d").mkdir()
        write(home / "d" / "h", b"h")
        (home / "l").symlink_to("f")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        for path in (b"/f", b"/g", b"/l"):
            assert workspace.remove_later(Remove(path))
        commit(workspace)


class RemoveAgain(Scene):
    """`rm` into an operation that is there already: its index is appended to."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write(home / "f", b"content")
        write(home / "before", b"before")
        begin(workspace, 1)
        workspace.remove(Remove(b"/before"))

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        workspace.remove(Remove(b"/f"))


class RemoveTree(Scene):
    """`rm -r`."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write_tree(home / "tree")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        assert workspace.remove(Remove(b"/tree", recursive=True)).trashed


class RemoveDirectory(Scene):
    """`rmdir`."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        (home / "d").mkdir()
        os.utime(home / "d", ns=(TIME, TIME))

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        workspace.remove(Remove(b"/d"))


class RemoveOnMount(Scene):
    """`rm` and `rm -r` below /mount, which is another file system: it is final there."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write(home / "mount" / "f", b"content")
        write_tree(home / "mount" / "tree")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        for path in (b"/mount/f", b"/mount/tree"):
            removed = workspace.remove(Remove(path, recursive=True))
            assert not removed.trashed and removed.files, removed


class PutOver(Scene):
    """`put` over a file, and beside it a new one."""

    may_lose_version = True

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write(home / "f", b"old content")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        put(workspace, b"/f", b"new")
        put(workspace, b"/g", b"new, too")
        commit(workspace)


class MoveOver(Scene):
    """`mv` over a file."""

    may_lose_version = True

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write(home / "f", b"old content")
        (home / "d").mkdir()
        write(home / "d" / "g", b"new")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        workspace.move(Move(b"/d/g", b"/f"))


class PutTree(Scene):
    """`put --atomic` over a tree."""

    may_lose_version = True

    def prepare(self, workspace: Workspace, home: Path) -> None:
        write_tree(home / "tree")

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 1)
        workspace.begin_tree(BeginTree(b"/tree", mode=0o755))
        put(workspace, b"/tree/one", b"one")
        put(workspace, b"/tree/new/f", b"new", parents=True)
        commit(workspace)
        workspace.end_tree(EndTree(commit=True))


class Undo(Scene):
    """Another scene, undone."""

    undone: Scene

    def prepare(self, workspace: Workspace, home: Path) -> None:
        self.undone.prepare(workspace, home)
        self.undone.act(workspace)

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        begin(workspace, 2)
        restored = workspace.restore(Restore(name))
        assert not restored.conflicts, restored
        assert restored.items

    def repeat(self, workspace: Workspace) -> bool:
        begin(workspace, 3)
        restored = workspace.restore(Restore(operations(workspace)[0]))
        assert not restored.conflicts, restored
        return True


class UndoRemoveFile(Undo):
    """A file that was removed."""

    undone = RemoveFile()


class UndoRemoveFiles(Undo):
    """Several."""

    undone = RemoveFiles()


class UndoRemoveTree(Undo):
    """A tree."""

    undone = RemoveTree()


class UndoPutOver(Undo):
    """A file that was put over another one: both are exchanged."""

    undone = PutOver()


class UndoMoveOver(Undo):
    """A file that was moved over another one: two lines are undone."""

    undone = MoveOver()
    in_parts = True  # the source is back before what it had replaced


class UndoPutTree(Undo):
    """A tree that replaced another one."""

    undone = PutTree()


class _OneWay(Undo):
    def repeat(self, workspace: Workspace) -> bool:
        return False


class RestoreElsewhere(_OneWay):
    """A tree goes to another directory, which is made."""

    undone = RemoveTree()
    in_parts = True

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        begin(workspace, 2)
        restored = workspace.restore(Restore(name, target=b"/other/place"))
        assert restored.items == 1, restored


class RestorePart(_OneWay):
    """A file of a tree in the trash, whose directories are gone."""

    undone = RemoveTree()
    in_parts = True

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        begin(workspace, 2)
        restored = workspace.restore(Restore(name, paths=[b"/tree/sub/deep/three"]))
        assert restored.items == 1, restored


class RestoreOver(_OneWay):
    """A file whose name was taken again: that goes to the trash."""

    undone = RemoveFile()

    def prepare(self, workspace: Workspace, home: Path) -> None:
        super().prepare(workspace, home)
        write(home / "f", b"came later")

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        begin(workspace, 2)
        restored = workspace.restore(Restore(name, conflict="replace"))
        assert restored.items == 1, restored


class PurgeAll(_OneWay):
    """An operation is given up."""

    undone = RemoveTree()

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        assert workspace.purge(Purge(name)).files


class PurgeItems(_OneWay):
    """Items of an operation are given up."""

    undone = RemoveFiles()
    evicts = True

    def act(self, workspace: Workspace) -> None:
        (name,) = operations(workspace)
        trash = open_trash(workspace.home)
        assert trash is not None
        with alone(workspace.home, trash, name) as opened:
            items = [one.name for one in opened.contents().items if one.path.value != b"/g"]
        os.close(trash)
        assert workspace.purge(Purge(name, items=items)).files == 2


class MakeRoom(Scene):
    """`put` where a quota of 100,000 bytes is full of trash: the oldest of that is given up."""

    evicts = True

    def prepare(self, workspace: Workspace, home: Path) -> None:
        for number in range(3):
            begin(workspace, number)
            put(workspace, b"/f%d" % number, b"%d" % number * 30_000)
            commit(workspace)
            workspace.remove(Remove(b"/f%d" % number))

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 9)
        put(workspace, b"/new", b"n" * 50_000)
        commit(workspace)
        assert len(operations(workspace)) == 1


class MakeRoomOfItems(Scene):
    """`put` where a quota of 100,000 bytes is full of one operation: its oldest items are given
    up."""

    evicts = True

    def prepare(self, workspace: Workspace, home: Path) -> None:
        begin(workspace, 1)
        for number in range(3):
            put(workspace, b"/f%d" % number, b"%d" % number * 30_000)
        commit(workspace)
        for number in range(3):
            workspace.remove(Remove(b"/f%d" % number))

    def act(self, workspace: Workspace) -> None:
        begin(workspace, 9)
        put(workspace, b"/new", b"n" * 50_000)
        commit(workspace)
        (name,) = operations(workspace)
        trash = open_trash(workspace.home)
        assert trash is not None
        with alone(workspace.home, trash, name) as opened:
            assert len(entry_names(opened.fd)) == 1
        os.close(trash)


CHANGING = [
    RemoveFile,
    RemoveFiles,
    RemoveAgain,
    RemoveTree,
    RemoveDirectory,
    PutOver,
    MoveOver,
    PutTree,
]
"""What fills the trash."""
RESTORING = [
    UndoRemoveFile,
    UndoRemoveFiles,
    UndoRemoveTree,
    UndoPutOver,
    UndoMoveOver,
    UndoPutTree,
    RestoreElsewhere,
    RestorePart,
    RestoreOver,
    PurgeAll,
    PurgeItems,
]
"""What takes from it."""
