"""What goes wrong, and how it is told: one line, the right exit status, never a traceback."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import ssl
import stat
import subprocess

import pytest

from ftpwire import frames, messages
from ftpwire.frames import HEADER, Kind
from ftpwire.messages import Entry, Failed, Found, Get, Hello, Listed, Page, Sending, Sent, Stat
from tests.peer import FakeServer, Peer
from tests.system import trees
from tests.system.programs import PATIENCE, User, finish
from tests.system.proxy import Proxy
from tests.system.test_start import bow_to_modes, modes_are_obeyed

KIB, MIB = 2**10, 2**20


def told(ended):
    """The one complaint, which has the form of all of them."""
    assert ended.complaint.startswith("ftp: ") and ended.complaint.isprintable()
    return ended.complaint


def told_as_json(user, *arguments, status):
    """The one complaint with --json."""
    ended = user.run("--json", *arguments, status=status)
    record = json.loads(ended.complaint)
    assert {"error", "message"} <= set(record)
    return record


# 2: usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["nosuch"], id="no-such-command"),
        pytest.param(["--nosuch", "ls"], id="no-such-option"),
        pytest.param(["ls", "--nosuch"], id="no-such-option-of-it"),
        pytest.param(["put"], id="no-source"),
        pytest.param(["mv", "one"], id="no-target"),
        pytest.param(["whoami", "extra"], id="too-many"),
        pytest.param(["mkdir", "-m", "999", "d"], id="no-mode"),
        pytest.param(["-s", "user@host:99999", "ls"], id="no-port"),
        pytest.param(["-s", "two words", "ls"], id="no-address"),
        pytest.param(["-s", "@host", "ls"], id="no-user"),
        pytest.param(["-s", "[::1", "ls"], id="open-bracket"),
    ],
)
def test_wrong_usage(user, arguments):
    told(user.run(*arguments, status=2))
    if not arguments[0].startswith("-"):
        assert told_as_json(user, *arguments, status=2)["error"] == "usage"


def test_no_command_shows_the_help(user):
    user.options = ()

    assert user.run(status=2).err.startswith("Usage: ftp")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["put", "--help"]])
def test_help_and_version(user, arguments):
    assert user.run(*arguments).out


# 3: log-in refused -------------------------------------------------------------------------


def test_a_wrong_name_and_a_wrong_password_are_told_alike(any_user):
    any_user.password += "x"
    wrong_password = told(any_user.run("ls", status=3))
    any_user.name = "nobody"
    wrong_name = told(any_user.run("ls", status=3))

    assert wrong_name == wrong_password
    assert told_as_json(any_user, "ls", status=3)["error"] == "login-refused"


@pytest.mark.parametrize(
    "password",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 1024, id="longest"),
        pytest.param("x" * 5000, id="too-long"),
        pytest.param("\udcff", id="not-utf-8"),
        pytest.param("\x1b[31m\n", id="control"),
    ],
)
def test_passwords_that_are_refused(user, password):
    user.password = password

    told(user.run("ls", status=3))


@pytest.mark.parametrize("name", ["", "x" * 64, "x" * 3000, "\udcff", "\x1b[31m", "Alice", ".."])
def test_names_that_are_refused(user, name):
    server = user.server
    user.name = name or "empty"
    told(user.run("-s", f"{user.name}@{server}", "ls", status=3))


@pytest.mark.needs("network")
def test_no_password_and_nobody_to_ask(user):
    class Silent(User):
        @property
        def settings(self):
            return {k: v for k, v in super().settings.items() if k != "FTP_PASSWORD"}

    silent = Silent(**vars(user))

    assert "FTP_PASSWORD" in told(silent.run("ls", status=3))


# 4: no connection --------------------------------------------------------------------------


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["put", "/dev/null", "x"], ["put", "-", "x"], ["get", "x"], ["get", "x", "-"],
     ["cat", "x"], ["rm", "x"], ["df"], ["hash", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_a_dead_server(user, arguments):
    user.server = f"127.0.0.1:{closed_port()}"

    assert "refused" in told(user.run(*arguments, status=4))


def test_a_dead_server_as_json(user):
    user.server = f"127.0.0.1:{closed_port()}"

    assert told_as_json(user, "ls", status=4)["error"] == "connect-failed"


def test_an_unknown_name(user):
    user.server = "no.such.host.invalid:1234"

    assert "no.such.host.invalid" in told(user.run("ls", status=4))


@pytest.mark.parametrize("options", [["--accept-new"], ["--plaintext"]], ids=["tls", "plain"])
def test_a_server_that_closes_at_once(user, options):
    user.options = tuple(options)
    with FakeServer(lambda peer: None) as server:
        user.server = f"127.0.0.1:{server.port}"

        text = told(user.run("ls", status=4))

        assert text.endswith(", 5 times: perhaps it has too many connections now")
        assert server.connections > 1  # it may have been busy: tried again


@pytest.mark.needs("tls")
def test_tls_where_none_is_spoken(shared_plain_server, user):
    user.server = shared_plain_server.address

    assert "--plaintext" in told(user.run("ls", status=4))


# 5: not found ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "/none"],
        ["ls", "/none/below"],
        ["stat", "/none"],
        ["cat", "/none"],
        ["hash", "/none"],
        ["du", "/none"],
        ["get", "/none"],
        ["get", "-r", "/none", "x/"],
        ["get", "/none", "-"],
        ["rm", "/none"],
        ["rm", "-r", "/none"],
        ["mv", "/none", "/other"],
        ["cp", "/none", "/other"],
        ["mkdir", "/none/below"],
        ["put", "none"],
        ["put", "-r", "none", "/x/"],
        ["put", "/dev/null", "/none/below/x"],
    ],
    ids=" ".join,
)
def test_nothing_there(user, arguments):
    if arguments[:2] == ["put", "/dev/null"]:
        (user.home / "file").write_bytes(b"x")
        arguments = ["put", "file", "/none/below/x"]
    assert "no such" in told(user.run(*arguments, status=5))
    if arguments[0] not in ("put", "get"):  # those tell it as the file's own end
        assert told_as_json(user, *arguments, status=5)["error"] == "not-found"


# 6: not permitted --------------------------------------------------------------------------


def test_what_the_modes_forbid(start_server):
    if not modes_are_obeyed():
        pytest.skip("this user's files have no modes that count")
    server = start_server(preexec_fn=bow_to_modes)
    alice = server.first_user()
    alice.run("put", "-", "closed", given=b"secret")
    alice.run("mkdir", "sealed")
    (server.home() / "closed").chmod(0)
    (server.home() / "sealed").chmod(0o555)
    try:
        told(alice.run("cat", "closed", status=6))
        told(alice.run("get", "closed", status=6))
        told(alice.run("put", "-", "sealed/new", status=6, given=b"x"))
        told(alice.run("mkdir", "sealed/new", status=6))
        assert told_as_json(alice, "hash", "closed", status=6)["error"] == "forbidden"
        assert os.listdir(server.home() / "sealed") == []
        assert os.listdir(alice.home) in ([], ["config"])
    finally:
        (server.home() / "sealed").chmod(0o755)


def test_what_local_modes_forbid(user, tmp_path):
    if not modes_are_obeyed():
        pytest.skip("this user's files have no modes that count")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "open").write_bytes(b"x")
    (tmp_path / "tree" / "closed").write_bytes(b"secret")
    (tmp_path / "tree" / "closed").chmod(0)
    (tmp_path / "sealed").mkdir(mode=0o555)

    put = user.start("put", "-r", tmp_path / "tree", "/tree", preexec_fn=bow_to_modes)
    assert "closed" in told(finish(put, status=1))
    assert trees.names(user.on_server / "tree") == {b"open"}
    put = user.start("put", tmp_path / "tree" / "closed", "/c", preexec_fn=bow_to_modes)
    told(finish(put, status=6))
    get = user.start("get", "/tree/open", tmp_path / "sealed", preexec_fn=bow_to_modes)
    told(finish(get, status=6))
    assert os.listdir(tmp_path / "sealed") == []


# 7: no room --------------------------------------------------------------------------------


def test_too_much_is_refused_before_it_is_sent(start_server, tmp_path):
    server = start_server()
    bob = server.add_user("bob", "--quota", "8MiB")
    (tmp_path / "large").write_bytes(os.urandom(9 * MIB))
    with Proxy(server.reached) as proxy:
        far = bob.at(proxy.address)
        complaint = told(far.run("put", tmp_path / "large", "/large", status=7))
        assert proxy.passed("up") < 64 * KIB
    bob.run("put", "-", "/half", given=bytes(5 * MIB))
    record = told_as_json(bob, "cp", "/half", "/other", status=7)
    bob.run("rm", "/half")

    assert "quota" in complaint
    assert (record["error"], record["needed"], record["free"]) == ("quota", 5 * MIB, 3 * MIB)
    assert trees.names(server.home("bob")) <= {b".ftpd-staging", b".ftpd-staging/lock"}
    assert bob.run("--json", "df").record["free"] == 8 * MIB


def test_an_overwrite_needs_room_beside_the_old_file(start_server, tmp_path):
    server = start_server()
    bob = server.add_user("bob", "--quota", "10MiB")
    bob.run("put", "-", "file", given=b"a" * 6 * MIB)

    told(bob.run("put", "-", "file", status=7, given=b"b" * 6 * MIB))
    assert (server.home("bob") / "file").read_bytes() == b"a" * 6 * MIB
    bob.run("put", "-", "file", given=b"c" * 4 * MIB)
    assert (server.home("bob") / "file").read_bytes() == b"c" * 4 * MIB
    bob.run("rm", "file")
    bob.run("put", "-", "file", given=b"d" * 10 * MIB)
    assert bob.run("--json", "df").record["free"] == 0
    bob.run("put", "-", "empty", given=b"")
    told(bob.run("put", "-", "one", status=7, given=b"1"))


def make_many(directory, count):
    for number in range(count):
        (directory / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (directory / str(number % 7) / str(number)).write_bytes(os.urandom(5000))


def test_a_tree_that_cannot_fit_is_refused_or_fills_the_quota_to_the_brim(start_server, tmp_path):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    make_many(tmp_path / "tree", 300)

    ended = bob.run("--json", "put", "-r", tmp_path / "tree", "/tree", status=None)

    assert ended.status in (1, 7)
    # what was told as done is there, whole; what wasn't isn't
    done = {r["destination"] for r in ended.records if r.get("status") == "done"}
    there = [path for path in server.home("bob").glob("tree/*/*")]
    assert {f"/{path.relative_to(server.home('bob'))}" for path in there} == done
    for path in there:
        assert path.read_bytes() == (tmp_path / path.relative_to(server.home("bob"))).read_bytes()
    room = bob.run("--json", "df").record
    assert room["used"] <= MIB and room["held"] == 0
    bob.run("rm", "-rf", "/tree")
    assert bob.run("--json", "df").record["free"] == MIB


@pytest.mark.telling
def test_two_at_once_never_take_more_than_the_quota(start_server, tmp_path):
    """Each tree fits by itself, and both don't."""
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    make_many(tmp_path / "tree", 150)

    puts = [bob.start("--json", "put", "-r", tmp_path / "tree", f"/{n}") for n in range(2)]
    ended = [finish(running, status=None) for running in puts]

    assert {run.status for run in ended} <= {0, 1, 7} and {run.status for run in ended} != {0}
    done = {r["destination"] for run in ended for r in run.records if r.get("status") == "done"}
    there = [path for number in "01" for path in server.home("bob").glob(f"{number}/*/*")]
    assert {f"/{path.relative_to(server.home('bob'))}" for path in there} == done
    assert {path.stat().st_size for path in there} == {5000}
    room = bob.run("--json", "df").record
    assert room["used"] == 5000 * len(there) <= MIB and room["held"] == 0


def test_a_pipe_that_is_too_long(start_server):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")

    ended = bob.run("put", "-", "piped", status=7, given=b"x" * 3 * MIB)

    told(ended)
    assert not (server.home("bob") / "piped").exists()
    assert bob.run("--json", "df").record["free"] == MIB


# 8: damaged --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, MIB, 6 * MIB])
def test_a_file_that_rotted_on_the_server_is_not_handed_out(user, tmp_path, size):
    user.run("put", "-", "/file", given=os.urandom(size))
    rotting = user.on_server / "file"
    info = rotting.stat()
    with open(rotting, "r+b") as file:
        file.seek(size // 2)
        file.write(b"rot!")
    os.utime(rotting, ns=(info.st_atime_ns, info.st_mtime_ns))
    (tmp_path / "back").write_bytes(b"old")

    for command in (["get", "/file", tmp_path / "back"], ["cat", "/file"]):
        failed = user.run(*command, status=8)
        told(failed)
        assert "on the server's disk" in failed.err

    assert (tmp_path / "back").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


@pytest.mark.parametrize("size", [1000, MIB, 6 * MIB])
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_byte_that_changed_on_the_way_is_noticed(user_without_tls, tmp_path, verb, size):
    user = user_without_tls
    (tmp_path / "source").write_bytes(os.urandom(size))
    (tmp_path / "target").write_bytes(b"old")
    user.run("put", tmp_path / "source", "/there")
    with Proxy(user.server) as proxy:
        far = user.at(proxy.address)
        if verb == "put":
            user.run("put", "-", "/target", given=b"old")
            proxy.flip("up", 600 + size // 2)
            told(far.run("put", tmp_path / "source", "/target", status=8))
            assert (user.on_server / "target").read_bytes() == b"old"
        else:
            proxy.flip("down", 600 + size // 2)
            told(far.run("get", "/there", tmp_path / "target", status=8))
            assert (tmp_path / "target").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


@pytest.mark.needs("tls")
def test_a_byte_that_changed_inside_tls_is_noticed(user, tmp_path):
    (tmp_path / "source").write_bytes(os.urandom(MIB))
    with Proxy(user.server) as proxy:
        proxy.flip("up", 500_000)
        told(user.at(proxy.address).run("put", "--retries=0", tmp_path / "source", "/t", status=4))

    assert not (user.on_server / "t").exists()


# 9: the server's key -----------------------------------------------------------------------


@pytest.mark.needs("tls")
def test_an_unknown_server(user):
    user.options = ()

    complaint = told(user.run("ls", status=9))

    assert "SHA256:" in complaint and "--accept-new" in complaint
    assert told_as_json(user, "ls", status=9)["error"] == "host-unknown"
    user.run("ls", "--accept-new")
    user.run("ls")
    hosts = user.home / "config" / "ftp-client" / "known_hosts"
    assert hosts.read_text().startswith(f"{user.server} SHA256:")
    assert stat.S_IMODE(hosts.stat().st_mode) == 0o600


@pytest.mark.needs("tls")
def test_a_changed_key(start_server):
    first = start_server()
    alice = first.first_user()
    alice.run("put", "-", "kept", given=b"kept")
    first.stop()
    shutil.rmtree(first.root / ".ftpd" / "tls")
    second = start_server(port=first.port)
    key = second.announced[1].split()[-1]
    assert key != first.announced[1].split()[-1]

    for options in ((), ("--accept-new",)):
        alice.options = options
        complaint = told(alice.run("ls", status=9))
        assert "CHANGED" in complaint and key in complaint
        assert f"ftp forget {second.address}" in complaint
    assert told_as_json(alice, "ls", status=9)["error"] == "host-key-changed"
    assert "logged in" not in second.log and "refused" not in second.log  # no password went out

    alice.run("forget", second.address)
    assert alice.run("cat", "kept").out == b"kept"


def test_forgetting_a_server_that_was_never_known(user):
    told(user.run("forget", "elsewhere:1", status=5))


# 10: protocol and version ------------------------------------------------------------------


@pytest.mark.needs("tls")
def test_plaintext_where_tls_is_spoken(user):
    user.options = ("--plaintext",)

    assert "without --plaintext" in told(user.run("ls", status=10))


def refuse_version(peer):
    peer.read()
    peer.frame(Kind.ERROR, 0, Failed("version", "the client speaks 1, this server 7\x1b[31m"))
    peer.rest()


def speak_gibberish(peer):
    peer.read()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
    peer.rest()


def announce_too_much(peer):
    peer.read()
    peer.send(HEADER.pack(2**32 - 1, Kind.REPLY, 0), b"x" * 100)
    peer.rest()


def say_no_hello(peer):
    peer.read()
    peer.frame(Kind.REPLY, 0, b"FTPW" + messages.encode(Stat(b"/")))
    peer.rest()


def answer_what_nobody_asked(peer):
    peer.greet()
    request = peer.read()
    peer.reply(request.request_id + 7, Listed())
    peer.rest()


def send_bytes_unasked(peer):
    peer.greet()
    peer.frame(Kind.DATA, 77, b"x" * 100)
    peer.rest()


@pytest.mark.parametrize(
    "script",
    [
        refuse_version,
        speak_gibberish,
        announce_too_much,
        say_no_hello,
        answer_what_nobody_asked,
        send_bytes_unasked,
    ],
)
def test_a_server_that_breaks_the_protocol(user, script):
    user.options = ("--plaintext",)
    with FakeServer(script) as server:
        user.server = f"127.0.0.1:{server.port}"

        told(user.run("ls", status=10))


def hostile(names):
    """A server whose listings name what no directory can hold."""

    def script(peer):
        peer.greet()
        while True:
            request = peer.read()
            if request.kind != Kind.REQUEST:
                continue
            asked = request.message
            if isinstance(asked, Stat):
                peer.reply(request, Found(Entry(asked.path, "dir", 0, 0o755, 0)))
            elif isinstance(asked, Get):
                peer.reply(request, Sending(4, 0o644, 0))
                peer.frame(Kind.DATA, request.request_id, b"evil")
                peer.frame(Kind.END, request.request_id, Sent(4))
            else:
                entries = [Entry(name, "file", 4, 0o644, 0) for name in names]
                peer.reply(request, Page(entries))
                peer.frame(Kind.END, request.request_id, Listed())

    return script


@pytest.mark.parametrize(
    "name",
    [b"../evil", b"/evil", b"..", b".", b"", b"a/../../evil", b"sub/evil", b"nul\0", b"x" * 256],
    ids=repr,
)
def test_a_server_that_names_what_no_directory_holds(user, tmp_path, name):
    user.options = ("--plaintext",)
    with FakeServer(hostile([name])) as server:
        user.server = f"127.0.0.1:{server.port}"

        ended = user.run("get", "-r", "/tree", tmp_path / "a" / "b", status=None)
        (tmp_path / "a").mkdir()
        ended = user.run("get", "-r", "/tree", tmp_path / "a" / "b", status=None)

    assert ended.status in (1, 10) and ended.err
    assert b"evil" not in {path.rpartition(b"/")[2] for path in trees.names(tmp_path)}


def test_a_server_that_talks_in_escapes(user):
    def script(peer):
        peer.greet()
        while True:
            peer.reply(peer.read(), Failed("\x1b[31mcode", "\x1b]0;owned\x07\nftp: all is well\r"))

    user.options = ("--plaintext",)
    with FakeServer(script) as server:
        user.server = f"127.0.0.1:{server.port}"

        told(user.run("df", status=1))


# strangers on the server's port ------------------------------------------------------------


def http_request():
    return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def frame_of(data):
    """The first frame in what a server said before it closed."""
    size, kind, request_id = HEADER.unpack(data[: HEADER.size])
    return kind, data[HEADER.size : HEADER.size + size]


def until_closed(connection):
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


@pytest.mark.needs("tls")
@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
def test_other_protocols_are_answered_and_closed(
    shared_server, shared_plain_server, user, plaintext
):
    server = shared_plain_server if plaintext else shared_server
    sent = {
        "http": http_request(),
        "ssh": b"SSH-2.0-OpenSSH_9.2\r\n" + b"\0" * 100,
        "ftp": b"USER anonymous\r\nPASS guest\r\n",
        "zeros": bytes(1000),
        "hello": frames.frame(Kind.REQUEST, 0, b"FTPX" + messages.encode(Hello())),
    }
    for data in sent.values():
        with server.connection() as connection:
            connection.sendall(data)
            kind, payload = frame_of(until_closed(connection))
        assert kind == Kind.ERROR
        assert messages.decode_failed(payload).message.isprintable()
    user.run("ls")


def test_tls_on_a_plain_server_is_answered_and_closed(shared_plain_server):
    context = ssl.create_default_context()
    with shared_plain_server.connection() as connection:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(connection, server_hostname="localhost")


@pytest.mark.needs("tls")
def test_old_tls_is_refused(shared_server, user):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with shared_server.connection() as connection:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(connection)
    user.run("ls")


def test_another_version_is_refused_with_both_named(shared_plain_server):
    with Peer.connect(("127.0.0.1", shared_plain_server.port)) as peer:
        peer.frame(Kind.REQUEST, 0, messages.encode_hello(Hello(version=7)))
        (answer,) = peer.rest()

    assert answer.message.code == "version"
    assert "7" in answer.message.message and "1" in answer.message.message


def test_nothing_is_open_before_log_in(shared_plain_server):
    with Peer.connect(("127.0.0.1", shared_plain_server.port)) as peer:
        peer.hello()
        for request in (Stat(b"/"), messages.List(b"/"), Get(b"/x"), messages.Space()):
            assert peer.ask(request).code == "not-logged-in"


# several at once, and what surrounds a command ---------------------------------------------


def test_one_of_several_that_fails_makes_it_1(user):
    user.run("put", "-", "/there", given=b"x")

    assert user.run("cat", "/none", "/there", status=1).out == b"x"
    assert "/none" in told(user.run("stat", "/there", "/none", status=1))
    told_twice = user.run("cat", "/none", "/nil", status=5)
    assert len(told_twice.err.splitlines()) == 2


def test_debug_shows_where_an_error_is_from(user):
    user.password = "wrong"
    running = user.start("--debug", "ls")
    _, err = running.communicate(timeout=PATIENCE)

    assert err.startswith(b"Traceback")
    assert err.splitlines()[-1].startswith(b"ftp: ")
    assert running.returncode == 3
    assert b"wrong" not in err.replace(b"wrong user name or password", b"")


def test_output_that_cannot_be_written(user):
    user.run("put", "-", "/large", given=bytes(MIB))
    for arguments in (["ls"], ["cat", "/large"], ["--json", "stat", "/large"]):
        with open("/dev/full", "wb") as full:
            running = user.start(*arguments, stdout=full)
            ended = finish(running, status=7)
        assert "full" in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.needs("tls")  # there is nothing else to be written down
def test_settings_that_cannot_be_written(user):
    (user.home / "config").write_bytes(b"a file where a directory belongs")

    told(user.run("ls", status=1))


def test_settings_are_not_needed_without_tls(user_without_tls):
    (user_without_tls.home / "config").write_bytes(b"a file where a directory belongs")

    user_without_tls.run("ls")


def test_a_full_house_of_errors_leaves_the_server_well(start_server):
    """Everything above at once, and then an orderly end with right books."""
    server = start_server()
    alice = server.first_user()
    wrong = server.user("alice", "wrong")
    with server.connection() as silent, server.connection() as rude:
        rude.sendall(http_request())
        silent.sendall(b"\x16\x03\x01")
        wrong.run("ls", status=3)
        alice.run("cat", "/none", status=5)
        alice.run("put", "-", "/fine", given=b"fine")
    assert alice.run("cat", "/fine").out == b"fine"


# standard streams that are closed ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        pytest.param("ls / 2>&-", 0, b"", b"", id="stderr"),
        pytest.param("ls /nope 2>&-", 5, b"", b"", id="stderr-and-an-error"),
        pytest.param("whoami <&-", 0, None, b"", id="stdin"),
        pytest.param(
            "whoami >&-", 1, b"", b"ftp: standard output: bad file descriptor\n", id="stdout"
        ),
        pytest.param(
            "whoami >/dev/full", 7, b"", b"ftp: standard output: the disk is full\n", id="full"
        ),
        pytest.param("whoami >&- 2>&- <&-", 1, b"", b"", id="all"),
    ],
)
def test_closed_standard_streams(user, words, status, out, err):
    """No connection gets their descriptors, where a complaint would be written to it."""
    command = shlex.join(user.command())
    finished = subprocess.run(
        ["/bin/sh", "-c", f"{command} {words}"],
        env=user.settings,
        cwd=user.home,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert finished.returncode == status, finished
    assert finished.stderr == err
    assert finished.stdout == (f"{user.name}\n".encode() if out is None else out)


# servers that are something else ----------------------------------------------------------


@pytest.mark.parametrize("plaintext", [True, False], ids=["plaintext", "tls"])
@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 FTP server ready\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["ssh", "ftp", "http"],
)
def test_a_server_of_another_kind(programs, tmp_path, greeting, plaintext):
    """It is told what is there, not how the bytes could not be read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        user = User(programs, tmp_path / "home", "alice", "secret", address)
        process = user.start(*(["--plaintext"] if plaintext else []), "ls")
        peer, _ = listener.accept()
        with peer:
            peer.sendall(greeting + b"x" * 100)
            finished = finish(process, status=10 if plaintext else 4)
    assert "is it an ftpd" in finished.complaint
    assert address in finished.complaint
