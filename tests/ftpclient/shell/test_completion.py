"""What Tab offers, on a real server."""

from __future__ import annotations

import os
import select

import pytest
from prompt_toolkit.completion import CompleteEvent, get_common_complete_suffix
from prompt_toolkit.document import Document

from ftpclient.cli.trashed import short_ids
from ftpclient.shell import completion
from ftpclient.shell.completion import ShellCompleter
from ftpclient.shell.grammar import parse
from ftpserver.serving import opening
from ftpwire.errors import FtpError


@pytest.fixture
def completer(app):
    return ShellCompleter(app)


@pytest.fixture
def remote(files):
    """Some remote files."""
    (files / "docs" / "old letters").mkdir(parents=True)
    (files / "docs" / "old letters" / "dear.txt").touch()
    for name in ("report.txt", "readme.md", "it's", "a b", "-dash", "~tilde", ".hidden", "st*r"):
        (files / "docs" / name).touch()
    (files / "downloads").mkdir()
    os.symlink("downloads", files / "link")
    os.symlink("nowhere", files / "broken")
    return files


@pytest.fixture
def here(local):
    """Some local files, in the local directory of the shell."""
    (local / "my photos").mkdir()
    (local / "my photos" / "cat.jpg").touch()
    (local / "music.txt").touch()
    (local / "v$HOME {a,b}=!é.txt").touch()
    return local


def offered(completer, text: str) -> list[str]:
    """What is shown."""
    document = Document(text)
    event = CompleteEvent(completion_requested=True)
    return [one.display_text for one in completer.get_completions(document, event)]


def completed(completer, text: str) -> str:
    """The line after one Tab."""
    document = Document(text)
    found = list(completer.get_completions(document, CompleteEvent(completion_requested=True)))
    if len(found) == 1:
        return text[: len(text) + found[0].start_position] + found[0].text
    return text + get_common_complete_suffix(document, found)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        pytest.param("wh", "whoami ", id="only-one"),
        pytest.param("mk", "mkdir ", id="another"),
        pytest.param("qu", "quit ", id="other-name"),
        pytest.param("lp", "lpwd ", id="of-the-shell"),
        pytest.param("conn", "conn", id="not-of-the-shell"),
        pytest.param("help lp", "help lpwd ", id="help"),
        pytest.param("? lp", "? lpwd ", id="other-name-of-help"),
        pytest.param("-lp", "-lpwd ", id="failure-ignored-of-a-command"),
        pytest.param("ls --dig", "ls --digest ", id="option"),
        pytest.param("put --no", "put --no-", id="common-beginning"),
        pytest.param("exit a", "exit a", id="takes-nothing"),
        pytest.param("nonsense a", "nonsense a", id="unknown"),
        pytest.param("", "", id="everything"),
    ],
)
def test_commands_and_options(completer, typed, line):
    assert completed(completer, typed) == line


def test_all_commands_are_offered(completer):
    shown = offered(completer, "")
    assert {"ls", "put", "cd", "lls", "exit", "bye"} <= set(shown)
    assert not {"connect", "forget"} & set(shown)
    assert shown == sorted(shown)


def test_hidden_options_are_not_offered(completer):
    shown = offered(completer, "put -")
    assert {"-r", "--recursive", "--json", "-n"} <= set(shown)
    assert "--accept-new" not in shown


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        pytest.param("ls docs/rep", "ls docs/report.txt ", id="below"),
        pytest.param("ls do", "ls do", id="two-of-them"),
        pytest.param("ls doc", "ls docs/", id="directory"),
        pytest.param("ls li", "ls link/", id="link-to-a-directory"),
        pytest.param("ls bro", "ls broken ", id="link-to-nowhere"),
        pytest.param("ls docs/re", "ls docs/re", id="nothing-in-common"),
        pytest.param("ls docs/a", r"ls docs/a\ b ", id="blank"),
        pytest.param("ls 'docs/a", "ls 'docs/a b' ", id="blank-in-quotes"),
        pytest.param('ls docs/"a', 'ls docs/"a b" ', id="quotes-after-the-slash"),
        pytest.param("ls docs/ol", r"ls docs/old\ letters/", id="directory-with-a-blank"),
        pytest.param("ls 'docs/ol", "ls 'docs/old letters/", id="directory-in-quotes"),
        pytest.param(r"ls docs/old\ letters/", r"ls docs/old\ letters/dear.txt ", id="deeper"),
        pytest.param("ls docs/it", r"ls docs/it\'s ", id="apostrophe"),
        pytest.param("ls 'docs/it", r"ls 'docs/it'\''s' ", id="apostrophe-in-quotes"),
        pytest.param("ls docs/s", r"ls docs/st\*r ", id="star"),
        pytest.param("ls docs/~", "ls docs/~tilde ", id="tilde-inside"),
        pytest.param("ls docs/.h", "ls docs/.hidden ", id="hidden"),
        pytest.param("ls /docs/../doc", "ls /docs/../docs/", id="absolute"),
        pytest.param("rm -r doc", "rm -r docs/", id="after-an-option"),
        pytest.param("mkdir -m 755 doc", "mkdir -m 755 docs/", id="after-an-option-with-a-value"),
        pytest.param("mkdir -m 7", "mkdir -m 7", id="an-options-value"),
        pytest.param("cp docs/rep doc", "cp docs/rep docs/", id="second-argument"),
        pytest.param("-ls docs/rep", "-ls docs/report.txt ", id="failure-ignored"),
        pytest.param("cd docs/rep", "cd docs/rep", id="cd-takes-directories"),
        pytest.param("cd d", "cd do", id="cd-common-beginning"),
        pytest.param("ls nope/", "ls nope/", id="no-such-directory"),
        pytest.param("ls docs/report.txt/", "ls docs/report.txt/", id="below-a-file"),
        pytest.param("ls $'\\0'/", "ls $'\\0'/", id="no-path-at-all"),
    ],
)
def test_remote_paths(completer, remote, typed, line):
    assert completed(completer, typed) == line


def test_every_place_of_a_line(completer, remote, here):
    """The command, remote and local names are those of the part that is being typed."""
    for typed, line in (
        ("pwd; mk", "pwd; mkdir "),
        ("pwd&&mk", "pwd&&mkdir "),
        ("pwd || cat docs/rep", "pwd || cat docs/report.txt "),
        ("put music.txt; cat doc", "put music.txt; cat docs/"),
        ("ls > mus", "ls > music.txt "),
        ("ls doc >> my", r"ls doc >> my\ photos/"),
        ("ls > 'mu", "ls > 'music.txt' "),
        ("cat docs/rep | mu", "cat docs/rep | mu"),
        ("cat docs/rep | grep x mu", "cat docs/rep | grep x music.txt "),
        ("cat docs/rep | sort | grep x mu", "cat docs/rep | sort | grep x music.txt "),
        ("pwd | cat v", "pwd | cat v\\$HOME\\ \\{a,b\\}\\=\\!é.txt "),
        ('pwd | cat "v', 'pwd | cat "v\\$HOME {a,b}=!é.txt" '),
        ("!cat v", "!cat v\\$HOME\\ \\{a,b\\}\\=\\!é.txt "),
        ("lls v", "lls v$HOME\\ {a,b}=!é.txt "),
        ("cat docs/rep | sort; mk", "cat docs/rep | sort; mkdir "),
        ("ls # mk", "ls # mk"),
        ("!true; cat mu", "!true; cat music.txt "),
        ("pwd\nls doc", "pwd\nls docs/"),
        ("cat 'docs/x\ny' doc", "cat 'docs/x\ny' docs/"),
        ("source mu", "source music.txt "),
        ("cat ~/doc", "cat ~/docs/"),
    ):
        assert completed(completer, typed) == line


def test_names_that_mean_something_to_the_shell(completer, files):
    names = ("a;b", "#c", "d&e", "f|g", "h(i)", "j<k", "l`m", "!n")
    for name in names:
        (files / name).touch()
    for name in names:
        written = completed(completer, f"ls {name[0]}" if name[0] != "#" else r"ls \#")
        (pipe,) = parse(written).pipes
        assert pipe.words[1].text == name


def test_remote_paths_start_at_the_remote_directory(app, completer, remote):
    app.client.change_dir("docs")
    assert completed(completer, "cat rep") == "cat report.txt "
    assert completed(completer, "cat -- -") == "cat -- -dash "
    assert completed(completer, "cat ./-") == "cat ./-dash "
    assert completed(completer, "cat ../down") == "cat ../downloads/"
    assert completed(completer, "cat \\~") == r"cat \~tilde "


def test_a_name_like_an_option_is_offered_as_a_path(app, completer, files):
    (files / "-r").touch()
    assert completed(completer, "rm ") == "rm ./-r "


def test_hidden_names_are_offered_when_asked_for(completer, remote):
    assert ".hidden" not in offered(completer, "ls docs/")
    assert offered(completer, "ls docs/.") == [".hidden"]


def test_names_are_shown_safely_and_inserted_whole(completer, files):
    name = b"b\nad\x1b[31m\xff"
    (files / os.fsdecode(name)).touch()
    assert offered(completer, "cat ") == [r"b\nad\x1b[31m\xff"]
    assert completed(completer, "cat ") == r"cat $'b\nad\033[31m\377' "
    assert completed(completer, "cat 'b") == r"cat ''$'b\nad\033[31m\377' "


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        pytest.param("put my", r"put my\ photos/", id="put-source"),
        pytest.param("put 'my photos/c", "put 'my photos/cat.jpg' ", id="put-source-in-quotes"),
        pytest.param("put music.txt doc", "put music.txt docs/", id="put-target"),
        pytest.param("put music.txt my", r"put music.txt my\ photos/", id="put-second-source"),
        pytest.param("get doc", "get docs/", id="get-source"),
        pytest.param("get docs mu", "get docs music.txt ", id="get-target"),
        pytest.param("get docs down", "get docs downloads/", id="get-second-source"),
        pytest.param("lcd m", r"lcd my\ photos/", id="lcd"),
        pytest.param("lls mu", "lls music.txt ", id="lls"),
        pytest.param("lls -l mu", "lls -l music.txt ", id="lls-with-an-option"),
        pytest.param("!cat mu", "!cat music.txt ", id="local-command"),
        pytest.param("! cat 'mu", "! cat 'music.txt' ", id="local-command-in-quotes"),
        pytest.param("!ca", "!ca", id="which-local-command"),
        pytest.param("put nope/", "put nope/", id="no-such-directory"),
    ],
)
def test_local_paths(completer, remote, here, typed, line):
    assert completed(completer, typed) == line


def test_local_paths_below_the_users_home(completer, tmp_path):
    (tmp_path / "user" / "some docs").mkdir(parents=True)
    assert completed(completer, "put ~/so") == r"put ~/some\ docs/"


# the connection ----------------------------------------------------------------------------


def test_a_directory_is_listed_once(app, completer, remote, monkeypatch):
    requested = spy(app, monkeypatch)
    for text in ("ls d", "ls do", "ls docs/", "ls docs/r"):
        offered(completer, text)
    assert requested == [(b"/", b"d"), (b"/docs", b"")]
    completer.remote_names.forget()
    offered(completer, "ls d")
    assert len(requested) == 3


def spy(app, monkeypatch) -> list[tuple[bytes, bytes]]:
    """The directories that are listed from now on, each with the prefix of the names."""
    requested = []
    list_dir = app.client.list_dir

    def listed(path, *, prefix, **options):
        requested.append((path, prefix))
        return list_dir(path, prefix=prefix, **options)

    monkeypatch.setattr(app.client, "list_dir", listed)
    return requested


def test_names_that_are_kept_answer_for_narrower_ones(app, completer, remote, monkeypatch):
    """And for nothing else: names that begin otherwise were not sent."""
    requested = spy(app, monkeypatch)
    assert offered(completer, "ls docs/r") == ["readme.md", "report.txt"]
    assert offered(completer, "ls docs/rep") == ["report.txt"]
    assert offered(completer, "ls docs/s") == ["st*r"]
    assert offered(completer, "ls docs/~t") == ["~tilde"]
    assert requested == [(b"/docs", b"r"), (b"/docs", b"s"), (b"/docs", b"~t")]
    assert len(offered(completer, "ls docs/")) == 8
    assert offered(completer, "ls docs/it") == ["it's"]
    assert requested[3:] == [(b"/docs", b"")]


def test_names_are_kept_for_some_seconds(app, completer, remote, monkeypatch):
    requested = spy(app, monkeypatch)
    now = [1000.0]
    monkeypatch.setattr(completion.time, "monotonic", lambda: now[0])
    for seconds, count in ((0.0, 1), (9.0, 1), (1.1, 2), (9.0, 2)):
        now[0] += seconds
        assert offered(completer, "ls docs/re") == ["readme.md", "report.txt"]
        assert len(requested) == count, now[0]


def test_a_listing_that_was_too_long_answers_for_nothing_narrower(
    app, completer, files, monkeypatch
):
    for name in ("a1", "a2", "a3", "b1", "b2"):
        (files / name).touch()
    monkeypatch.setattr(completion, "_MOST_NAMES", 3)
    requested = spy(app, monkeypatch)
    assert len(offered(completer, "ls ")) == 3
    assert len(offered(completer, "ls ")) == 3
    assert offered(completer, "ls b") == ["b1", "b2"]
    assert offered(completer, "ls b1") == ["b1"]
    assert requested == [(b"/", b""), (b"/", b"b")]


def test_an_older_server_lists_everything_once(app, completer, remote, monkeypatch):
    monkeypatch.setattr(opening, "FEATURES", [])
    app.client.close()
    app.client.connect()
    requested = spy(app, monkeypatch)
    assert offered(completer, "ls docs/r") == ["readme.md", "report.txt"]
    assert offered(completer, "ls docs/s") == ["st*r"]
    assert requested == [(b"/docs", b"")]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        pytest.param("ls $'\\xc3", r"ls $'\xc3", id="half-a-letter"),
        pytest.param("ls " + "x" * 255, "ls " + "x" * 255, id="longest"),
        pytest.param("ls " + "x" * 256, "ls " + "x" * 256, id="too-long"),
        pytest.param("ls é", "ls écrit ", id="letter-of-two-bytes"),
    ],
)
def test_what_names_can_begin_with(completer, files, typed, line):
    (files / "écrit").touch()
    assert completed(completer, typed) == line


def test_what_a_command_has_made_is_offered(completer, files):
    assert offered(completer, "ls ") == []
    (files / "new").touch()
    completer.remote_names.forget()
    assert offered(completer, "ls ") == ["new"]


def test_no_connection_is_made_for_it(app, completer, remote):
    app.close()
    assert offered(completer, "ls ") == []
    assert not app.known_client.connected


def test_an_error_is_silent_and_the_session_goes_on(app, completer, remote, monkeypatch):
    def fail(*args, **options):
        raise FtpError("no")

    monkeypatch.setattr(app.client, "list_dir", fail)
    assert offered(completer, "ls ") == []
    monkeypatch.undo()
    assert app.client.whoami() == "alice"


def test_a_silent_server_is_abandoned_and_the_session_goes_on(app, completer, monkeypatch):
    list_dir = app.client.list_dir

    def silent(*args, **options):
        assert select.select([app.interrupt], [], [], 60)[0]
        return list_dir(*args, **options)

    monkeypatch.setattr(app.client, "list_dir", silent)
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 0.01)
    assert offered(completer, "ls ") == []
    assert app.client.whoami() == "alice"


def test_a_listing_that_is_abandoned_half_way_leaves_the_session(
    app, completer, files, monkeypatch
):
    for number in range(3000):
        (files / f"{number:04}").touch()
    list_dir = app.client.list_dir

    def slow(*args, **options):
        entries = list_dir(*args, **options)
        yield next(entries)
        app.interrupt.set()  # as the timer does
        yield from entries

    monkeypatch.setattr(app.client, "list_dir", slow)
    assert offered(completer, "ls ")
    assert app.client.whoami() == "alice"
    assert app.client.connected
    app.interrupt.check()


def test_the_listing_leaves_no_interrupt(app, completer, remote):
    offered(completer, "ls ")
    app.interrupt.check()
    assert app.client.whoami() == "alice"


# the trash ---------------------------------------------------------------------------------


@pytest.fixture
def trashed(app, remote):
    """Two things in the trash, and two versions of a file; their IDs."""
    client = app.client
    for text in (b"one", b"two", b"three"):
        client.write("/docs/text", text)
    client.purge()
    client.write("/docs/text", b"four")
    client.write("/docs/text", b"five")
    client.remove("/docs/readme.md")
    return list(short_ids(client.trash()).values())


def test_ids_of_the_trash(completer, trashed):
    for line in ("undo ", "trash ls ", "trash restore ", "trash cat ", "trash empty "):
        assert offered(completer, line) == sorted(trashed), line
    one = trashed[0]
    assert completed(completer, f"undo {one}") == f"undo {one} "
    assert offered(completer, f"undo {one} ") == []
    assert offered(completer, f"trash empty {one} ") == sorted(trashed)
    assert completed(completer, f"trash restore {one} docs/rep") == (
        f"trash restore {one} docs/report.txt "
    )


def test_numbers_of_versions(completer, trashed):
    for line in ("cat docs/text --at ", "restore docs/text --at ", "get -q docs/text --at "):
        assert offered(completer, line) == ["1", "2"], line
    assert offered(completer, "cat --at ") == []
    assert offered(completer, "cat docs/report.txt --at ") == []
    assert completed(completer, "cat --at 1 docs/tex") == "cat --at 1 docs/text "
    assert completed(completer, "trash --path do") == "trash --path do"
    assert completed(completer, "trash ls --path doc") == "trash ls --path docs/"


def test_commands_of_a_group(completer):
    assert offered(completer, "trash ") == ["cat", "empty", "get", "ls", "restore"]
    assert completed(completer, "trash re") == "trash restore "
    assert completed(completer, "token l") == "token list "
    assert offered(completer, "token list ") == offered(completer, "trash nothing ") == []
    assert "--to" in offered(completer, "trash restore --")


def test_nothing_of_the_trash_is_offered_without_a_connection(completer, app, trashed):
    app.client.close()
    assert offered(completer, "undo ") == offered(completer, "cat docs/text --at ") == []


def test_nothing_is_offered_of_a_server_without_a_trash(completer, app, monkeypatch):
    monkeypatch.setattr(opening, "FEATURES", [])
    app.client.close()
    app.client.connect()
    assert offered(completer, "undo ") == offered(completer, "cat docs/text --at ") == []
