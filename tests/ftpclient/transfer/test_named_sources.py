"""What is named is what is moved: links, FIFOs, devices and descriptors as sources, both ways."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer import waiting
from ftpclient.transfer.job import RESUME_FROM
from ftpclient.transfer.report import Listener
from ftpwire import standard
from ftpwire.errors import CommandError, Interrupted
from tests.ftpclient.aio.async_support import Blocking
from tests.ftpclient.transfer.named_support import (
    BOTH,
    SECONDS,
    Recording,
    errors,
    in_thread,
    make_null,
    needs_root,
    unauthenticated,
    usable,
    writing,
)
from tests.system.proxy import Proxy


@pytest.fixture(params=BOTH)
def client(request, server, connect):
    """Alice's client, of each kind."""
    return connect(server, kind=request.param)


# links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("recursive", [False, True])
def test_put_follows_a_link_that_is_named(client, files, tmp_path, recursive):
    (tmp_path / "report-05").write_bytes(b"may")
    link = tmp_path / "latest"
    link.symlink_to("report-05")
    summary = client.put([link], "/", recursive=recursive)
    assert (summary.done, summary.exit_code) == (1, 0)
    assert not (files / "latest").is_symlink()
    assert (files / "latest").read_bytes() == b"may"


def test_put_follows_a_large_file_s_link_and_finds_it_unchanged(client, files, tmp_path):
    data = os.urandom(RESUME_FROM + 1)
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "link").symlink_to("large")
    assert client.put([tmp_path / "link"], "/got").done == 1
    assert client.put([tmp_path / "link"], "/got").unchanged == 1
    assert (files / "got").read_bytes() == data


def test_put_follows_a_link_to_a_directory_but_none_in_it(client, files, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page").write_bytes(b"page")
    (tmp_path / "site" / "index").symlink_to("page")
    (tmp_path / "current").symlink_to("site")
    assert client.put([tmp_path / "current"], "/www", recursive=True).exit_code == 0
    assert (files / "www" / "page").read_bytes() == b"page"
    assert os.readlink(files / "www" / "index") == "page"


@pytest.mark.parametrize("recursive", [False, True])
def test_put_with_links_stores_the_link_itself(client, files, tmp_path, recursive):
    (tmp_path / "link").symlink_to("nowhere")
    assert client.put([tmp_path / "link"], "/l", recursive=recursive, links=True).exit_code == 0
    assert os.readlink(files / "l") == "nowhere"


def test_put_of_a_link_that_leads_nowhere_fails(client, files, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    reported = Recording()
    summary = client.put([tmp_path / "link"], "/l", listener=reported)
    assert (summary.failed, summary.exit_code) == (1, 5)
    assert errors(reported) == [f"{tmp_path}/link: a symbolic link whose target does not exist"]
    assert not os.path.lexists(files / "l")


def test_put_over_a_link_there_replaces_the_link(client, files, tmp_path):
    (files / "real").write_bytes(b"old")
    (files / "link").symlink_to("real")
    (tmp_path / "f").write_bytes(b"new")
    assert client.put([tmp_path / "f"], "/link").done == 1
    assert not (files / "link").is_symlink()
    assert ((files / "link").read_bytes(), (files / "real").read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize("pattern", ["/latest", "/lat*"])
@pytest.mark.parametrize("recursive", [False, True])
def test_get_follows_a_link_that_is_named(client, files, tmp_path, pattern, recursive):
    (files / "report-05").write_bytes(b"may")
    (files / "latest").symlink_to("report-05")
    into = tmp_path / "into"
    into.mkdir()
    assert client.get([pattern], into, recursive=recursive).exit_code == 0
    assert not (into / "latest").is_symlink()
    assert (into / "latest").read_bytes() == b"may"


@pytest.mark.parametrize("source", ["/current", "/current/"])
def test_get_follows_a_link_to_a_directory_but_none_in_it(client, files, tmp_path, source):
    (files / "site").mkdir()
    (files / "site" / "page").write_bytes(b"page")
    (files / "site" / "index").symlink_to("page")
    (files / "current").symlink_to("site")
    assert client.get([source], tmp_path / "www", recursive=True).exit_code == 0
    assert (tmp_path / "www" / "page").read_bytes() == b"page"
    assert os.readlink(tmp_path / "www" / "index") == "page"


def test_get_with_links_makes_the_link_itself(client, files, tmp_path):
    (files / "link").symlink_to("nowhere")
    assert client.get(["/link"], tmp_path / "l", links=True).exit_code == 0
    assert os.readlink(tmp_path / "l") == "nowhere"


def test_get_of_a_link_that_leads_nowhere_fails(client, files, tmp_path):
    (files / "link").symlink_to("nowhere")
    summary = client.get(["/link"], tmp_path / "l")
    assert (summary.failed, summary.exit_code) == (1, 5)
    assert not os.path.lexists(tmp_path / "l")


def test_copy_follows_a_link_that_is_named(client, files):
    (files / "site").mkdir()
    (files / "site" / "page").write_bytes(b"page")
    (files / "link").symlink_to("site")
    client.copy("/link", "/copied", recursive=True)
    assert not (files / "copied").is_symlink()
    assert (files / "copied" / "page").read_bytes() == b"page"
    client.copy("/link", "/linked", recursive=True, links=True)
    assert os.readlink(files / "linked") == "site"


def test_remove_and_move_act_on_the_link(client, files):
    (files / "real").write_bytes(b"real")
    for name in ("one", "two"):
        (files / name).symlink_to("real")
    client.remove("/one")
    client.move("/two", "/three")
    assert (files / "real").read_bytes() == b"real"
    assert sorted(os.listdir(files)) == [".ftpd-staging", ".ftpd-trash", "real", "three"]
    assert os.readlink(files / "three") == "real"


def test_sync_follows_its_roots(client, files, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page").write_bytes(b"page")
    (tmp_path / "current").symlink_to("site")
    client.sync(tmp_path / "current", ":/www")
    assert (files / "www" / "page").read_bytes() == b"page"
    (files / "now").symlink_to("www")
    client.sync(":/now", tmp_path / "back")
    assert (tmp_path / "back" / "page").read_bytes() == b"page"


def test_links_and_copy_links_exclude_each_other(client, tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ValueError, match="exclude each other"):
        client.put([tmp_path / "f"], "/", links=True, copy_links=True)
    with pytest.raises(ValueError, match="exclude each other"):
        client.get(["/f"], tmp_path, links=True, copy_links=True)


# links of others -----------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o777, 0o1777], ids=oct)
def test_put_follows_no_stranger_s_link_for_root(client, files, tmp_path, mode):
    (tmp_path / "secret").write_bytes(b"secret")
    link = unauthenticated(tmp_path / "in" / "job", tmp_path / "secret", below=mode)
    reported = Recording()
    summary = client.put([link], "/", listener=reported)
    assert (summary.failed, summary.exit_code) == (1, 6)
    assert "of another user" in errors(reported)[0] and "-L" in errors(reported)[0]
    assert not os.path.lexists(files / "job")
    assert client.put([link], "/", copy_links=True).done == 1
    assert (files / "job").read_bytes() == b"secret"


@needs_root
def test_put_follows_no_stranger_s_link_behind_an_own_one(client, files, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    link = unauthenticated(tmp_path / "in" / "job", tmp_path / "secret")
    own = tmp_path / "own"
    own.symlink_to(link)
    reported = Recording()
    assert client.put([own], "/", listener=reported).exit_code == 6
    assert f"through {link}" in errors(reported)[0]
    assert not os.path.lexists(files / "own")


@needs_root
@pytest.mark.parametrize(
    ("mode", "owner", "followed"),
    [
        pytest.param(0o755, 0, True, id="nobody-else-writes-there"),
        pytest.param(0o775, 0, False, id="the-group-writes-there"),
        pytest.param(0o777, 0, False, id="all-write-there"),
        pytest.param(0o777, 54321, True, id="of-the-directory-s-owner"),
    ],
)
def test_what_an_unauthenticated_client_s_link_is_for_who_isn_t_root(
    monkeypatch, tmp_path, mode, owner, followed
):
    from ftpclient.transfer import named

    (tmp_path / "secret").write_bytes(b"secret")
    link = unauthenticated(tmp_path / "in" / "job", tmp_path / "secret", below=mode)
    os.chown(link.parent, owner, owner)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    if followed:
        assert named.look(os.fsencode(link)).is_link
    else:
        with pytest.raises(CommandError, match="of another user"):
            named.look(os.fsencode(link))


@pytest.mark.parametrize("kind", BOTH)
def test_what_is_put_in_the_place_of_a_file_meanwhile_is_not_sent(
    server, connect, files, tmp_path, monkeypatch, kind
):
    """Between the look at its links and the opening a name can get another file."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "f").write_bytes(b"mine")
    real_open = os.open

    def open_late(path, *args, **options):
        if path == os.fsencode(tmp_path / "f"):
            (tmp_path / "f").unlink()
            (tmp_path / "f").symlink_to("secret")
        return real_open(path, *args, **options)

    client = connect(server, kind=kind)
    monkeypatch.setattr(os, "open", open_late)
    reported = Recording()
    assert client.put([tmp_path / "f"], "/f", listener=reported).failed == 1
    assert "replaced meanwhile" in errors(reported)[0]
    assert not os.path.lexists(files / "f")


# what has no size --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_put_reads_a_fifo_that_is_named_to_its_end(client, files, tmp_path, size):
    fifo, data = tmp_path / "fifo", os.urandom(size)
    os.mkfifo(fifo)
    with writing(fifo, data):
        summary = client.put([fifo], "/got")
    assert (summary.done, summary.exit_code) == (1, 0)
    assert (files / "got").read_bytes() == data
    assert (files / "got").stat().st_mode & 0o777 == 0o644


def test_put_reads_a_fifo_through_a_link_and_among_others(client, files, tmp_path):
    (tmp_path / "before").write_bytes(b"before")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    (tmp_path / "after").write_bytes(b"after")
    with writing(tmp_path / "fifo", b"between"):
        sources = [tmp_path / name for name in ("before", "link", "after")]
        assert client.put(sources, "/d/").done == 3
    got = {path.name: path.read_bytes() for path in (files / "d").iterdir()}
    assert got == {"before": b"before", "link": b"between", "after": b"after"}


def test_put_reads_a_descriptor_that_is_named(client, files):
    read, write = os.pipe()
    try:
        os.write(write, b"from a pipe")
        os.close(write)
        assert client.put([f"/dev/fd/{read}"], "/got").done == 1
        assert os.fstat(read)  # it is still the caller's
    finally:
        os.close(read)
    assert (files / "got").read_bytes() == b"from a pipe"


def test_put_reads_a_descriptor_of_a_file_from_where_it_is(client, files, tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    with open(tmp_path / "f", "rb") as opened:
        os.lseek(opened.fileno(), 4, os.SEEK_SET)
        assert client.put([f"/proc/self/fd/{opened.fileno()}"], "/got").done == 1
    assert (files / "got").read_bytes() == b"456789"


@pytest.mark.parametrize("recursive", [False, True])
def test_put_stores_what_a_file_of_size_0_has(client, files, tmp_path, recursive):
    """As those in /proc: their size says nothing."""
    assert os.stat("/proc/cpuinfo").st_size == 0
    assert client.put(["/proc/cpuinfo"], "/got", recursive=recursive).done == 1
    assert (files / "got").read_bytes().startswith(b"processor")
    assert (files / "got").stat().st_mode & 0o777 == 0o444


def test_put_stores_a_log_that_is_begun_meanwhile(client, files, tmp_path, monkeypatch):
    """Its size was 0 when it was opened: what came since is sent, with the size that it has."""
    log = tmp_path / "log"
    log.write_bytes(b"")
    real_read = os.read

    def read(fd, count):
        if os.path.samestat(os.fstat(fd), log.stat()) and not log.stat().st_size:
            log.write_bytes(b"first line\n")
        return real_read(fd, count)

    monkeypatch.setattr(os, "read", read)
    assert client.put([log], "/log").done == 1
    monkeypatch.undo()
    assert (files / "log").read_bytes() == b"first line\n"
    assert (files / "log").stat().st_mtime_ns == log.stat().st_mtime_ns


def test_put_of_a_named_socket_fails(client, files, tmp_path):
    names = [tmp_path / "socket", tmp_path / "other"]
    with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as other:
        bound.bind(str(names[0]))
        other.bind(str(names[1]))
        for sources in (names[:1], names):
            summary = client.put(sources, "/d/")
            assert (summary.failed, summary.skipped) == (len(sources), 0)
            assert summary.exit_code == 1


def test_special_files_inside_a_tree_are_passed_over(client, files, tmp_path):
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "fifo")
    summary = client.put([tmp_path / "tree"], "/tree", recursive=True)
    assert (summary.skipped, summary.failed, summary.exit_code) == (1, 0, 0)


def test_get_of_a_named_special_file_fails(client, files, tmp_path):
    os.mkfifo(files / "fifo")
    for pattern in ("/fifo", "/fif*"):
        summary = client.get([pattern], tmp_path / "got")
        assert (summary.failed, summary.skipped, summary.exit_code) == (1, 0, 1)


@needs_root
def test_put_of_a_device_is_what_it_gives(client, files, tmp_path):
    null = make_null(tmp_path / "null")
    if not usable(null):
        pytest.skip("no device can be opened here")
    assert client.put([null], "/empty").done == 1
    assert (files / "empty").read_bytes() == b""


def test_put_of_a_terminal_is_what_is_typed(client, files):
    master, slave = os.openpty()
    try:
        os.write(master, b"typed\n\x04")
        assert client.put([os.ttyname(slave)], "/got").done == 1
    finally:
        os.close(slave)
        os.close(master)
    assert (files / "got").read_bytes() == b"typed\n"


# waiting for a writer ----------------------------------------------------------------------


def test_a_fifo_without_a_writer_is_waited_for_and_said_once(client, files, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    class WriteThen(Recording):
        """Writes once it hears that it is waited for."""

        def remark(self, text: str) -> None:
            super().remark(text)
            self.wait = in_thread(lambda: fifo.write_bytes(b"at last"))

    reported = WriteThen()
    assert client.put([fifo], "/got", listener=reported).done == 1
    reported.wait()
    assert reported.remarks == [f"{fifo}: waiting for a writer (Ctrl-C stops)"]
    assert (files / "got").read_bytes() == b"at last"


def test_ctrl_c_ends_the_wait_for_a_writer(server, connect, files, tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    interrupt = Interrupt()

    class Stop(Listener):
        def remark(self, text: str) -> None:
            interrupt.set()

    client = connect(server, interrupt=interrupt)
    with pytest.raises(Interrupted):
        client.put([fifo], "/got", listener=Stop())
    client.settle_interrupt()
    assert client.find("/got") is None
    client.close()
    interrupt.close()


# lost connections --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_what_can_be_read_only_once_is_not_sent_again(server, connect, files, tmp_path, kind):
    """The others are; and the failure says why."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode())
    with Proxy(server.address) as proxy:
        from ftpclient.connection.addresses import ServerAddress

        host, port = proxy.address.rsplit(":", 1)
        options = {"password": "secret", "plaintext": True}
        client = kind(ServerAddress(host, int(port), "alice"), **options)
        try:
            proxy.cut_at("up", 2_000_000)
            reported = Recording()
            wait = in_thread(lambda: write_until_closed(fifo))
            sources = [tmp_path / "one", fifo, tmp_path / "two"]
            summary = client.put(sources, "/d/", listener=reported)
            wait()
        finally:
            client.close()
    assert (summary.done, summary.failed) == (2, 1)
    assert "cannot be read again" in errors(reported)[0] and str(fifo) in errors(reported)[0]
    assert sorted(os.listdir(files / "d")) == ["one", "two"]


@pytest.mark.parametrize("kind", BOTH)
def test_a_lost_fifo_alone_ends_with_4(server, tmp_path, kind):
    from ftpclient.connection.addresses import ServerAddress

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Proxy(server.address) as proxy:
        host, port = proxy.address.rsplit(":", 1)
        client = kind(ServerAddress(host, int(port), "alice"), password="secret", plaintext=True)
        try:
            proxy.cut_after("up", 2_000_000)
            wait = in_thread(lambda: write_until_closed(fifo))
            summary = client.put([fifo], "/got")
            wait()
        finally:
            client.close()
    assert (summary.failed, summary.exit_code) == (1, 4)


def write_until_closed(fifo) -> None:
    """More than is ever read."""
    with open(fifo, "wb", buffering=0) as opened:
        try:
            for _ in range(100_000):
                opened.write(bytes(4096))
        except BrokenPipeError:
            pass


# nothing to send ---------------------------------------------------------------------------


def test_no_empty_refuses_what_has_no_byte(client, files, tmp_path):
    (files / "keep").write_bytes(b"good")
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    reported = Recording()
    assert client.put([tmp_path / "empty"], "/keep", no_empty=True, listener=reported).failed == 1
    with writing(tmp_path / "fifo", b""):
        assert (
            client.put([tmp_path / "fifo"], "/keep", no_empty=True, listener=reported).failed == 1
        )
    read, write = os.pipe()
    os.close(write)
    try:
        assert client.put_stream(read, "/keep", no_empty=True, listener=reported).failed == 1
    finally:
        os.close(read)
    assert [one.error.code for one in reported.results] == ["empty"] * 3
    assert (files / "keep").read_bytes() == b"good"
    (tmp_path / "full").write_bytes(b"x")
    assert client.put([tmp_path / "full"], "/keep", no_empty=True).done == 1
    assert client.put([tmp_path / "empty"], "/keep").done == 1, "without it, empty is good"


def test_no_empty_holds_inside_trees(client, files, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "empty").write_bytes(b"")
    (tmp_path / "tree" / "full").write_bytes(b"x")
    summary = client.put([tmp_path / "tree"], "/t", recursive=True, no_empty=True)
    assert (summary.done, summary.failed) == (1, 1)
    assert os.listdir(files / "t") == ["full"]


def test_a_descriptor_that_is_closed_stores_nothing(server, connect, files):
    """Of AsyncClient, a stream is no descriptor."""
    (files / "keep").write_bytes(b"good")
    client = connect(server)
    reported = Recording()
    assert client.put_stream(1_000_000, "/keep", listener=reported).failed == 1
    assert "bad file descriptor" in errors(reported)[0]
    assert (files / "keep").read_bytes() == b"good"
    assert client.whoami() == "alice", "the session is in step"


def test_standard_input_that_was_closed_is_no_source(client, files, monkeypatch):
    monkeypatch.setattr(standard, "_closed", {0})
    (files / "keep").write_bytes(b"good")
    reported = Recording()
    assert client.put(["/dev/stdin"], "/keep", listener=reported).failed == 1
    assert "standard input is closed" in errors(reported)[0]
    assert (files / "keep").read_bytes() == b"good"


def test_an_async_task_that_waits_for_a_writer_can_be_cancelled(server, connect, tmp_path):
    """The thread that waits ends with its task."""
    import asyncio

    os.mkfifo(tmp_path / "fifo")
    client = connect(server, kind=Blocking)

    async def cancel_it() -> None:
        heard = asyncio.Event()

        class Begun(Listener):
            def started(self, name, size) -> None:
                heard.set()

        task = asyncio.ensure_future(
            client.client.put([tmp_path / "fifo"], "/got", listener=Begun())
        )
        await asyncio.wait_for(heard.wait(), SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    client.run(cancel_it())
    assert client.find("/got") is None
    assert not [one for one in threading.enumerate() if one.name == "transfer"]
