"""Under systemd: units, telling how things stand, sockets that are handed over."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from ftpserver.daemon import systemd as module
from ftpserver.daemon.server import FtpServer
from ftpserver.daemon.systemd import (
    Installation,
    check_handed,
    inherited_socket,
    installed,
    notify,
    socket_unit,
    unit,
)
from ftpserver.errors import StateError
from ftpserver.settings.table import Settings
from ftpwire.messages import LoggedIn, WhoAmI


def made(**more) -> Installation:
    values = {
        "command": ("/opt/ftpd/bin/ftpd",),
        "root": Path("/srv/files"),
        "config": None,
        "user": "daemon",
        "group": "daemon",
    }
    return Installation(**values | more)


def setting(text: str, name: str) -> str:
    (value,) = [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]
    return value


# units ---------------------------------------------------------------------------------------


def test_the_unit_is_for_this_installation():
    text = unit(made(config=Path("/etc/ftpd.toml"), grace=30.5))
    assert setting(text, "Type") == "notify"
    assert setting(text, "ExecStart") == (
        "/opt/ftpd/bin/ftpd start --root /srv/files --config /etc/ftpd.toml"
    )
    assert setting(text, "ExecReload") == "/opt/ftpd/bin/ftpd reload --root /srv/files"
    assert (setting(text, "User"), setting(text, "Group")) == ("daemon", "daemon")
    assert int(setting(text, "TimeoutStopSec")) > 30
    assert setting(text, "ReadWritePaths") == "/srv/files"
    assert (setting(text, "ProtectHome"), setting(text, "PrivateTmp")) == ("yes", "yes")
    assert setting(text, "CapabilityBoundingSet") == ""


@pytest.mark.parametrize(
    ("more", "name", "value"),
    [
        pytest.param({"port": 21}, "CapabilityBoundingSet", "CAP_NET_BIND_SERVICE", id="low-port"),
        pytest.param({"port": 21}, "AmbientCapabilities", "CAP_NET_BIND_SERVICE", id="ambient"),
        pytest.param({"port": 0}, "CapabilityBoundingSet", "", id="any-port"),
        pytest.param({"root": Path("/home/x/files")}, "ProtectHome", "read-only", id="home"),
        pytest.param({"command": ("/root/venv/ftpd",)}, "ProtectHome", "read-only", id="program"),
        pytest.param({"reads": (Path("/root/key.pem"),)}, "ProtectHome", "read-only", id="key"),
        pytest.param({"root": Path("/var/tmp/files")}, "PrivateTmp", "no", id="tmp"),
        pytest.param({"paths": (Path("/mnt/a"),)}, "ReadWritePaths", "/srv/files /mnt/a", id="own"),
        pytest.param({"root": Path("/a b%c")}, "ReadWritePaths", '"/a b%%c"', id="blank"),
        pytest.param({"root": Path('/a"b\\$c')}, "ReadWritePaths", '"/a\\"b\\\\$c"', id="quotes"),
        pytest.param(
            {"root": Path("/a b$c")},
            "ExecStart",
            '/opt/ftpd/bin/ftpd start --root "/a b$$c"',
            id="command",
        ),
    ],
)
def test_what_a_unit_depends_on(more, name, value):
    assert setting(unit(made(**more)), name) == value


def test_the_socket_unit():
    assert setting(socket_unit(made(port=2121)), "ListenStream") == "2121"


@pytest.mark.parametrize(
    ("host", "listens"),
    [
        (None, "2121"),
        ("127.0.0.1", "127.0.0.1:2121"),
        ("::1", "[::1]:2121"),
        ("[::1]", "[::1]:2121"),
    ],
)
def test_the_socket_unit_has_the_address(tmp_path, host, listens):
    found = installed(tmp_path, None, port=2121, grace=1.0, host=host)
    assert setting(socket_unit(found), "ListenStream") == listens


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/run/ftpd/socket", "RuntimeDirectory", "ftpd"),
        ("/run/ftpd/socket", "ReadWritePaths", "/srv/files"),
        ("/var/run/ftpd/socket", "RuntimeDirectory", "ftpd"),
        ("/var/run/ftpd/socket", "ReadWritePaths", "/srv/files"),
        ("/srv/sockets/ftpd", "ReadWritePaths", "/srv/files /srv/sockets"),
        ("/tmp/ftpd", "PrivateTmp", "no"),
    ],
)
def test_the_unit_lets_it_make_its_unix_socket(path, name, value):
    assert setting(unit(made(unix=Path(path))), name) == value
    assert "RuntimeDirectory" not in unit(made())


def test_an_installed_unit_is_compared(ftpd, root, accounts, tmp_path):
    settings, there = root / ".ftpd" / "ftpd.toml", tmp_path / "ftpd.service"
    settings.write_text("grace = 20\n")
    there.write_text(ftpd("service")[1] + "\n[Service]\nEnvironment=MORE=1\n# Grace=5\n")
    assert ftpd("service", "--check", "--installed", str(there)) == (
        0,
        f"{there}: matches the settings\n",
        "",
    )
    settings.write_text("grace = 90\nport = 21\n")
    status, out, err = ftpd("service", "--installed", str(there))
    assert status == 1 and "print it again" in err
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "TimeoutStopSec",
        "CapabilityBoundingSet",
        "AmbientCapabilities",
    ]
    socket_there = tmp_path / "ftpd.socket"
    settings.write_text('host = "127.0.0.1"\nport = 2121\n')
    socket_there.write_text(ftpd("service", "--socket")[1])
    assert ftpd("service", "--socket", "--installed", str(socket_there))[0] == 0
    socket_there.write_text("[Socket]\nListenStream=2121\n")
    status, out, _ = ftpd("service", "--socket", "--installed", str(socket_there))
    assert status == 1 and "127.0.0.1:2121" in out
    assert ftpd("service", "--installed", str(tmp_path / "none"))[0] == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_it(tmp_path):
    text = unit(made(command=("/bin/true",), root=tmp_path / "a b$c%d", port=21))
    (tmp_path / "ftpd.service").write_text(text)
    verify = ["systemd-analyze", "verify", "--man=no"]  # ftpd(1) may not be installed here
    ran = subprocess.run([*verify, tmp_path / "ftpd.service"], capture_output=True, text=True)
    if "SD_BUS" in ran.stderr or "Failed to" in ran.stderr:
        pytest.skip(ran.stderr)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_whose_the_root_is_runs_it(tmp_path):
    found = installed(tmp_path, None, port=5, grace=1.0, paths=[tmp_path / "in", Path("/mnt/b")])
    assert found.user and found.group and found.command
    assert found.paths == (Path("/mnt/b"),), "what is below the root needs no telling"


def test_who_is_nobody_runs_nothing(tmp_path):
    with pytest.raises(StateError, match="no-such-user-here"):
        installed(tmp_path, None, user="no-such-user-here", port=5, grace=1.0)


def test_a_path_that_no_unit_can_have(tmp_path):
    with pytest.raises(StateError, match="cannot contain such a path"):
        installed(tmp_path / "a\nExecStartPre=evil", None, user="root", port=5, grace=1.0)


# telling how things stand --------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_the_supervisor_is_informed(tmp_path, monkeypatch, abstract):
    name = f"@ftpd-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=listening")
        assert listening.recv(100) == b"READY=1\nSTATUS=listening"


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:5"])
def test_nobody_to_notify(monkeypatch, caplog, address):
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
    assert not caplog.records


def test_a_supervisor_that_is_gone(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")
    assert "cannot be notified" in caplog.text


# sockets that are handed over ----------------------------------------------------------------


def handed(count: str = "1", pid: int | None = None) -> dict[str, str]:
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": "x"}


def test_a_socket_that_is_handed_over_is_served(tmp_path, quick_passwords, dial):
    listening = socket.create_server(("127.0.0.1", 0))
    address, fd = listening.getsockname(), listening.detach()
    os.set_inheritable(fd, True)
    environment = handed()
    listener = inherited_socket(environment, fd)
    assert not environment, "children don't take it for theirs"
    assert not os.get_inheritable(fd)
    with FtpServer(Settings(tmp_path / "root", port=1, plaintext=True), listener) as server:
        assert server.address == f"127.0.0.1:{address[1]}"
        server.accounts.add("alice", "secret")
        with server.running():
            peer = dial(server)
            assert peer.ask(WhoAmI()) == LoggedIn("alice")
            peer.close()


@pytest.mark.parametrize(
    ("bound", "settings", "outcome"),
    [
        pytest.param("0.0.0.0", {"host": "127.0.0.1"}, "refused", id="wider"),
        pytest.param("::", {"host": "::1"}, "refused", id="wider-6"),
        pytest.param("127.0.0.2", {"host": "192.0.2.1"}, "warned", id="another"),
        pytest.param("127.0.0.1", {"host": "127.0.0.1"}, "served", id="same"),
        pytest.param("127.0.0.1", {"host": "localhost"}, "served", id="name"),
        pytest.param("127.0.0.1", {"host": "0.0.0.0"}, "served", id="narrower"),
        pytest.param("::", {"host": "0.0.0.0"}, "refused", id="also-6"),
        pytest.param("::1", {"host": "0.0.0.0"}, "warned", id="other-family"),
        pytest.param("127.0.0.1", {"host": "::"}, "served", id="both-families"),
        pytest.param("127.0.0.1", {}, "served", id="all"),
        pytest.param("0.0.0.0", {}, "served", id="all-all"),
        pytest.param("127.0.0.1", {"port": 1}, "warned", id="port"),
        pytest.param("127.0.0.1", {"no_tcp": True}, "refused", id="no-tcp"),
    ],
)
def test_a_socket_that_the_settings_do_not_mean(bound, settings, outcome):
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    values = {"port": 0} | settings
    with socket.create_server((bound, 0), family=family) as listening:
        if outcome == "refused":
            with pytest.raises(StateError, match="handed over.*ftpd service"):
                check_handed(listening, Settings(Path("/srv"), **values))
        else:
            reported = check_handed(listening, Settings(Path("/srv"), **values))
            assert len(reported) == (outcome == "warned")


def test_a_server_does_not_serve_at_a_wider_address(tmp_path):
    listening = socket.create_server(("0.0.0.0", 0))
    settings = Settings(tmp_path / "root", host="127.0.0.1", port=0, plaintext=True)
    with pytest.raises(StateError, match=r"0\.0\.0\.0.*host 127\.0\.0\.1"):
        FtpServer(settings, listening)
    assert listening.fileno() == -1


def test_a_start_that_fails_closes_it(tmp_path):
    (tmp_path / "root").write_text("")
    listening = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(StateError):
        FtpServer(Settings(tmp_path / "root", plaintext=True), listening)
    assert listening.fileno() == -1


@pytest.mark.parametrize(
    "environment",
    [{}, handed(pid=1), handed("0"), handed("x"), {"LISTEN_FDS": "1"}],
    ids=["none", "of-another", "zero", "rubbish", "no-pid"],
)
def test_none_is_handed_over(environment):
    assert inherited_socket(environment, -1) is None


def _unix() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    return sock


def _datagram() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _silent() -> socket.socket:
    return socket.socket(socket.AF_INET)


@pytest.mark.parametrize("make", [_unix, _datagram, _silent])
def test_what_can_not_be_served(make):
    with make() as sock:
        with pytest.raises(StateError, match="not a listening TCP socket"):
            inherited_socket(handed(), sock.fileno())
        assert sock.fileno() >= 0


def test_more_than_one():
    with pytest.raises(StateError, match="3 sockets"):
        inherited_socket(handed("3"), -1)


def test_what_is_no_socket(tmp_path):
    with open(tmp_path / "file", "w") as file:
        with pytest.raises(StateError, match="no socket"):
            inherited_socket(handed(), file.fileno())


def test_the_command_is_this_ftpd(monkeypatch, tmp_path):
    program = tmp_path / "ftpd"
    program.touch(0o755)
    monkeypatch.setattr("sys.argv", [str(program)])
    assert module._command() == (str(program),)
    monkeypatch.setattr("sys.argv", ["-c"])
    assert module._command()[1] == "-c"


def test_roots_unit_for_isolated_sessions_lets_them_become_others():
    text = unit(made(user="root", isolated=True, port=21))
    bounding = setting(text, "CapabilityBoundingSet").split()
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT", "CAP_NET_BIND_SERVICE"} <= set(bounding)
    assert "CAP_SYS_ADMIN" not in bounding and "CAP_SYS_PTRACE" not in bounding
    assert setting(text, "AmbientCapabilities") == ""
    assert "chroot" in setting(text, "SystemCallFilter").split()
    assert setting(text, "RestrictNamespaces") == "yes"


def test_a_plain_users_unit_for_isolated_sessions_has_no_more_rights():
    text = unit(made(isolated=True))
    assert setting(text, "CapabilityBoundingSet") == ""
    assert setting(text, "RestrictNamespaces").split() == ["user", "net", "ipc"]
    assert "chroot" in setting(text, "SystemCallFilter").split()
    assert setting(unit(made()), "RestrictNamespaces") == "yes"
    assert "landlock_restrict_self" in setting(text, "SystemCallFilter").split()
