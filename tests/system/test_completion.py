"""Tab in bash, zsh and fish, with the lines that the README has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pexpect
import pytest

from tests.peer import PATIENCE
from tests.system.programs import Programs, clean_environment, program

TRIES = 12
README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def complete(programs: Programs, tmp_path):
    """What a shell's own completion function offers, for a line whose last word is begun."""
    bin_directory = str(Path(program("ftp")[0]).parent)
    if Path(program("ftp")[0]).name != "ftp":
        pytest.skip("ftp is not installed as a program here")

    def run(shell: str, script: str) -> list[str]:
        path = clean_environment(tmp_path)["PATH"]
        environment = clean_environment(tmp_path, PATH=f"{bin_directory}:{path}")
        ended = programs.run([shell, "-c", script], env=environment, cwd=tmp_path)
        assert ended.err == ""
        return ended.lines

    return run


def in_bash(line: str, name: str) -> str:
    words = line.split(" ")
    return f"""
eval "$({name} completion bash)"
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
compopt() {{ echo compopt "$@"; }}
_{name}_completion {name}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("name", "line", "offered"),
    [
        pytest.param("ftp", "ftp chm", ["chmod"], id="command"),
        pytest.param("ftp", "ftp --accept-n", ["--accept-new"], id="option-before"),
        pytest.param("ftp", "ftp put -r so", ["compopt -o default", ""], id="local-files"),
        pytest.param("ftpd", "ftpd user pass", ["passwd"], id="ftpd-group"),
    ],
)
def test_bash(complete, name, line, offered):
    assert complete("bash", in_bash(line, name)) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_saved_servers(complete, server, tmp_path):
    alice = server.first_user()
    alice.run("login", "--name", "archive")
    shutil.copytree(alice.home / "config", tmp_path / "config", dirs_exist_ok=True)
    assert complete("bash", in_bash("ftp -s arch", "ftp")) == ["archive"]
    assert complete("bash", in_bash("ftp connect arch", "ftp")) == ["archive"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("begun", "pieces", "offered"),
    [
        pytest.param("alice@fi", ["alice", "@", "fi"], "@files:4000", id="after-the-user"),
        pytest.param(
            "alice@files:40", ["alice", "@", "files", ":", "40"], "4000", id="in-the-port"
        ),
        pytest.param("ali@", ["ali", "@"], "", id="somebody-else"),
    ],
)
def test_bash_cuts_words_within_an_address(complete, tmp_path, begun, pieces, offered):
    """It puts the offer in the place of the last piece."""
    saved = tmp_path / "config" / "ftp-client" / "servers.json"
    saved.parent.mkdir(parents=True)
    saved.write_text('{"servers": {"alice@files:4000": {"address": "alice@files:4000"}}}')
    saved.chmod(0o600)
    words = ["ftp", "-s", *pieces]
    line = f"ftp -s {begun}"
    assert complete(
        "bash",
        f"""
eval "$(ftp completion bash)"
COMP_WORDBREAKS=' @:'
COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}
COMP_LINE={line!r} COMP_POINT={len(line)}
_ftp_completion ftp
printf '%s\n' "${{COMPREPLY[@]}}"
COMP_WORDBREAKS=' ' COMP_WORDS=(ftp -s {begun}) COMP_CWORD=2 COMPREPLY=()
_ftp_completion ftp
printf '%s\n' "${{COMPREPLY[@]}}"
""",
    ) == [offered, "alice@files:4000" if offered else ""]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_lines_of_the_readme(complete, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    line = next(line for line in README.splitlines() if f"ftp completion {shell}" in line)
    load = "autoload -U compinit; compinit -u; " if shell == "zsh" else ""
    assert complete(shell, load + line.partition("#")[0]) == []


def test_what_zsh_and_fish_get(programs, tmp_path):
    """Their functions ask in ways of their own, whether they are installed here or not."""
    for shell, words, at in (("zsh", "ftp whoa", "1"), ("fish", "ftp whoa", "whoa")):
        environment = clean_environment(
            tmp_path, _FTP_COMPLETE=f"{shell}_complete", COMP_WORDS=words, COMP_CWORD=at
        )
        ended = programs.run(program("ftp"), env=environment)
        assert "whoami" in ended.text
        source = programs.run(
            [*program("ftp"), "completion", shell], env=clean_environment(tmp_path)
        )
        assert "_FTP_COMPLETE" in source.text


# keys ----------------------------------------------------------------------------------------

PROMPTS = {
    "bash": (["--norc", "--noprofile"], "PS1='> '"),
    "zsh": (["-f"], "PS1='> '; autoload -U compinit; compinit -u"),
    "fish": (["--no-config"], "function fish_prompt; echo -n '> '; end"),
}


@pytest.fixture
def typing(server, tmp_path):
    """Somebody at a shell with the line of the README, who has logged in, and a directory there."""
    if Path(program("ftp")[0]).name != "ftp":
        pytest.skip("ftp is not installed as a program here")
    alice = server.first_user()
    alice.run("login", "--name", "files")
    alice.run("mkdir", "-p", "/docs/minutes of may")
    shutil.copytree(alice.home / "config", tmp_path / "config", dirs_exist_ok=True)
    path = f"{Path(program('ftp')[0]).parent}:{clean_environment(tmp_path)['PATH']}"
    environment = clean_environment(tmp_path, PATH=path, TERM="xterm", LC_ALL="C.UTF-8")
    children = []

    def start(shell: str) -> pexpect.spawn:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        options, prompt = PROMPTS[shell]
        child = pexpect.spawn(shell, options, env=environment, cwd=str(tmp_path), encoding="utf-8")
        child.setwinsize(24, 200)
        children.append(child)
        line = next(line for line in README.splitlines() if f"ftp completion {shell}" in line)
        child.sendline(prompt)
        child.sendline(line.partition("#")[0])
        child.sendline("echo rea''dy")
        child.expect("ready", timeout=PATIENCE)
        return child

    yield start
    for child in children:
        child.close(force=True)


@pytest.mark.parametrize("shell", PROMPTS)
def test_names_on_the_server_are_completed_as_they_are_typed(typing, shell):
    child = typing(shell)
    for begun, whole in (
        ("ftp ls /doc", "/docs/"),
        ("ftp get files:docs/min", r"files:docs/minutes\\ of\\ may/"),
        ("ftp cat fil", "files:"),
    ):
        for _ in range(TRIES):  # a busy machine takes more than the half second that Tab has
            child.send("\x15" + begun + "\t")
            if child.expect([whole, pexpect.TIMEOUT], timeout=5) == 0:
                break
        else:
            pytest.fail(f"{begun} is not completed to {whole}")
