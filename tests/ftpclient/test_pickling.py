"""A client is pickled by its arguments, and its copy connects by itself."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from ftpclient import Client, KnownHosts


def test_the_copy_connects_anew(server, client, files):
    client.make_dir("/dir")
    client.change_dir("/dir")
    client.limit_rate = 10**9
    twin = pickle.loads(pickle.dumps(client))
    assert not twin.connected
    try:
        twin.write("a", b"of the copy")
        assert (twin.cwd, twin.limit_rate, twin.user) == (b"/dir", 10**9, "alice")
        assert twin.connection is not client.connection
    finally:
        twin.close()
    assert client.read("/dir/a") == b"of the copy"


def test_all_arguments_are_kept(tmp_path):
    client = Client(
        "bob@files.example.net:7",
        password="secret of bob",
        plaintext=True,
        accept_new=True,
        known_hosts=tmp_path / "pins",
        ca=tmp_path / "ca.pem",
        fingerprint="SHA256:" + "a" * 43,
        retry_for=7.0,
        retries=3,
        password_tries=2,
        saved_token=False,
        remark=lambda text: None,
        ask=lambda endpoint, fingerprint: True,
    )
    twin = pickle.loads(pickle.dumps(client))
    assert twin._arguments.keys() == client._arguments.keys()
    assert twin._arguments["known_hosts"].path == tmp_path / "pins"
    for name, value in client._arguments.items():
        if name != "known_hosts":
            assert twin._arguments[name] == value, name
    assert twin.address == client.address
    assert isinstance(client._arguments["known_hosts"], KnownHosts)


def test_the_server_and_the_user_are_those_of_the_original(monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "files.example.net:7")
    monkeypatch.setenv("LOGNAME", "somebody")
    pickled = pickle.dumps(Client())
    monkeypatch.setenv("FTP_SERVER", "elsewhere.example.net")
    monkeypatch.setenv("LOGNAME", "else")
    assert str(pickle.loads(pickled).address) == "somebody@files.example.net:7"


def test_a_password_that_is_asked_for_has_to_be_found_by_name():
    assert pickle.loads(pickle.dumps(Client("a@b", password=input)))._arguments["password"] is input
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(Client("a@b", password=lambda: "secret"))


def test_copies_share_no_connection(client):
    twin = copy.copy(client)
    assert not twin.connected
    twin.close()
    assert client.whoami() == "alice"


def test_another_process_can_use_it(client, files):
    code = (
        "import pickle, sys\n"
        "with pickle.load(sys.stdin.buffer) as client:\n"
        "    client.write('/a', b'of the child')\n"
        "    print(client.whoami())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(client), capture_output=True, check=True
    )
    assert done.stdout == b"alice\n"
    assert (files / "a").read_bytes() == b"of the child"
