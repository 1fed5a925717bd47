"""Saved servers: names, the default, and what -s and FTP_SERVER mean."""

from __future__ import annotations

import threading

import pytest

from ftpclient.connection.addresses import BadAddress, ServerAddress
from ftpclient.connection.credentials import SavedTokens
from ftpclient.connection.servers import SavedServers, Server, check_name, choose
from ftpwire.errors import CommandError, NotFound

HOME = Server(ServerAddress("home.example", 1234, "alice"))
WORK = Server(ServerAddress("work.example", 99, "bob"), plaintext=True)


@pytest.fixture
def saved(tmp_path) -> SavedServers:
    return SavedServers()


def path(saved):
    return saved._file.path


def test_without_any_it_is_the_local_machine(saved):
    assert choose(None) == Server(ServerAddress("localhost"))
    assert not path(saved).exists()


def test_settings_that_can_not_be_are_none(saved):
    path(saved).parent.parent.mkdir(parents=True)
    path(saved).parent.write_text("a file where the directory belongs")
    assert choose("alice@home.example") == HOME
    assert SavedTokens().get(HOME.address) is None


def test_the_environment_names_one(saved, monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "")
    assert choose(None) == Server(ServerAddress("localhost"))
    monkeypatch.setenv("FTP_SERVER", "alice@example.net:99")
    assert choose(None) == Server(ServerAddress("example.net", 99, "alice"))
    monkeypatch.setenv("FTP_SERVER", "no server")
    with pytest.raises(BadAddress):
        choose(None)


def test_the_last_one_saved_is_the_default(saved):
    saved.save(HOME)
    assert choose(None) == HOME
    saved.save(WORK, "work")
    assert choose(None) == WORK


def test_a_name_stands_for_its_server(saved, monkeypatch):
    saved.save(WORK, "work")
    saved.save(HOME)
    assert choose("work") == WORK
    monkeypatch.setenv("FTP_SERVER", "work")
    assert choose(None) == WORK
    assert choose("alice@home.example") == HOME, "-s comes before the environment"


def test_what_is_no_name_is_an_address(saved):
    saved.save(WORK, "work")
    assert choose("Work") == Server(ServerAddress("Work"))
    with pytest.raises(BadAddress):
        choose("no server")


def test_an_address_is_known_to_be_plain(saved):
    saved.save(WORK)
    assert choose("bob@work.example:99").plaintext
    assert not choose("alice@work.example:99").plaintext, "somebody else's"
    assert not choose("bob@work.example").plaintext, "another port"


def test_a_name_can_move_to_another_server(saved):
    saved.save(WORK, "it")
    saved.save(HOME, "it")
    assert choose("it") == HOME


@pytest.mark.parametrize("name", ["", "-x", "a b", "a@b", "a:1", ".", "../x", "x" * 65, "ä", "a\n"])
def test_what_is_no_name(saved, name):
    with pytest.raises(BadAddress):
        check_name(name)
    with pytest.raises(BadAddress):
        saved.save(HOME, name)
    assert not path(saved).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"servers": 1}', '{"servers": {"x": {}}}', "\xff", '{"default": 5}']
)
def test_a_damaged_file_is_reported_and_kept(saved, text):
    path(saved).parent.mkdir(parents=True)
    path(saved).write_bytes(text.encode("latin-1"))
    for use in (lambda: choose(None), lambda: choose("work"), lambda: saved.save(HOME)):
        with pytest.raises(CommandError) as caught:
            use()
        assert str(caught.value).startswith(f"{path(saved)}: ")
        assert str(caught.value).isprintable()
    assert path(saved).read_bytes() == text.encode("latin-1")


def test_fields_of_later_versions_do_no_harm(saved):
    path(saved).parent.mkdir(parents=True)
    path(saved).write_text(
        '{"later": 1, "default": "x", "servers": {"x": {"address": "h", "colour": 2}}}'
    )
    assert choose(None).address.host == "h"


def test_a_default_that_is_gone_is_none(saved):
    path(saved).parent.mkdir(parents=True)
    path(saved).write_text('{"default": "x"}')
    assert choose(None) == Server(ServerAddress("localhost"))


def test_the_file_is_private_and_whole(saved):
    saved.save(HOME, "home")
    assert path(saved).stat().st_mode & 0o777 == 0o600
    assert path(saved).parent.stat().st_mode & 0o777 == 0o700
    assert not [one for one in path(saved).parent.iterdir() if one.name.endswith(".new")]


def test_names_are_listed_chosen_and_removed(saved):
    saved.save(WORK, "work")
    saved.save(HOME)
    key = str(HOME.address)
    assert list(saved.all()) == [(key, HOME, True), ("work", WORK, False)]
    saved.make_default("work")
    assert choose(None) == WORK
    saved.remove("work")
    assert list(saved.all()) == [(key, HOME, False)]
    assert choose(None) == Server(ServerAddress("localhost"))
    for act in (saved.remove, saved.make_default):
        with pytest.raises(NotFound, match="work"):
            act("work")


def test_many_at_once_lose_nothing(saved):
    threads = [
        threading.Thread(target=SavedServers().save, args=(HOME, f"name{number}"))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(saved.find(f"name{number}") == HOME for number in range(16))


def test_a_url_names_what_is_saved(saved, monkeypatch):
    saved.save(WORK)
    saved.save(HOME)
    assert choose("ftpd://bob@work.example:99") == WORK
    monkeypatch.setenv("FTP_SERVER", "ftpd://alice@home.example/")
    assert choose(None) == HOME
    saved.make_default("ftpd://bob@work.example:99")
    assert saved.default() == WORK
    saved.remove("ftpd://bob@work.example:99/")
    assert [name for name, _, _ in saved.all()] == ["alice@home.example:1234"]
    for action in (saved.make_default, saved.remove):
        with pytest.raises(NotFound):
            action("ftpd://bob@work.example:99")


@pytest.mark.parametrize("action", ["find", "make_default", "remove"])
def test_a_password_in_a_servers_name_is_not_repeated(saved, action):
    with pytest.raises(BadAddress) as caught:
        getattr(saved, action)("ftpd://bob:s3cret@work.example")
    assert "s3cret" not in str(caught.value)


def test_a_password_in_a_name_to_save_is_not_repeated():
    with pytest.raises(BadAddress) as caught:
        check_name("bob:s3cret@work.example")
    assert "s3cret" not in str(caught.value)
