"""Jobs of the shell with their real processes, on a server in this process."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ftpclient.cli import job_display
from ftpclient.cli.app import App, Script, ShellState
from ftpclient.cli.jobs import MOST_OUTPUT, Job, Jobs, Process, State
from ftpclient.cli.unfinished import Transfer, Transfers
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import Credential
from ftpclient.connection.servers import Server
from ftpclient.shell import background, scripts
from ftpclient.shell.expansion import check_command
from ftpclient.shell.job_task import Task, decoded, encoded
from ftpclient.shell.running import run_line
from tests.ftpclient.shell.shell_support import shell_of
from tests.system.programs import PATIENCE, eventually

pytestmark = pytest.mark.system  # it starts processes

MIB = 2**20


@pytest.fixture
def app(app) -> Iterator[App]:
    """Alice's shell, which may start jobs."""
    app.shell.check_command = check_command
    with background.running(app):
        yield app


@pytest.fixture
def ended(app) -> Callable[[int], Job]:
    """Waits for a job."""

    def wait(number: int) -> Job:
        job = app.shell.jobs.find(number)
        assert app.shell.jobs.wait([job], PATIENCE)
        return job

    return wait


def output_of(job: Job, *, messages: bool = False) -> bytes:
    return b"".join(data for is_error, data in job.output.since(0) if is_error == messages)


def test_a_job_takes_over_what_the_line_would_have(app, run, ended, files, local):
    """The directories of that moment, options, and aliases; and its operation is the shell's."""
    (files / "docs").mkdir()
    (local / "here").mkdir()
    (local / "here" / "a b.txt").write_text("text")
    run("cd docs; lcd here; alias up='put -v'; set limit-rate 10MiB")
    before = set(app.shell.operations)
    assert run("up a*t & cd /; lcd ..; unalias up") == (0, "", "[1] up a*t\n")
    job = ended(1)
    assert (job.state, job.status) == (State.DONE, 0)
    assert output_of(job) == b"a b.txt -> /docs/a b.txt\n"
    assert job.summary.startswith("1 file, 4 B in ")
    assert (files / "docs" / "a b.txt").read_text() == "text"
    assert len(app.shell.operations - before) == 2, "the line, and the job"
    assert run("wait")[0] == 0


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("edit x &", "edit needs the terminal: it cannot be a job"),
        ("more x &", "less needs the terminal: it cannot be a job"),
        (
            "cd x &",
            "cd cannot be a job; these can: put get sync check cp mv rm find du ls hash cat",
        ),
        ("ls && exit &", "exit cannot be a job; these can: "),
        ("jobs &", "jobs cannot be a job; "),
        ("cat x &", "cat can only be a job with > FILE or | LOCAL"),
        ("jobs > x", "jobs cannot be used before '>': it is for the terminal"),
    ],
)
def test_what_can_not_be_a_job(app, run, line, reported):
    status, out, err = run(f"mkdir never; {line}")
    assert (status, out) == (2, "") and reported in err
    assert app.shell.jobs.unseen() == [] and run("ls") == (0, "", "")


@pytest.mark.parametrize(
    ("line", "status", "reported"),
    [
        ("put - x &", 2, b"ftp: put - cannot be a job: it reads standard input\n"),
        ("sync --delete . :/ &", 2, b"ftp: sync --delete asks before it deletes"),
        ("put nope / &", 5, b"ftp: nope: no such local file or directory\n"),
        ("get /nope . || ls /nope2 &", 5, b"/nope2: no such file or directory\n"),
    ],
)
def test_a_job_asks_nothing_and_fails(app, run, ended, line, status, reported):
    assert run(line)[0] == 0
    job = ended(1)
    assert (job.state, job.status) == (State.FAILED, status)
    assert reported in output_of(job, messages=True)
    code, out, err = run("wait 1")
    assert code == status and f"[1] failed {status} {line[:-2]}\n" in err
    assert run("kill 1")[::2] == (5, "ftp: job 1 has ended already\n")


def test_deleting_without_a_question(app, run, ended, files):
    (files / "gone").write_text("x")
    run("lmkdir empty; put -r empty /")
    run("sync --delete --force -y empty :/ &")
    assert ended(1).status == 0
    assert list(files.glob("[!.]*")) == []


def test_output_goes_to_files_and_local_commands(app, run, ended, files, local):
    (files / "f").write_text("b\na\n")
    run("cat f > copy &; cat f | sort > sorted & ls /nope > none &".replace("&;", "&"))
    assert [ended(number).status for number in (1, 2, 3)] == [0, 0, 5]
    assert (local / "copy").read_text() == "b\na\n"
    assert (local / "sorted").read_text() == "a\nb\n"
    assert not (local / "none").exists()


def test_a_job_that_cannot_be_started_does_not_stop_the_others(app, run, ended, files):
    """Whatever the reason is: the thread that starts jobs goes on."""
    (files / "f").touch()

    def launch(job: Job) -> Process:
        raise ValueError("embedded null byte")

    assert app.shell.jobs.add("put x", launch).number == 1
    failed = ended(1)
    assert (failed.state, failed.status) == (State.FAILED, 1)
    assert b"internal error: ValueError: embedded null byte" in output_of(failed, messages=True)
    run("ls / &")
    assert output_of(ended(2)) == b"f\n"


def test_two_jobs_that_do_the_same(app, run, local):
    (local / "f").write_bytes(bytes(50 * MIB))
    run("put --limit-rate 1MiB f / &")
    assert run("put -v --limit-rate 2MiB f / &")[::2] == (2, "ftp: job 1 does that already\n")
    assert run("put f /g & kill -a")[0] == 0


def test_a_watch_does_not_name_a_key_that_cannot_reach_it(app, run, local):
    (local / "site").mkdir()
    run("sync --watch site :/www &")
    job = app.shell.jobs.find(1)
    with app.shell.jobs.changed:
        app.shell.jobs.changed.wait_for(lambda: output_of(job, messages=True), 30)
    assert output_of(job, messages=True) == b"ftp: watching site\n"
    assert run("kill 1; wait")[0] == 0


def test_names_of_any_bytes(app, run, ended, files, local):
    """As a script may have them, in the line and in an alias."""
    name = os.fsdecode(b"\xff\n")
    (local / name).write_text("x")
    run(f"alias up='put \"{name}\"'")
    run(f"put '{name}' /one &\n".strip())
    run("up /two &")
    assert ended(1).status == ended(2).status == 0
    assert (files / "one").exists() and (files / "two").exists()


def test_output_is_shown_by_jobs(app, run, ended, files):
    (files / "f").write_text("x")
    run("ls / /nope &")
    ended(1)
    code, out, err = run("jobs -o 1")
    assert code == 0 and "f\n" in out and "/nope: no such file" in err
    assert run("jobs -o %1")[1] == out
    assert run("jobs -o 2")[::2] == (5, "ftp: no job 2 (jobs lists them)\n")
    assert run("jobs -o x")[0] == 2
    assert run("wait x")[2].startswith("ftp: N: 'x' is not the number of a job")
    code, out, err = run("jobs --json")
    record = json.loads(out)
    assert record.pop("started") and record == {
        "job": 1,
        "state": "failed",
        "words": "ls / /nope",
        "done": 0,
        "size": None,
        "files": 0,
        "failed": 0,
        "status": 1,
    }
    assert run("jobs") == (0, "", "")


def test_much_output_is_bounded(app, run, ended, files):
    """10 MiB."""
    directory = files / "many"
    directory.mkdir()
    for number in range(200):
        (directory / f"{number:03}{'x' * 240}").touch()
    run(f"ls {'many ' * 215}&")
    job = ended(1)
    assert job.status == 0
    assert job.output.end > 10 * MIB
    assert len(output_of(job)) == MOST_OUTPUT
    code, out, err = run("jobs -o 1")
    assert len(out) == MOST_OUTPUT and "only the last 1.0 MiB of its output are kept" in err


@pytest.fixture
def slow(app, run, local) -> Job:
    """A job that takes long, once it has transferred something."""
    (local / "big").write_bytes(os.urandom(MIB) * 40)
    run("put --limit-rate 6MiB big / &")
    job = app.shell.jobs.find(1)
    eventually(lambda: job.headway is not None and job.headway.done > 8 * MIB, "some of it")
    return job


def test_kill_keeps_what_was_transferred(app, run, slow, ended, files):
    assert slow.headway.size == 40 * MIB and slow.state is State.RUNNING
    assert run("kill 1") == (0, "", "")
    assert ended(1).state is State.STOPPED
    assert run("wait")[::2] == (
        130,
        "[1] ftp: interrupted: stopped at "
        + output_of(slow, messages=True).decode().partition("stopped at ")[2]
        + "[1] stopped put --limit-rate 6MiB big /\n",
    )
    (kept,) = app.client.kept()
    assert kept.size >= 8 * MIB
    assert run("set limit-rate none; put big /")[0] == 0
    assert (files / "big").stat().st_size == 40 * MIB


def test_kill_twice_ends_a_process_that_hangs(app, run, slow, ended):
    os.kill(slow.process._popen.pid, 19)  # it cannot stop by itself
    assert run("kill 1; kill 1")[0] == 0
    assert ended(1).state is State.STOPPED


def test_fg_shows_the_rest(app, run, files):
    (files / "f").write_text("x")
    run("find / | sh -c 'cat; sleep 0.2; echo more' &")
    assert run("fg")[:2] == (0, "/\n/f\nmore\n")
    assert run("fg")[::2] == (5, "ftp: fg: no job runs (fg N shows one that has ended)\n")
    run("ls /nope &")
    code, out, err = run("fg 1")
    assert code == 5 and err.count("/nope: no such file") == 1
    assert run("bg")[0] == 0


def test_fg_shows_what_has_ended(app, run, ended, files, capfd):
    """Its output and its result, also if both were shown before."""
    (files / "f").write_text("x")
    run("ls / /nope &")
    ended(1)
    job_display.print_notices(app)  # as above a prompt
    assert "[1] failed 1 ls / /nope" in capfd.readouterr().err
    for _ in range(2):
        code, out, err = run("fg 1")
        assert code == 1 and out == output_of(app.shell.jobs.find(1)).decode() and "f\n" in out
        assert err == "ftp: /nope: no such file or directory\n[1] failed 1 ls / /nope\n"
    assert run("fg")[0] == 5


def test_fg_alone_shows_the_newest_even_if_it_has_ended(app, run, ended, files):
    """So `find / & fg` means the same however fast it is. The notice of another is not lost."""
    run("ls / &")
    run("find / &")
    ended(1)
    ended(2)
    assert run("fg") == (0, "/\n", "[1] done    ls /\n[2] done    find /\n")
    assert run("fg")[0] == 5 and app.shell.jobs.take_notices(ends_are_seen=True) == []


def test_a_queue(app, run, files):
    run("set jobs 1")
    for number in range(3):
        run(f"find / | sh -c 'sleep 0.1; echo {number} >> order' &")
    assert [job.state for job in app.shell.jobs.active()][1:] == [State.QUEUED] * 2
    assert run("wait")[0] == 0
    with open("order") as order:
        assert order.read() == "0\n1\n2\n"


def test_without_a_session_a_job_waits(start_server, local, capfd):
    """The server has room for the shell alone, until that has left."""
    server = start_server(durable=False)
    server.accounts.change("alice", max_sessions=1)
    with shell_of(server) as app, background.running(app):
        assert run_line(app, "ls / &") == 0
        (job,) = app.shell.jobs.active()
        eventually(lambda: job.not_before > 0 and job.state is State.QUEUED, "it is queued")
        app.close()
        app.shell.jobs._clock = lambda: job.not_before
        app.shell.jobs.limit_changed()
        assert app.shell.jobs.wait([job], PATIENCE)
        assert job.status == 0


# leaving ------------------------------------------------------------------------------------


def test_leaving_takes_two_lines(app, run, slow):
    reported = "ftp: 1 job runs: exit again stops it (it can be resumed), exit -w waits\n"
    assert run("exit")[::2] == (1, reported)
    assert run("pwd")[:2] == (0, "/\n")
    assert run("exit")[::2] == (1, reported) and not app.shell.leaving
    assert run("exit 3")[0] == 3 and app.shell.leaving


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (["find / | cat"], "1 job runs: exit again stops it, exit -w waits"),
        (["ls /", "put --atomic -r d /e"], "2 jobs run: exit again stops them, exit -w waits"),
        (
            ["ls /", "send b / && du"],
            "2 jobs run: exit again stops them (1 of them can be resumed)",
        ),
        (["sync d :/e", "get - . > x"], "2 jobs run: exit again stops them (1 of them can be"),
        (["up /", "get x ."], "2 jobs run: exit again stops them (they can be resumed), "),
    ],
)
def test_only_of_transfers_it_is_said_that_they_can_be_resumed(app, run, lines, warning):
    app.shell.jobs._limit = lambda: 0  # all stay queued
    run("alias up='put b'; alias send=put")
    for line in lines:
        run(f"{line} &")
    assert run("exit")[2].startswith(f"ftp: {warning}")


def test_a_file_does_not_leave_a_shell_with_jobs_either(app, run, slow, local):
    (local / "lines").write_text("exit\n")
    assert run("source lines")[0] == 1 and not app.shell.leaving
    assert run("exit")[0] == 0 and app.shell.leaving


def test_leaving_waits_if_asked(app, run):
    run("find / | sh -c 'sleep 0.2; echo x > done' &")
    assert run("exit -w")[0] == 0 and app.shell.leaving
    assert os.path.exists("done")


def test_the_end_of_a_shell_ends_its_processes(server, local, capfd):
    (local / "big").write_bytes(bytes(40 * MIB))
    with shell_of(server) as app, background.running(app):
        run_line(app, "put --limit-rate 1MiB big / &")
        (job,) = app.shell.jobs.active()
        eventually(lambda: job.process is not None, "it runs")
        pid = job.process._popen.pid
    assert job.state is State.STOPPED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# scripts ------------------------------------------------------------------------------------


@pytest.fixture
def batch(server, local, capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs lines as -c does."""

    def run(*lines: str, **flags: bool) -> tuple[int, str, str]:
        with shell_of(server) as app:
            for name, value in flags.items():
                setattr(app, name, value)
            status = scripts.run_script(app, Script(lines))
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_a_script_waits_and_prints_what_its_jobs_found(batch, files):
    (files / "f").write_text("x")
    assert batch("find / | sh -c 'sleep 0.2; cat' & ls / &", "pwd") == (0, "/\n/\n/f\nf\n", "")


def test_what_jobs_found_is_printed_once_also_after_a_wait(batch, files):
    (files / "f").write_text("x")
    assert batch("ls / & wait", "pwd") == (0, "/\nf\n", "")
    assert batch("ls / & wait", "find / & wait", "jobs -o 1") == (0, "f\n/\n/f\n", "")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("ls /nope & find / -size x &",), 5),
        (("find / -size x & ls /nope &", "pwd"), 2),
        (("ls /nope &", "frobnicate", "pwd"), 2),
        (("- ls /nope & ls / &",), 0),
        (("ls /nope &", "-wait", "pwd"), 0),
        (("ls /nope &", "wait 1", "pwd"), 5),
        (("ls /nope &", "exit 3", "pwd"), 3),
        (("ls /nope &", "exit", "pwd"), 5),
    ],
)
def test_the_status_of_a_script(batch, lines, status):
    """Of the line that failed, else of the first job that did."""
    found, out, err = batch(*lines)
    assert found == status
    assert ("[1] failed" in err) == ("-wait" in lines or status != 0 or "-" in lines[0][:1])


def test_a_script_with_json(batch, files):
    (files / "f").write_text("x")
    status, out, err = batch("ls / & ls /nope &", as_json=True)
    records = [json.loads(line) for line in out.splitlines()]
    ends = {one["job"]: (one["state"], one["status"]) for one in records if "job" in one}
    assert ends == {1: ("done", 0), 2: ("failed", 5)}
    assert [one["path"] for one in records if "path" in one] == ["/f"]
    assert json.loads(err)["error"] == "not-found" and status == 5


def test_an_rc_file_starts_no_jobs(app, local, capfd):
    (local / "rc").write_text("ls / &\n")
    scripts.run_rc(app, local / "rc")
    assert "an rc file cannot start jobs" in capfd.readouterr().err


def test_the_task_is_in_no_list_of_processes(app, run, slow):
    """Not the password, nor a token."""
    pid = slow.process._popen.pid
    shown = subprocess.run(["ps", "-ww", "eww", "-p", str(pid)], capture_output=True, check=True)
    assert b"ftpclient.shell.job_child" in shown.stdout
    assert b"secret" not in shown.stdout
    assert "secret" not in repr(ShellState()) and slow.launch is not None


# unfinished transfers -----------------------------------------------------------------------


@pytest.fixture
def stopped(app, run, slow, ended) -> None:
    """One transfer of the list."""
    assert run("resume")[:2] == (0, ""), "it runs"
    run("kill 1; wait")


def test_what_was_stopped_is_resumed_as_a_job(app, run, stopped, ended, files):
    """In the directories of that moment."""
    code, out, err = run("resume")
    assert code == 0 and out.startswith("  1  ") and out.endswith("put --limit-rate 6MiB big /\n")
    record = json.loads(run("resume --json")[1])
    assert record.pop("when") and record.pop("server").startswith("alice@")
    assert record == {
        "number": 1,
        "directory": "/",
        "local_directory": os.getcwd(),
        "words": "put --limit-rate 6MiB big /",
    }
    run("mkdir d; cd d; lcd /")
    assert run("resume 1") == (0, "", "[1] put --limit-rate 6MiB big /\n")
    assert run("resume -a")[::2] == (2, "ftp: job 1 does that already\n")
    assert ended(1).status == 0
    assert (files / "big").stat().st_size == 40 * MIB
    assert run("resume")[:2] == (0, "")


def test_forgetting(app, run, stopped):
    assert run("resume 2")[::2] == (5, "ftp: no unfinished transfer 2 (resume lists them)\n")
    assert run("resume --forget")[0] == run("resume -a 1")[0] == 2
    assert run("resume --forget 1") == run("resume") == (0, "", "")


def test_one_of_another_server(app, run, stopped, monkeypatch):
    monkeypatch.setattr(app.client, "user", "bob")
    code, out, err = run("resume")
    assert code == 0 and "  (of alice@" in out
    code, out, err = run("resume 1")
    assert code == 2 and "this transfer is of alice@" in err
    assert run("resume -a") == (0, "", "")


def test_a_command_in_the_foreground_is_noted_as_well(app, run, local, files, monkeypatch):
    (local / "big").write_bytes(os.urandom(MIB) * 20)
    run("alias up='put'")
    put = type(app.client).put

    def stop_it(*arguments, **more):
        more["listener"].started(b"big", 20 * MIB)
        app.interrupt.set()
        return put(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(app.client), "put", stop_it)
        assert run("up big /b")[0] == 130
    assert run("resume")[1].endswith("up big /b\n")
    run("unalias up; resume 1; wait")
    assert (files / "b").stat().st_size == 20 * MIB
    assert run("resume") == (0, "", "")


def test_a_script_can_resume(server, batch, local, files):
    (local / "big").write_bytes(bytes(MIB))
    host, port = server.server_address[:2]
    address = str(ServerAddress.parse(f"alice@{host}:{port}"))
    Transfers().add(Transfer(address, "/", str(local), "put big /b", int(time.time())))
    assert batch("resume -a")[:2] == (0, "")
    assert (files / "b").stat().st_size == MIB
    assert Transfers().unfinished() == []


def test_scripts_are_not_noted(batch, local, monkeypatch):
    (local / "big").write_bytes(os.urandom(MIB) * 8)
    assert batch("put big /a", "put big /b &", "!test ! -e ~/.local/state")[0] == 0


def test_the_local_directory_is_gone(app, run, local, ended):
    (local / "here").mkdir()
    run("set jobs 1; lcd here")
    run("find / | sh -c 'rmdir ../here' & ls / &")
    job = ended(2)
    assert job.status == 5
    assert output_of(job, messages=True).endswith(b"/local/here: no such file or directory\n")
    run("lcd ..")


def test_a_character_may_come_in_two_pieces(app, run):
    jobs = app.shell.jobs = Jobs(lambda: 1)

    def no_process(job: Job) -> Process:
        raise AssertionError(job)

    job = jobs.add("find /", no_process)
    assert jobs.next_to_start() is job

    def work() -> None:
        jobs.printed(job, b"\xc3", is_error=False)
        eventually(lambda: job.shown == 1, "it is shown")
        jobs.printed(job, b"\xa9\n", is_error=False)
        jobs.ended(job, 0)

    thread = threading.Thread(target=work)
    thread.start()
    assert run("fg")[:2] == (0, "é\n")
    thread.join()


def test_modules_in_the_local_directory_are_not_imported(app, run, ended, local):
    for name in ("json", "msgspec", "click", "ftpclient"):
        (local / f"{name}.py").write_text("raise SystemExit('imported from the local directory')")
    run("ls / &")
    assert ended(1).status == 0


def test_a_task_is_one_line():
    """Of a server at a Unix socket, with any text."""
    task = Task(
        "put '\udcff\n' /",
        Server(ServerAddress.parse("alice@unix:/run/a b")),
        Credential("alice", "pass\nwörd", is_token=True),
        b"/\xff\n",
        {"ca": None, "quiet": True},
        {"jobs": "4"},
        {"up": "put '\udcfe'"},
        ("file", 3),
    )
    line = encoded(task)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decoded(line) == task
