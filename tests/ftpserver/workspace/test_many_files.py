"""Many small files in one request: it is the same as its parts one after another."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ftpserver.accounts.account import Account
from ftpserver.storage.file_run import FilesOutcome
from ftpserver.storage.home_staging import NOT_STAGED
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.trash.operation import Operation as TrashOperation
from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests, paths
from ftpwire.errors import BadRequest, CommandError, VerificationFailed, from_oserror
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    BeginTree,
    EndTree,
    Failed,
    Finished,
    MakeDir,
    NewFile,
    NewFiles,
    Operation,
    Put,
    PutFiles,
    Remove,
    Sent,
    SetAttributes,
)
from tests.ftpserver.storage.quota_store import held_files

TIME = 1_700_000_000_000_000_000
"""Nanoseconds since 1970: the mtime of what is there before."""


def new_file(name: bytes, data: bytes, *, mode: int = 0o640, mtime_ns: int = TIME) -> NewFile:
    return NewFile(name, len(data), mode, mtime_ns, digests.digest(data))


def bytes_of(name: bytes, size: int) -> bytes:
    """What the files of these tests have in them."""
    return (name * (size + 1))[:size]


# the same list, one by one and together ----------------------------------------------------

_DAMAGED = bytes(32)
_dirs = st.sampled_from([b"/", b"/d", b"/new", b"/new/below", b"/file", b"/d/", b"/link", b"/tree"])
_odd_dirs = st.sampled_from(
    [b"no", b"/d/../d", b"//d", b"/" + b"x" * 256, b"/" + b"d/" * 254 + b"d", b"/.ftpd-trash"]
)
_names = st.sampled_from([b"a", b"b", b"there", b"sub", b"tree", b"nein\xff"])
_odd_names = st.sampled_from([b".ftpd-staging", b"x" * 256, b"with\0nul"])
_modes = st.sampled_from([0o644, 0o600, 0o4755, 0o400])
_times = st.sampled_from([TIME - 5, TIME, TIME + 5])


@st.composite
def _files(draw: st.DrawFn) -> tuple[NewFile, bytes]:
    name = draw(_names | _names | _names | _odd_names)
    data = bytes_of(name, draw(st.sampled_from([0, 1, 60, 1000])))
    file = new_file(name, data, mode=draw(_modes), mtime_ns=draw(_times))
    if draw(st.sampled_from([False] * 9 + [True])):
        file = NewFile(file.name, file.size, file.mode, file.mtime_ns, _DAMAGED)
    return file, data


_directory = st.tuples(
    _dirs | _dirs | _dirs | _odd_dirs,
    st.lists(_files(), max_size=4),
    st.sampled_from([None, None, 0o755, 0o2750, 0o500]),
)
_finished = st.builds(Finished, _dirs | _odd_dirs, st.sampled_from([0o755, 0o700, 0o2711]), _times)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[PutFiles, bytes]:
    directories, data = [], b""
    for path, files, make in draw(st.lists(_directory, min_size=1, max_size=5)):
        directories.append(NewFiles(path, [file for file, _ in files], make))
        data += b"".join(its for _, its in files)
    request = PutFiles(
        directories,
        draw(st.lists(_finished, max_size=2)),
        draw(st.sampled_from(["always", "never", "older"])),
        draw(st.booleans()),
    )
    return request, data


RULES = ["upload-only", "none", "none /d=all", "all /new/below=read-only", "all /d=no-delete"]
_account = st.fixed_dictionaries(
    {
        "quota": st.sampled_from([None, None, 10_000_000, 4000, 1500, 700]),
        "max_files": st.sampled_from([None, None, 14, 10, 8]),
        "permissions": st.sampled_from(["", "", ""] + RULES),
    }
)


class Side:
    """One account, of which nothing but the way in which it is asked differs from another one."""

    def __init__(self, make: Callable[..., Account], ledger, options: dict, *, tree: bool) -> None:
        self.account = make(quota=options["quota"], max_files=options["max_files"])
        self.home = Path(self.account.home)
        self._ledger = ledger
        with self._workspace(self.account) as workspace:  # what was there before
            for request in (MakeDir(b"/d"), MakeDir(b"/d/sub"), MakeDir(b"/other")):
                workspace.change(request)
            for path in (b"/file", b"/d/there", b"/tree"):
                data = b"before"
                sent = Sent(len(data), digests.digest(data))
                workspace.stage(Put(path, len(data), 0o604, TIME), data, sent)
            assert not [one for _, one in workspace.commit() if isinstance(one, Failed)]
        (self.home / "link").symlink_to("other")
        os.chmod(self.home / "other", 0o2775)
        ledger.recounted(self.account.id, 18, 7)
        rules = Permissions.parse(options["permissions"]) if options["permissions"] else None
        account = self.account if rules is None else replace(self.account, permissions=rules)
        self.workspace = self._workspace(account)
        self.workspace.begin_operation(Operation(b"12345678", "test"))
        if tree:
            self.workspace.begin_tree(BeginTree(b"/tree"))

    def _workspace(self, account: Account) -> Workspace:
        return Workspace(account, self._ledger, durable=False, policy=Policy)

    def one_by_one(self, request: PutFiles, data: bytes) -> list[str | None]:
        """The code of each failure, of what is asked for by itself."""
        reported: dict[int, str | None] = {}
        count = itertools.count()
        for directory in request.directories:
            number = next(count)
            reported[number] = None
            if directory.make is not None:
                change = MakeDir(directory.path, directory.make, parents=True, fill=True)
                reported[number] = self._ask(
                    partial(self.workspace.change, change, request_id=number)
                )
            for file in directory.files:
                number = next(count)
                its, data = data[: file.size], data[file.size :]
                put = Put(
                    paths.child(directory.path, file.name),
                    *(file.size, file.mode, file.mtime_ns),
                    overwrite=request.overwrite,
                    parents=request.parents,
                )
                sent = Sent(file.size, file.digest)
                stage = partial(self.workspace.stage, put, its, sent, request_id=number)
                reported[number] = self._ask(stage)
        for one in request.finished:
            number = next(count)
            change = SetAttributes(one.path, one.mode, one.mtime_ns)
            reported[number] = self._ask(partial(self.workspace.change, change, request_id=number))
        for number, outcome in self.workspace.commit():
            if isinstance(outcome, Failed):
                reported[number] = outcome.code
        return [reported[number] for number in sorted(reported)]

    @staticmethod
    def _ask(step: Callable[[], None]) -> str | None:
        try:
            step()
        except CommandError as error:
            return error.code
        except OSError as error:
            return from_oserror(error, "").code
        return None

    def together(self, request: PutFiles, data: bytes) -> list[str | None]:
        """The same, of the request as it is."""
        self.workspace.stage_files(request, data, request_id=5)
        ((number, outcome),) = self.workspace.commit()
        assert number == 5 and isinstance(outcome, FilesOutcome)
        assert list(outcome.failures) == sorted(outcome.failures)
        failed = {index: failure.code for index, failure in outcome.failures.items()}
        return [failed.get(index) for index in range(outcome.total)]

    def end(self, *, tree: bool) -> None:
        if tree:
            self.workspace.end_tree(EndTree())
        self.workspace.close()

    def state(self) -> tuple:
        """What its user can find out, and the books."""
        space = self._ledger.space(self.account.id)
        held = held_files(self._ledger._engine, self.account.name)
        staged = set(map(os.fsencode, os.listdir(self.home / ".ftpd-staging"))) - NOT_STAGED
        quota_store = space.used, space.used_files, space.trash, space.trash_files, space.held, held
        return quota_store, staged, _tree(self.home)


def _tree(home: Path) -> dict[str, tuple]:
    found = {}
    for directory, names, files in os.walk(os.fsencode(home)):
        names[:] = [name for name in names if name not in paths.RESERVED]
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            what = [stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode)]
            if stat.S_ISREG(info.st_mode):
                what += [Path(os.fsdecode(path)).read_bytes(), info.st_mtime_ns]
                what.append(os.getxattr(path, digests.ATTRIBUTE))
            elif info.st_mtime_ns < TIME + 10**15:  # one that was given
                what.append(info.st_mtime_ns)
            found[os.path.relpath(path, os.fsencode(home))] = tuple(what)
    return found


@pytest.fixture
def make_account(accounts):
    """Makes accounts, each with a name of its own."""
    count = itertools.count()

    def make(**options) -> Account:
        return accounts.add(f"user{next(count)}", "correct-horse", **options)

    return make


_PLAIN = {"quota": None, "max_files": None, "permissions": ""}


@settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requested=_requests(), options=_account, tree=st.sampled_from([False, False, True]))
@example(
    requested=(
        PutFiles(
            [NewFiles(b"/d", [new_file(b"a", b"1"), new_file(b"a", b"22")])], overwrite="never"
        ),
        b"122",
    ),
    options=_PLAIN,
    tree=False,
)
@example(  # room for the second only when the first has replaced what was there
    requested=(
        PutFiles(
            [NewFiles(b"/d", [new_file(b"there", b"x" * 600), new_file(b"there", b"y" * 600)])]
        ),
        b"x" * 600 + b"y" * 600,
    ),
    options=_PLAIN | {"quota": 1500},
    tree=False,
)
@example(
    requested=(
        PutFiles([NewFiles(b"/", [new_file(b"tree", b"1"), new_file(b"b", b"2")], 0o755)]),
        b"12",
    ),
    options=_PLAIN,
    tree=True,
)
@example(  # a link to where other rights hold, which shows when what is missing is looked for
    requested=(
        PutFiles(
            [
                NewFiles(b"/d", [new_file(b"a", b"1")]),
                NewFiles(b"/link/new", [new_file(b"a", b"2")]),
            ],
            parents=True,
        ),
        b"12",
    ),
    options=_PLAIN | {"permissions": "all /other=read-only"},
    tree=False,
)
def test_it_is_the_same_as_its_parts(make_account, ledger, requested, options, tree):
    tree = tree and options["permissions"] in ("", "all /d=no-delete")
    with ExitStack() as stack:
        singles = Side(make_account, ledger, options, tree=tree)
        stack.callback(singles.workspace.close)
        run = Side(make_account, ledger, options, tree=tree)
        stack.callback(run.workspace.close)
        assert run.together(*requested) == singles.one_by_one(*requested)
        singles.end(tree=tree)
        run.end(tree=tree)
        assert run.state() == singles.state()


# what cannot be -----------------------------------------------------------------------------


def test_too_much_is_refused_before_anything_is_done(site):
    workspace = site.open()
    many = PutFiles([NewFiles(b"/", [new_file(b"%d" % n, b"") for n in range(MAX_ITEMS)])])
    with pytest.raises(BadRequest, match=f"{MAX_ITEMS + 1} files and directories"):
        workspace.expect_files(many)
    large = NewFile(b"a", MAX_BYTES, 0o644, TIME, bytes(32))
    with pytest.raises(BadRequest, match=f"{MAX_BYTES + 1} bytes"):
        workspace.expect_files(PutFiles([NewFiles(b"/", [large, new_file(b"b", b"x")])]))
    huge = NewFile(b"a", 2**63 - 1, 0o644, TIME, bytes(32))
    with pytest.raises(BadRequest):
        workspace.stage_files(PutFiles([NewFiles(b"/", [huge])]), b"")
    assert workspace.expect_files(PutFiles([NewFiles(b"/", [large])])) == MAX_BYTES
    assert not workspace.commit()


@pytest.mark.parametrize("data", [b"", b"12", b"1234"])
def test_more_or_fewer_bytes_store_nothing(site, data):
    workspace = site.open()
    request = PutFiles([NewFiles(b"/", [new_file(b"a", b"1"), new_file(b"b", b"23")], 0o755)])
    with pytest.raises(VerificationFailed):
        workspace.stage_files(request, data)
    assert not workspace.commit() and os.listdir(site.files) in ([], [".ftpd-staging"])
    workspace.close()
    assert site.agrees()


def test_nothing_at_all_is_done(site):
    workspace = site.open()
    workspace.stage_files(PutFiles([]), b"", request_id=3)
    assert workspace.commit() == [(3, FilesOutcome(0, {}))]


def test_what_fails_says_which_and_why(site):
    workspace = site.open()
    files = [new_file(b"a", b"1"), new_file(b".ftpd-trash", b"2"), new_file(b"b", b"3")]
    request = PutFiles(
        [NewFiles(b"/d", files, 0o755), NewFiles(b"/e", [new_file(b"c", b"4")])],
        [Finished(b"/d", 0o700, TIME), Finished(b"/f", 0o700, TIME)],
    )
    workspace.stage_files(request, b"1234", request_id=1)
    ((_, outcome),) = workspace.commit()
    assert outcome.total == 8
    assert {index: (one.code, one.message) for index, one in outcome.failures.items()} == {
        2: ("invalid-path", ".ftpd-trash: this name is reserved for the server"),
        5: ("not-found", "/e/c: no such file or directory"),
        7: ("not-found", "/f: no such file or directory"),
    }
    workspace.close()
    assert site.agrees()


# several in one batch ----------------------------------------------------------------------


def test_a_batch_of_runs_and_single_requests_keeps_their_order(site):
    workspace = site.open()
    workspace.stage_files(
        PutFiles([NewFiles(b"/d", [new_file(b"a", b"1")], 0o755)]), b"1", request_id=1
    )
    workspace.stage(Put(b"/d/a", 2), b"22", Sent(2), request_id=2)
    workspace.stage_files(
        PutFiles([NewFiles(b"/d", [new_file(b"a", b"333")])]), b"333", request_id=3
    )
    outcomes = workspace.commit()
    assert [number for number, _ in outcomes] == [1, 2, 3]
    assert (site.files / "d" / "a").read_bytes() == b"333"
    workspace.change(MakeDir(b"/e"), request_id=4)
    workspace.stage_files(PutFiles([NewFiles(b"/e", [new_file(b"a", b"1")])]), b"1", request_id=5)
    assert workspace.commit()[1] == (5, FilesOutcome(2, {}))
    assert workspace.remove(Remove(b"/e", recursive=True))
    workspace.close()
    assert site.agrees()


def test_the_batch_is_full_by_what_its_runs_are_about(site):
    workspace = site.open()
    half = [new_file(b"%d" % n, b"") for n in range(499)]
    workspace.stage_files(PutFiles([NewFiles(b"/", half)]), b"")
    assert not workspace.batch.full
    workspace.stage_files(PutFiles([NewFiles(b"/", half)]), b"")
    assert workspace.batch.full
    workspace.abandon()
    workspace.close()
    assert site.agrees() and os.listdir(site.files) == [".ftpd-staging"]


def test_a_trash_that_takes_no_line_leaves_nothing_staged(site, monkeypatch):
    """What is removed with the files is announced before anything is done."""

    def fail(self, items):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    workspace = site.open(policy=Policy)
    workspace.begin_operation(Operation(b"12345678", "test"))
    workspace.stage(Put(b"/old", 1), b"1", Sent(1))
    workspace.commit()
    request = PutFiles([NewFiles(b"/d", [new_file(b"a", b"22")], 0o755)])
    workspace.stage_files(request, b"22", request_id=1)
    assert workspace.remove_later(Remove(b"/old"), request_id=2)
    with monkeypatch.context() as patch:
        patch.setattr(TrashOperation, "announce", fail)
        (_, files), (_, removed) = workspace.commit()
    assert isinstance(files, FilesOutcome) and sorted(files.failures) == [0, 1]
    assert isinstance(removed, Failed)
    assert (site.files / "old").read_bytes() == b"1" and not (site.files / "d").exists()
    workspace.close()
    assert site.agrees()
