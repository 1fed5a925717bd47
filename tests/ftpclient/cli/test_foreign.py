"""Words of other tools: what is said of them, and that every line which that proposes is one.

Lives elsewhere: the pages for users of these tools (test_from_others.py), other mistakes
(test_mistakes.py).
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import click
import pytest

from ftpclient.__main__ import run_shell
from ftpclient.cli import foreign, main
from ftpclient.cli.aliases import ALIASES
from ftpclient.cli.app import App, ShellState
from ftpclient.cli.group import MODULE_OF, SCRIPT_ONLY, HintingCommand
from ftpclient.cli.main import remote
from ftpclient.cli.translations import line, translate
from ftpclient.shell.running import understood
from ftpwire import likeness


def command(name: str) -> click.Command:
    found = getattr(import_module(f"ftpclient.cli.commands.{MODULE_OF[name]}"), f"{name}_command")
    assert isinstance(found, click.Command)
    return found


def options(of: click.Command) -> set[str]:
    return {name for one in of.params for name in (*one.opts, *one.secondary_opts)}


HINTING = {name: found for name in MODULE_OF if isinstance(found := command(name), HintingCommand)}
OF_OPTIONS = {name: found.meant for name, found in HINTING.items() if found.meant}
CONNECTED = ("HOST:PORT", "USER@HOST")
REMOVING = re.compile(
    r"\brm\b|\brmdir\b|-delete\b|--delete|--remove-source|--force|\blogout\b|\bforget\b"
    r"|trash empty"
)
ASKED_TO_REMOVE = re.compile(
    r"del|mrm|rmdir|\brd\b|Remove-source|Move|remove-source|^--max-delete$"
    r"|^trash-put$|^rmtrash$|^empty-trash$|^trash-empty$|^cleanup$"
)


def parse(line: str, within: str = "") -> None:
    """Have click read a command line as if it were run, without running it."""
    words = shlex.split(line.partition(" | ")[0])
    if words[0] == "ftp":
        words = words[1:]
    if words[0] == "-s":
        words = words[2:]
    values = {"N": "1", "SIZE": "1MiB", "TIME": "1h"}
    words = [values.get(word, word) for word in words]
    if words[0] == "--version" or words[0] == "--debug":
        return
    of, words = (command(within), words) if within else (command(words[0]), words[1:])
    above = click.Context(remote, **remote.context_settings)  # click keeps what help is called
    of.make_context(of.name, words, parent=above).close()


def proposals(meant: str) -> list[str]:
    """The lines and options in what foreign.py says."""
    if meant.startswith(("nothing: ", "none: ")):
        return []
    return re.sub(r" \(.*\)$", "", meant).split(", or ")


@pytest.mark.parametrize("name", OF_OPTIONS)
def test_what_is_said_of_an_option_can_be_typed(name):
    for option, meant in OF_OPTIONS[name].items():
        assert option not in options(HINTING[name]), f"{name} has {option}"
        for one in proposals(meant):
            one = one.partition(" | ")[0]
            if one == "-c LINE":
                assert "-c" in options(remote)
            elif one.startswith("-"):
                assert one.split()[0] in options(HINTING[name]), f"{name} {option}: {one}"
            elif one.partition(" ")[0] in MODULE_OF:
                of, _, rest = one.partition(" ")
                assert {word for word in rest.split() if word.startswith("-")} <= options(
                    HINTING[of]
                ) | {"-s", "-v", "-E"}, f"{name} {option}: {one}"
            else:
                assert one in CONNECTED if name == "connect" else re.fullmatch("a-[rwxX]", one)


def test_what_is_said_of_an_option_before_the_command_can_be_typed():
    for option, meant in foreign.BEFORE_A_COMMAND.items():
        assert option not in options(remote)
        for one in proposals(meant):
            words = one.split()
            if one == "FTP_PASSWORD":
                continue
            of = remote if words[0].startswith("-") else command(words[0])
            given = {word for word in words if word.startswith("-")}
            assert given <= options(of) | {"--version"}, option


def test_what_is_said_of_a_command_can_be_typed():
    assert not foreign.COMMANDS.keys() & MODULE_OF.keys()
    for name, meant in foreign.COMMANDS.items():
        for one in proposals(meant):
            if one.startswith(("-", "!")):
                assert one in ("--version", "--debug", "!COMMAND"), name
                continue
            words = one.partition(" | ")[0].split()
            assert words[0] in MODULE_OF, name
            given = {word for word in words if word.startswith("-")} - {"-"}
            assert given <= options(command(words[0])), name


def test_what_is_said_of_a_command_of_trash_can_be_typed():
    group = command("trash")
    assert isinstance(group, click.Group)
    assert not foreign.OF_TRASH.keys() & group.commands.keys()
    for name, meant in foreign.OF_TRASH.items():
        for one in proposals(meant):
            words = one.split()
            assert words[0] in MODULE_OF, name
            assert words[0] != "trash" or words[1] in group.commands, name


def test_none_of_it_leads_to_what_removes_except_where_that_was_asked_for():
    tables = [*OF_OPTIONS.items(), ("ftp", foreign.BEFORE_A_COMMAND), ("", foreign.COMMANDS)]
    for name, table in tables:
        for word, meant in table.items():
            if any(REMOVING.search(one) for one in proposals(meant)):
                assert ASKED_TO_REMOVE.search(word) or (name, word) == ("rm", "-d"), (
                    f"{name} {word}: {meant}"
                )
    assert likeness.probably_meant("rmm", MODULE_OF) is None


@pytest.fixture
def say(capfd, tmp_path, monkeypatch):
    """What is said of a command line, outside the shell."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("x")
    app = App(run_shell=run_shell)

    def run(line: str) -> str:
        assert main.run(app, shlex.split(line)) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1
        return err

    yield run
    app.close()
    app.interrupt.close()


@pytest.fixture
def say_in_shell(capfd):
    """What is said of a line, in the shell: before anything of it runs, without a connection."""
    app = App(run_shell=run_shell, interactive=True, shell=ShellState(batch=True))

    def run(line: str) -> str:
        assert understood(app, line) == 2
        return capfd.readouterr().err

    yield run
    app.close()
    app.interrupt.close()


OPTIONS = [
    # rsync
    ("sync -avz a :b", "-z isn't needed: data is not compressed"),
    ("sync -a -e ssh a :b", "-e isn't needed: a path names the server, e.g."),
    ("sync -a --partial a :b", "isn't needed: resuming is the default"),
    ("sync -a --inplace a :b", "files are sent whole"),
    ("sync -a --progress a :b", "progress is shown on every terminal"),
    ("sync -aP a :b", "'a' is not a number of connections (progress is shown without -P)"),
    ("put -P f", "'f' is not a number of connections (progress is shown without -P)"),
    ("sync -a --bwlimit=1m a :b", "did you mean --limit-rate?"),
    ("sync -a --link-dest=../x a :b", "--link-dest: there are no hard links"),
    ("sync -a --backup a :b", "isn't needed: replaced files are kept"),
    ("sync -a --delete-after a :b", "did you mean --delete (it deletes after the transfers)?"),
    ("sync -a --remove-source-files a :b", "did you mean ftp put -r -T --remove-source, or"),
    ("sync -a --filter 'x' a :b", "did you mean --exclude, or --include?"),
    ("sync -a --include-from x a :b", "did you mean --exclude-from (in its file, ! before"),
    ("sync -aA a :b", "ACLs and extended attributes aren't kept"),
    ("sync -aS a :b", "isn't needed: holes are kept"),
    ("sync -aH a :b", "there are no hard links"),
    ("sync -ai a :b", "did you mean --dry-run (it shows why)?"),
    ("sync -a --timeout=60 a :b", "did you mean --retry-for?"),
    ("put -r --delete a b", "did you mean ftp sync --delete?"),
    ("put -r --existing a b", "did you mean ftp sync --existing?"),
    # rclone
    ("sync --transfers 8 a :b", "did you mean --parallel?"),
    ("sync --checkers 8 a :b", "isn't needed: a tree is compared with one streamed listing"),
    ("sync --fast-list a :b", "one streamed listing"),
    ("sync --min-size 1k a :b", "there is only --max-size, in sync"),
    ("sync --backup-dir x a :b", "isn't needed: replaced files are kept"),
    ("sync --immutable a :b", "did you mean --ignore-existing?"),
    ("sync --interactive a :b", "did you mean --dry-run (--delete asks before it deletes)?"),
    ("put --max-age 1d a b", "did you mean ftp sync --max-age?"),
    ("--dry-run sync a :b", "did you mean ftp sync --dry-run, or ftp put"),
    # lftp
    ("sync --only-newer a :b", "did you mean --update?"),
    ("sync -X '*.o' a :b", "did you mean --exclude (extended attributes aren't kept)?"),
    ("sync --use-pget-n=4 a :b", "did you mean --parallel (it splits large files, too)?"),
    ("sync --reverse a :b", "the path with the colon is the remote one"),
    ("get f -o g", "did you mean ftp get SOURCE TARGET?"),
    ("put -E f", "isn't needed: modes are kept (for lftp's -E, use --remove-source)"),
    ("put -O d f", "did you mean -t?"),
    # sftp
    ("-P 22 ls", "did you mean -s HOST:PORT?"),
    ("-o ProxyJump=x ls", "login saves servers, and -s names one"),
    ("-J gate ls", "forward a port with ssh -L"),
    ("-i key ls", "instead of an SSH key, login saves a token"),
    ("-a ls", "isn't needed: resuming is the default"),
    ("-r ls", "did you mean ftp put -r, or ftp get -r?"),
    # find, ls
    ("find / -exec ls", "did you mean ftp find PATH -print0 | xargs -0 ftp COMMAND?"),
    ("find / -not -name x", "did you mean ftp find PATH | grep -v PATTERN?"),
    ("ls --full-time", "did you mean --json?"),
    # commands
    ("mirror", "did you mean ftp sync?"),
    ("mirror --loop a", "did you mean ftp sync?"),
    ("queue", "did you mean ftp put FILE &?"),
    ("attach", "jobs end with their shell"),
    ("lumask 022", "modes are kept; chmod changes them"),
    ("progress", "isn't needed: progress is shown on every terminal; -q turns it off"),
    ("chown 0 f", "all files of an account have the same owner"),
    ("cls", "did you mean ftp ls?"),
    ("lsjson", "did you mean ftp ls --json?"),
    ("moveto a b", "did you mean ftp mv -T a b?"),
    ("rcat", "did you mean ftp put - NAME?"),
    ("mput a", "did you mean ftp put?"),
]


@pytest.mark.parametrize(("typed", "reported"), OPTIONS, ids=[typed for typed, _ in OPTIONS])
def test_what_is_said(say, typed, reported):
    assert reported in say(typed)


LINES = [
    # lftp
    ("mirror www", "sync :www www"),
    ("mirror /a/www/ copy", "sync :/a/www/ copy"),
    ("mirror a/www copy/", "sync :a/www copy/www"),
    ("mirror -R . www", "sync . :www"),
    ("mirror -R", "sync . :."),
    ("mirror -R site", "sync site :site"),
    ("mirror -Rv -P4 site www", "sync -v -P 4 site :www"),
    ("mirror --reverse --parallel=4 site www", "sync -P 4 site :www"),
    ("mirror -Re site www", "sync --delete site :www"),
    ("mirror -n www", "sync --update :www www"),
    ("mirror -c --use-pget-n=4 www", "sync :www www"),
    ("mirror -R -X '*.o' -X tmp/ site www", "sync --exclude '*.o' --exclude tmp/ site :www"),
    ("mirror -R -x '^build/$' site www", "sync --exclude /build/ site :www"),
    ("mirror -R -x '\\.git/' site www", "sync --exclude '*.git/' site :www"),
    ("mirror -R -x '\\.o$' site www", "sync --exclude '*.o' site :www"),
    ("mirror -R -x '(a|b)' site www", None),
    ("mirror -R --Move site www", None),
    ("mirror -R ftp://a/ b", None),
    ("mirror 'my site'", "sync ':my site' 'my site'"),
    ("mirror --dry-run www", "sync --dry-run :www www"),
    ("pget -n 4 f", "get -P 4 f"),
    ("pget -n4 f -o g", "get -P 4 f g"),
    ("pget -c f g", "get f g"),
    ("queue put x", "put x"),
    ("queue start", None),
    ("glob ls '*.c'", "ls *.c"),
    ("grep x '*.c'", "cat *.c | grep x"),
    ("pget -n 100 f", "get -P 32 f"),
    ("pget -n x f", None),
    ("mirror -P x www", None),
    ("mirror -X '' www", None),
    ("mirror -R -X", None),
    ("mirror -- -www", None),
    # rsync, scp
    ("rsync -avz --delete src/ al@host:dst/", "sync -v --delete src/ :dst/"),
    ("rsync -a --exclude='*.o' src host:", "sync --exclude '*.o' src :."),
    ("rsync -aP -e ssh host:src dst", "sync :src dst"),
    ("rsync -a --link-dest=x src host:dst", None),
    ("rsync -aAX src host:dst", None),
    ("rsync -a --bwlimit=1000 src host:dst", None),
    ("rsync -a src dst", None),
    ("scp -r site al@host:www", "put -r site www"),
    ("scp -P 22 a b host:", "put a b ."),
    ("scp host:a host:b .", "get a b ."),
    ("scp one:a two:b", None),
    ("scp a b", None),
    # filters
    ("grep -i x f", "cat f | grep -i x"),
    ("grep 'a b' f g", "cat f g | grep 'a b'"),
    ("grep x", None),
    ("grep -f x y", None),
    ("wc -l f", "cat f | wc -l"),
]


@pytest.mark.parametrize(("typed", "here"), LINES, ids=[typed for typed, _ in LINES])
def test_what_a_line_is_here(say_in_shell, typed, here):
    name, *words = shlex.split(typed)
    assert translate(name, words, MODULE_OF, in_shell=True) == here
    said = say_in_shell(typed)
    if here is None:
        assert f"unknown command '{name}'" in said and f"{typed_again(typed)} is" not in said
        return
    parse(here)
    assert f"unknown command '{name}': {typed_again(typed)} is {here} here" in said


def typed_again(line: str) -> str:
    return shlex.join(shlex.split(line))


def test_outside_the_shell_a_line_begins_with_ftp(say):
    assert "mirror -R . www is ftp sync . :www here" in say("mirror -R . www")
    assert "is ftp cat f | wc -l here" in say("wc -l f")
    assert "is ftp cat '*' | wc -l here" in say("wc -l '*'")
    assert "is ftp -s al@host sync src :dst here" in say("rsync -a src al@host:dst")
    assert "is ftp -s host:22 get a . here" in say("scp -P 22 host:a .")
    assert "did you mean ftp sync?" in say("rsync -a f host:")  # a file: sync takes directories


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("nano 'a b'", "edit 'a b'"),
        ("md5sum a b", "hash a b"),
        ("moveto a b", "mv -T a b"),
        ("symlink a b", "ln -s a b"),
        ("lsjson d", "ls --json d"),
        ("lsjson -R d", "ls --json"),
        ("user al", "login"),
        ("wget http://host/f", "get"),
    ],
)
def test_hints_are_lines_to_type(say, say_in_shell, typed, line):
    assert f"did you mean ftp {line}?" in say(typed)
    before = "ftp " if line == "login" else ""
    assert f"did you mean {before}{line}?" in say_in_shell(typed)


def test_names_can_be_pasted():
    assert line("put", "a b", "it's", "a\nb", "x") == "put 'a b' 'it'\"'\"'s' $'a\\nb' x"


def test_a_password_in_a_line_is_not_repeated(say):
    said = say("rsync -a src al:s3cret@host:dst")
    assert "s3cret" not in said and "FTP_PASSWORD" in said


def test_in_the_shell_a_command_of_scripts_is_named_with_ftp(say_in_shell):
    assert "connect" in SCRIPT_ONLY and "did you mean ftp login?" in say_in_shell("user al")


def test_other_names_in_the_shell_are_hints_outside():
    known = {name for name in ALIASES if name.isalpha()} - {"quit", "bye"}
    assert known <= foreign.COMMANDS.keys()
