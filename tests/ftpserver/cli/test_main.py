"""`ftpd` as it is typed: what is printed, and the exit status."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime

import pytest
from cryptography import x509

from ftpserver.accounts.accounts import Accounts
from ftpserver.database import open_state
from ftpwire.errors import LoginRefused


def can_log_in(root, name: str, password: str) -> bool:
    engine = open_state(root / ".ftpd")
    try:
        Accounts(engine, root).log_in(name, password)
        return True
    except LoginRefused:
        return False
    finally:
        engine.dispose()


def test_an_account_s_life(ftpd, root):
    status, out, err = ftpd("user", "add", "alice", "--password-stdin", stdin=b"correct-horse\n")
    assert (status, out, err) == (0, "added alice\n", "")
    assert can_log_in(root, "alice", "correct-horse")
    assert ftpd("user", "list")[1] == f"alice\t0\t0\t-\t-\topen\tall\t{root}/alice\n"
    status, out, err = ftpd("user", "passwd", "alice", "--password-stdin", stdin=b"new-password\n")
    assert (status, err) == (0, "")
    assert can_log_in(root, "alice", "new-password") and not can_log_in(
        root, "alice", "correct-horse"
    )
    (root / "alice" / "file").write_text("stays")
    status, out, err = ftpd("user", "remove", "alice")
    assert (status, err) == (0, "") and str(root / "alice") in out
    assert (root / "alice" / "file").read_text() == "stays"
    assert ftpd("user", "list") == (0, "", "")


def test_json(ftpd, root):
    out = ftpd(
        *("user", "add", "alice", "--password-stdin", "--quota", "10MiB", "--json"),
        stdin=b"correct-horse\n",
    )[1]
    expected = {
        "name": "alice",
        "home": str(root / "alice"),
        "total": 10 * 2**20,
        "used": 0,
        "held": 0,
        "free": 10 * 2**20,
        "total_files": 10 * 2**20 // 4096,
        "used_files": 0,
        "trash": 0,
        "trash_files": 0,
        "permissions": ["all"],
        "networks": [],
        "expires": None,
        "disabled": False,
        "max_sessions": None,
        "limit_rate": None,
        "peer_user": None,
        "system_user": None,
        "trash_days": None,
        "trash_max": None,
    }
    found = json.loads(out)
    created = datetime.fromisoformat(found["created"])
    assert abs(created.timestamp() - time.time()) < 60
    expected["created"] = found["created"]
    assert found == expected | {"action": "user-add", "status": "done", "error": None}
    ftpd("user", "add", "bob", "--password-stdin", stdin=b"correct-horse\n")
    lines = ftpd("user", "list", "--json")[1].splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["alice", "bob"]
    assert json.loads(lines[0]) == expected
    assert json.loads(lines[1])["total"] is None
    assert json.loads(ftpd("user", "show", "alice", "--json")[1]) == expected | {
        "tokens": 0,
        "sessions": None,
    }


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        (b"correct-horse\n", "correct-horse"),
        (b"correct-horse", "correct-horse"),
        (b"correct-horse\r\n", "correct-horse"),
        (b" two words \nmore\n", " two words "),
        ("pässword\n".encode(), "pässword"),
    ],
)
def test_the_password_is_one_line_and_the_rest_is_left(ftpd, root, stdin, password):
    assert ftpd("user", "add", "alice", "--password-stdin", stdin=stdin)[0] == 0
    assert can_log_in(root, "alice", password)
    assert ftpd.left == stdin.partition(b"\n")[2]


def test_the_password_from_a_variable(ftpd, root, monkeypatch):
    monkeypatch.setenv("FTPD_PASSWORD", "from the environment")
    assert ftpd("user", "add", "alice")[0] == 0
    assert can_log_in(root, "alice", "from the environment")
    assert ftpd("user", "passwd", "alice", "--password-stdin", stdin=b"from stdin\n")[0] == 0
    assert can_log_in(root, "alice", "from stdin")


@pytest.mark.parametrize(
    ("arguments", "stdin", "status"),
    [
        pytest.param(
            ("user", "add", "Alice", "--password-stdin"), b"correct-horse\n", 1, id="bad-name"
        ),
        pytest.param(("user", "add", "../x", "--password-stdin"), b"correct-horse\n", 1, id="path"),
        pytest.param(("user", "add", "bob", "--password-stdin"), b"correct-horse\n", 1, id="taken"),
        pytest.param(("user", "add", "carol", "--password-stdin"), b"\n", 1, id="empty"),
        pytest.param(("user", "add", "carol", "--password-stdin"), b"", 1, id="nothing"),
        pytest.param(("user", "add", "carol", "--password-stdin"), b"\xff\n", 1, id="no-utf-8"),
        pytest.param(("user", "add", "carol"), b"", 2, id="no-terminal"),
        pytest.param(("user", "show", "nobody"), b"", 5, id="show-nobody"),
        pytest.param(("user", "remove", "nobody"), b"", 5, id="remove-nobody"),
        pytest.param(("user", "passwd", "nobody", "--password-stdin"), b"x\n", 5, id="passwd"),
        pytest.param(("user", "show", "\udcff"), b"", 5, id="show-no-utf-8"),
        pytest.param(("user", "show", "\x1b[31m\n"), b"", 5, id="show-control"),
        pytest.param(("user", "add"), b"", 2, id="no-name"),
        pytest.param(("user", "nonsense"), b"", 2, id="no-command"),
        pytest.param(("user", "add", "x", "--quota", "much"), b"", 2, id="no-size"),
        pytest.param(("user", "add", "x", "--quota", "-1"), b"", 2, id="negative"),
        pytest.param(("user", "add", "x", "--quota", "9" * 30), b"", 2, id="beyond-any-disk"),
        pytest.param(("nonsense",), b"", 2, id="nonsense"),
    ],
)
def test_failures_are_one_line_and_a_status(ftpd, root, arguments, stdin, status):
    ftpd("user", "add", "bob", "--password-stdin", stdin=b"correct-horse\n")
    found, out, err = ftpd(*arguments, stdin=stdin)
    assert found == status
    assert out == ""
    if status != 2:
        assert err.startswith("ftpd: ") and err.count("\n") == 1
        assert err[:-1].isprintable()
    assert sorted(os.listdir(root)) == [".ftpd", "bob"]


def test_a_directory_that_is_handed_over_counts(ftpd, root, tmp_path):
    given = tmp_path / "given"
    (given / "dir").mkdir(parents=True)
    (given / "dir" / "file").write_bytes(b"x" * 1234)
    status, out, err = ftpd(
        *("user", "add", "alice", "--password-stdin", "--home", str(given), "--quota", "1000B"),
        *("--json",),
        stdin=b"correct-horse\n",
    )
    assert (status, err) == (0, "")
    assert json.loads(out)["used"] == 1234
    assert json.loads(out)["free"] == 0


def test_a_home_of_contents_is_not_taken_by_name(ftpd, root):
    (root / "alice").mkdir()
    (root / "alice" / "file").write_text("of another")
    status, _, err = ftpd("user", "add", "alice", "--password-stdin", stdin=b"correct-horse\n")
    assert status == 1 and "--home" in err


def test_a_damaged_accounts_file(ftpd, root):
    (root / ".ftpd").mkdir()
    (root / ".ftpd" / "state.db").write_text("rubbish " * 1000)
    for arguments in (("user", "list"), ("user", "show", "alice")):
        status, out, err = ftpd(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith("ftpd: ") and "state.db" in err and err.count("\n") == 1


def test_the_fingerprint(ftpd, root):
    status, out, err = ftpd("fingerprint")
    assert (status, err) == (0, "")
    assert out.startswith("SHA256:") and len(out) == 51
    assert ftpd("fingerprint")[1] == out


def test_a_request_for_a_certificate(ftpd, root):
    assert ftpd("user", "add", "alice", "--password-stdin", stdin=b"correct-horse\n")[0] == 0
    status, out, err = ftpd("certificate", "request", "files.example.org", "192.0.2.7", "::1")
    assert (status, err) == (0, "")
    requested = x509.load_pem_x509_csr(out.encode())
    assert requested.is_signature_valid
    names = requested.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["files.example.org"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "::1"]
    own = x509.load_pem_x509_certificate((root / ".ftpd" / "tls" / "cert.pem").read_bytes())
    assert requested.public_key() == own.public_key()


@pytest.mark.parametrize(
    "name", ["", "a b", "a-.example", "x" * 64, "ü.example", "https://a.example"]
)
def test_what_no_certificate_can_be_for(ftpd, root, name):
    assert ftpd("user", "add", "alice", "--password-stdin", stdin=b"correct-horse\n")[0] == 0
    status, out, err = ftpd("certificate", "request", name)
    assert (status, out) == (2, "") and "neither a host name nor an address" in err


def test_no_request_for_a_root_that_was_never_started(ftpd, root):
    status, out, err = ftpd("certificate", "request", "files.example.org")
    assert (status, out) == (1, "") and err.startswith("ftpd: ")
    assert not root.exists() or not any(root.iterdir())


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("-h",), ("user", "--help")])
def test_help_and_version(ftpd, arguments):
    status, out, err = ftpd(*arguments, with_root=False)
    assert (status, err) == (0, "") and out
