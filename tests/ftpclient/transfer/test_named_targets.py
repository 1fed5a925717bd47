"""Local targets that are named and no plain files: bytes go into them, or through them."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import threading

import pytest

from ftpclient.client import Client
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer import node, retry, waiting
from ftpclient.transfer.report import Listener
from ftpwire import standard
from ftpwire.errors import ConnectionLost, Interrupted, NotADirectory
from ftpwire.messages import WhoAmI
from tests.conftest import as_plain_user
from tests.ftpclient.transfer.named_support import (
    BOTH,
    SECONDS,
    Reading,
    Recording,
    errors,
    in_thread,
    make_null,
    needs_root,
    unauthenticated,
    usable,
)
from tests.system.proxy import Proxy

DATA = b"remote bytes"
LARGE = os.urandom(3_000_000)


@pytest.fixture(params=BOTH)
def client(request, server, connect):
    """Alice's client, of each kind."""
    return connect(server, kind=request.param)


@pytest.fixture
def remote(files):
    """A file there, of some age."""
    path = files / "f"
    path.write_bytes(DATA)
    os.utime(path, ns=(10**18, 10**18))
    return path


def partials(directory) -> set[str]:
    return {name for name in os.listdir(directory) if name.startswith(".ftp-")}


# FIFOs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", ["always", "never", "older"])
@pytest.mark.parametrize("data", [b"", DATA, LARGE], ids=["empty", "small", "large"])
def test_bytes_go_into_a_fifo(client, remote, tmp_path, overwrite, data):
    """It is left as it is, and neither looked at for -n nor for -u."""
    remote.write_bytes(data)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o640)
    os.utime(fifo, ns=(5 * 10**17, 5 * 10**17))
    before = fifo.stat()
    reading = Reading(fifo)
    reported = Recording()
    summary = client.get(["/f"], fifo, overwrite=overwrite, listener=reported)
    assert reading.result() == data
    assert (summary.done, summary.size, summary.exit_code) == (1, len(data), 0)
    assert reported.results[0].target == os.fsencode(fifo)
    after = fifo.stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    if not data:
        assert after.st_mtime_ns == before.st_mtime_ns
    assert partials(tmp_path) == set()


def test_bytes_go_into_a_fifo_behind_a_link(client, remote, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    reading = Reading(tmp_path / "fifo")
    assert client.get(["/f"], tmp_path / "link").done == 1
    assert reading.result() == DATA
    assert (tmp_path / "link").is_symlink()


def test_bytes_go_into_a_fifo_of_the_source_s_name(client, remote, tmp_path):
    """``get /f .`` names ./f, as for cp."""
    os.mkfifo(tmp_path / "f")
    reading = Reading(tmp_path / "f")
    assert client.get(["/f"], tmp_path).done == 1
    assert reading.result() == DATA


def test_a_pattern_names_no_fifo(client, remote, tmp_path):
    """The server says what it matches: that may be any name."""
    os.mkfifo(tmp_path / "f")
    reported = Recording()
    assert client.get(["/*"], tmp_path, listener=reported).exit_code == 1
    assert "a FIFO or device" in errors(reported)[0] and str(tmp_path / "f") in errors(reported)[0]
    assert stat.S_ISFIFO((tmp_path / "f").stat().st_mode)


def test_a_fifo_is_no_directory(client, remote, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for target in (tmp_path / "fifo", f"{tmp_path}/fifo/"):
        with pytest.raises(NotADirectory):
            client.get(["/f", "/f"], target)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


@pytest.mark.parametrize("kind", ["dir", "link"])
def test_only_a_file_goes_into_a_fifo(client, files, tmp_path, kind):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    if kind == "dir":
        (files / "x").mkdir()
    else:
        (files / "x").symlink_to("somewhere")
    assert client.get(["/x"], fifo, recursive=True, links=True).failed == 1
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_fifo_without_a_reader_is_waited_for_and_said_once(client, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    class ReadThen(Recording):
        """Reads once it hears that it is waited for."""

        def remark(self, text: str) -> None:
            super().remark(text)
            self.reading = Reading(fifo)

    reported = ReadThen()
    assert client.get(["/f"], fifo, listener=reported).done == 1
    assert reported.reading.result() == DATA
    assert reported.remarks == [f"{fifo}: waiting for a reader (Ctrl-C stops)"]


def test_ctrl_c_ends_the_wait_for_a_reader(server, connect, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    interrupt = Interrupt()

    class Stop(Listener):
        def remark(self, text: str) -> None:
            interrupt.set()

    client = connect(server, interrupt=interrupt)
    with pytest.raises(Interrupted):
        client.get(["/f"], fifo, listener=Stop())
    client.settle_interrupt()
    assert client.whoami() == "alice"
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    client.close()
    interrupt.close()


def test_ctrl_c_ends_the_wait_for_a_reader_that_stopped_reading(
    server, connect, remote, tmp_path, monkeypatch
):
    remote.write_bytes(LARGE)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    interrupt = Interrupt()
    real_wait = node.Node._wait_until_writable

    def wait_for_room(into):
        interrupt.set()
        real_wait(into)

    monkeypatch.setattr(node.Node, "_wait_until_writable", wait_for_room)
    client = connect(server, interrupt=interrupt)
    try:
        with pytest.raises(Interrupted):
            client.get(["/f"], fifo)
        client.settle_interrupt()
        assert client.whoami() == "alice"
    finally:
        os.close(held)
        client.close()
        interrupt.close()


def test_a_session_is_kept_while_a_reader_is_waited_for(
    server, connect, remote, tmp_path, monkeypatch
):
    """By asking something now and then: or a server would end it as idle."""
    monkeypatch.setattr(waiting, "KEEP_ALIVE_SECONDS", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    requested, real_ask = threading.Semaphore(0), Connection.ask

    def ask(connection, request):
        reply = real_ask(connection, request)
        if isinstance(request, WhoAmI):
            requested.release()
        return reply

    client = connect(server)
    monkeypatch.setattr(Connection, "ask", ask)
    done = in_thread(lambda: client.get(["/f"], fifo))
    for _ in range(2):
        assert requested.acquire(timeout=SECONDS)
    assert Reading(fifo).result() == DATA
    done()


@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
def test_a_reader_that_leaves_is_a_failure(server, connect, remote, tmp_path, data):
    client = connect(server)
    remote.write_bytes(data)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    class Leave(Recording):
        def started(self, name, size) -> None:
            os.close(held)

    reported = Leave()
    summary = client.get(["/f"], fifo, listener=reported)
    assert (summary.failed, summary.exit_code) == (1, 1)
    assert errors(reported) == [f"{fifo}: broken pipe"]
    assert client.find("/f") is not None, "the session goes on"


# devices and descriptors -------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "large"])
def test_bytes_go_into_a_device(client, remote, tmp_path, data):
    remote.write_bytes(data)
    null = make_null(tmp_path / "null")
    if not usable(null):
        pytest.skip("no device can be opened here")
    null.chmod(0o666)
    before = null.stat()
    for target in (null, tmp_path):
        name = "/f" if target == null else "/null"
        (remote.parent / "null").write_bytes(data)
        assert client.get([name], target, overwrite="never").done == 1
    after = null.stat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (
        before.st_ino,
        before.st_mode,
        os.makedev(1, 3),
    )
    assert partials(tmp_path) == set()


@needs_root
def test_a_full_device_is_the_disk_s_status(client, remote, tmp_path):
    full = tmp_path / "full"
    os.mknod(full, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    if not usable(full):
        pytest.skip("no device can be opened here")
    assert client.get(["/f"], full).exit_code == 7
    assert stat.S_ISCHR(full.stat().st_mode)
    assert client.find("/f") is not None, "the session goes on"


@pytest.mark.parametrize("way", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}"])
def test_bytes_go_to_a_descriptor_that_is_named(client, remote, tmp_path, way):
    """Where it is: what was written before stays."""
    if not os.path.exists(way.format(0).rpartition("/")[0]):
        pytest.skip("there is no such directory")
    with open(tmp_path / "out", "wb", buffering=0) as out:
        out.write(b"before, ")
        inode = os.fstat(out.fileno()).st_ino
        assert client.get(["/f"], way.format(out.fileno())).done == 1
        out.write(b", after")
    assert (tmp_path / "out").read_bytes() == b"before, " + DATA + b", after"
    assert (tmp_path / "out").stat().st_ino == inode


def test_bytes_go_to_a_pipe_s_descriptor_through_a_link(client, remote, tmp_path):
    read, write = os.pipe()
    link = tmp_path / "out"
    link.symlink_to(f"/dev/fd/{write}")
    try:
        assert client.get(["/f"], link).done == 1
        os.close(write)
        assert os.read(read, 100) == DATA
    finally:
        os.close(read)


def test_the_reader_of_an_own_descriptor_leaves(client, remote):
    """As with `get -`."""
    remote.write_bytes(LARGE)
    read, write = os.pipe()
    os.close(read)
    try:
        with pytest.raises(BrokenPipeError):
            client.get(["/f"], f"/dev/fd/{write}")
    finally:
        os.close(write)
    assert client.whoami() == "alice"


@pytest.mark.parametrize("number", [1, 2])
def test_an_own_stream_that_was_closed_takes_nothing(client, remote, monkeypatch, number):
    """What is at its descriptor now would lose the bytes."""
    monkeypatch.setattr(standard, "_closed", {number})
    reported = Recording()
    assert client.get(["/f"], f"/dev/fd/{number}", listener=reported).exit_code == 1
    assert "is closed" in errors(reported)[0]


def test_a_terminal_gets_the_bytes(client, remote):
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        assert client.get(["/f"], name).done == 1
        assert os.read(master, 100) == DATA
        assert os.path.exists(name)
    finally:
        os.close(slave)
        os.close(master)


def test_a_socket_is_refused(client, remote, tmp_path):
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        (tmp_path / "link").symlink_to("socket")
        for name in ("socket", "link"):
            reported = Recording()
            assert client.get(["/f"], tmp_path / name, listener=reported).exit_code == 1
            assert "a socket" in errors(reported)[0]
        assert stat.S_ISSOCK((tmp_path / "socket").lstat().st_mode)
        assert (tmp_path / "link").is_symlink()


# links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [len(DATA), len(LARGE), 5_000_000])
def test_a_link_to_a_file_is_written_through(client, remote, tmp_path, size):
    """Whole, and beside what it points to."""
    data = os.urandom(size)
    (tmp_path / "sent").write_bytes(data)
    os.utime(tmp_path / "sent", ns=(10**18, 10**18))
    client.put([tmp_path / "sent"], "/f")
    (tmp_path / "there").mkdir()
    real = tmp_path / "there" / "real"
    real.write_bytes(b"old")
    opened = real.open("rb")
    link = tmp_path / "link"
    link.symlink_to("there/real")
    (tmp_path / "second").symlink_to("link")
    for name in ("link", "second"):
        real.write_bytes(b"old")
        assert client.get(["/f"], tmp_path / name).done == 1
        assert (tmp_path / name).is_symlink()
        assert real.read_bytes() == data
        assert real.stat().st_mtime_ns == 10**18
    with opened:
        assert opened.read() == b"old", "nothing is written in place"
    assert partials(tmp_path) == partials(tmp_path / "there") == set()
    assert client.get(["/f"], link).unchanged == 1
    (remote.parent / "l").symlink_to("f")
    assert client.get(["/l"], link).unchanged == 1


def test_a_link_of_the_source_s_name_is_written_through(client, remote, tmp_path):
    (tmp_path / "into").mkdir()
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "into" / "f").symlink_to("../real")
    assert client.get(["/f"], tmp_path / "into").done == 1
    assert (tmp_path / "into" / "f").is_symlink()
    assert (tmp_path / "real").read_bytes() == DATA


@pytest.mark.parametrize("pattern", ["/[f]", "/*"])
def test_where_a_pattern_chose_the_name_the_link_is_replaced(
    client, remote, tmp_path, canary, pattern
):
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "f").symlink_to(canary / "secret")
    assert client.get([pattern], tmp_path / "into").done == 1
    assert not (tmp_path / "into" / "f").is_symlink()
    assert (tmp_path / "into" / "f").read_bytes() == DATA


def test_in_a_tree_the_link_is_replaced(client, remote, tmp_path, canary):
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "f").symlink_to(canary / "secret")
    assert client.get(["/."], tmp_path / "into", recursive=True).exit_code == 0
    assert not (tmp_path / "into" / "f").is_symlink()


def test_a_link_that_came_with_the_same_transfer_is_not_written_through(
    client, files, tmp_path, canary
):
    (files / "f").write_bytes(DATA)
    (files / "t").mkdir()
    (files / "t" / "f").symlink_to(canary / "secret")
    into = tmp_path / "into"
    into.mkdir()
    summary = client.get(["/t/.", "/f"], into, recursive=True)
    assert summary.failed == 1, "the second of one name is refused"
    assert (into / "f").readlink() == canary / "secret"


@pytest.mark.parametrize("overwrite", ["never", "older"])
def test_no_clobber_and_update_look_at_what_a_link_leads_to(client, remote, tmp_path, overwrite):
    (tmp_path / "real").write_bytes(b"newer")
    (tmp_path / "link").symlink_to("real")
    summary = client.get(["/f"], tmp_path / "link", overwrite=overwrite)
    assert (summary.skipped, summary.exit_code) == (1, 0)
    assert (tmp_path / "real").read_bytes() == b"newer"


def test_a_dangling_link_is_refused(client, remote, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    reported = Recording()
    assert client.get(["/f"], tmp_path / "link", listener=reported).exit_code == 5
    assert errors(reported) == [f"{tmp_path}/link: a symbolic link whose target does not exist"]
    assert not (tmp_path / "nowhere").exists() and (tmp_path / "link").is_symlink()


def test_a_link_replaces_a_link(client, files, tmp_path):
    (files / "x").symlink_to("there")
    for here in ("nowhere", "real"):
        (tmp_path / "real").write_bytes(b"real")
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(here)
        assert client.get(["/x"], tmp_path / "link", links=True).done == 1
        assert os.readlink(tmp_path / "link") == "there"
        assert (tmp_path / "real").read_bytes() == b"real"


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777], ids=oct)
def test_no_stranger_s_link_is_written_through_for_root(client, remote, tmp_path, mode):
    (tmp_path / "passwd").write_bytes(b"root")
    link = unauthenticated(tmp_path / "in" / "report", tmp_path / "passwd", below=mode)
    reported = Recording()
    assert client.get(["/f"], link, listener=reported).exit_code == 6
    assert "of another user" in errors(reported)[0]
    assert (tmp_path / "passwd").read_bytes() == b"root" and link.is_symlink()
    assert partials(tmp_path) == partials(tmp_path / "in") == set()
    assert client.get(["/f"], link, copy_links=True).done == 1
    assert (tmp_path / "passwd").read_bytes() == DATA


def test_a_link_that_leads_elsewhere_by_now_is_not_written_through(
    server, connect, files, remote, tmp_path
):
    client = connect(server)
    (files / "a").write_bytes(b"a")
    (tmp_path / "into").mkdir()
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "into" / "f").symlink_to("../real")

    class Swap(Recording):
        def finished(self, result) -> None:
            super().finished(result)
            if result.source == b"/a":
                (tmp_path / "into" / "f").unlink()
                (tmp_path / "into" / "f").symlink_to("../other")

    reported = Swap()
    assert client.get(["/a", "/f"], tmp_path / "into", listener=reported).failed == 1
    assert "replaced meanwhile" in errors(reported)[0]
    assert (tmp_path / "other").read_bytes() == b"other"
    assert (tmp_path / "real").read_bytes() == b"old"


# what cannot be replaced --------------------------------------------------------------------


class NothingFetched(Recording):
    """Hears of bytes."""

    bytes = 0

    def advanced(self, count: int) -> None:
        self.bytes += count


def test_a_directory_that_is_not_ours_is_refused_before_the_first_byte(client, remote, tmp_path):
    remote.write_bytes(LARGE)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/real")
    (tmp_path / "there").chmod(0o555)
    reported = NothingFetched()
    with as_plain_user():
        for name in ("link", "there/real", "there/new"):
            assert client.get(["/f"], tmp_path / name, listener=reported).exit_code == 6
    assert reported.bytes == 0
    assert all("permission denied" in text for text in errors(reported))
    (tmp_path / "there").chmod(0o755)
    assert os.listdir(tmp_path / "there") == ["real"]
    assert (tmp_path / "there" / "real").read_bytes() == b"old"


def test_a_directory_in_its_place_is_refused_before_the_first_byte(client, remote, tmp_path):
    remote.write_bytes(LARGE)
    (tmp_path / "into" / "f").mkdir(parents=True)
    reported = NothingFetched()
    assert client.get(["/f"], tmp_path / "into", listener=reported).exit_code == 1
    assert reported.bytes == 0
    assert errors(reported) == [f"{tmp_path}/into/f: is a directory"]


@needs_root
def test_a_mounted_file_is_refused_before_the_first_byte(client, remote, tmp_path):
    """As /etc/hosts is in containers."""
    remote.write_bytes(LARGE)
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "there").mkdir()
    mounted = tmp_path / "there" / "mounted"
    mounted.write_bytes(b"below")
    (tmp_path / "link").symlink_to(mounted)
    command = ["mount", "--bind", tmp_path / "outside", mounted]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    reported = NothingFetched()
    try:
        for target in (mounted, tmp_path / "link"):
            assert client.get(["/f"], target, listener=reported).exit_code == 1
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert reported.bytes == 0
    assert [one.error.code for one in reported.results] == ["busy", "busy"]
    assert (tmp_path / "outside").read_bytes() == b"outside"


@needs_root
def test_a_sticky_directory_keeps_others_files(tmp_path, monkeypatch):
    from ftpclient.transfer.local_tree import LocalTree

    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "f").write_bytes(b"root's")
    tree = LocalTree(os.fsencode(tmp_path / "sticky"))
    try:
        monkeypatch.setattr(os, "geteuid", lambda: 1234)
        os.chown(tmp_path / "sticky", 99, 99)
        os.chown(tmp_path / "sticky" / "f", 99, 99)
        with pytest.raises(PermissionError) as refused:
            tree.check_replaceable((b"f",))
        assert refused.value.errno == errno.EPERM
        os.chown(tmp_path / "sticky" / "f", 1234, 99)
        tree.check_replaceable((b"f",))
    finally:
        tree.close()


# lost connections --------------------------------------------------------------------------


@pytest.fixture(params=BOTH)
def through_proxy(request, server, monkeypatch):
    """A proxy, and a client of each kind that comes through it."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    options = {"password": "secret", "plaintext": True}
    with Proxy(server.address) as proxy:
        host, port = proxy.address.rsplit(":", 1)
        client = request.param(ServerAddress(host, int(port), "alice"), **options)
        try:
            yield proxy, client
        finally:
            client.close()


def test_after_a_loss_a_fifo_gets_the_rest(through_proxy, remote, tmp_path):
    proxy, client = through_proxy
    remote.write_bytes(LARGE)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    proxy.cut_at("down", 1_000_000, 2_500_000)
    reading = Reading(fifo)
    reported = Recording()
    summary = client.get(["/f"], fifo, listener=reported)
    assert reading.result() == LARGE
    assert (summary.done, summary.failed, len(reported.results)) == (1, 0, 1)
    assert proxy.passed("down") < len(LARGE) + 1_500_000, "what was written did not come again"


@pytest.mark.parametrize("change", ["size", "time", "bytes"])
def test_after_a_loss_another_file_is_not_written_after_the_first(
    server, remote, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    remote.write_bytes(LARGE)
    os.utime(remote, ns=(10**18, 10**18))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    class Change(Recording):
        def remark(self, text: str) -> None:
            super().remark(text)
            data = LARGE + b"x" if change == "size" else LARGE
            remote.write_bytes(bytes(len(LARGE)) if change == "bytes" else data)
            os.utime(remote, ns=(10**18, 10**18 + (change == "time")))

    reported = Change()
    with Proxy(server.address) as proxy:
        with Client(f"alice@{proxy.address}", password="secret", plaintext=True) as client:
            proxy.cut_at("down", 1_000_000)
            reading = Reading(fifo)
            summary = client.get(["/f"], fifo, listener=reported)
            assert client.find("/f") is not None, "the session goes on"
    assert (summary.failed, summary.exit_code) == (1, 8)
    assert "changed on the server" in errors(reported)[0]
    assert LARGE.startswith(reading.result())


def test_after_a_loss_a_stream_goes_on(server, remote, monkeypatch):
    """As with `cat` and `get -`. (AsyncClient's get_stream hands out bytes, and raises.)"""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    remote.write_bytes(LARGE)
    with Proxy(server.address) as proxy:
        with Client(f"alice@{proxy.address}", password="secret", plaintext=True) as client:
            proxy.cut_at("down", 1_000_000)
            read, write = os.pipe()
            got: list[bytes] = []
            with open(read, "rb") as end:
                thread = threading.Thread(target=lambda: got.append(end.read()))
                thread.start()
                assert client.get_stream("/f", write)[0] == len(LARGE)
                os.close(write)
                thread.join(SECONDS)
    assert got == [LARGE]


def test_a_loss_that_stays_ends_the_file(through_proxy, remote, tmp_path):
    proxy, client = through_proxy
    remote.write_bytes(LARGE)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    proxy.cut_after("down", 1_000_000)
    getattr(client, "client", client).retry_for = 0.2
    reading = Reading(fifo)
    with pytest.raises(ConnectionLost):
        client.get(["/f"], fifo)
    assert LARGE.startswith(reading.result())
