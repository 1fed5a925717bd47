"""The table of jobs, without processes: numbers, the queue, states, output and notices."""

from __future__ import annotations

import threading

import pytest

from ftpclient.cli import job_lines, records
from ftpclient.cli.headway import Headway
from ftpclient.cli.jobs import MOST_OUTPUT, Job, Jobs, Output, Report, SameJob, State
from ftpwire.cells import cells
from ftpwire.errors import NotFound


class Fake:
    """A process that notes what is asked of it."""

    def __init__(self) -> None:
        self.requested: list[str] = []

    def stop(self) -> None:
        self.requested.append("stop")

    def kill(self) -> None:
        self.requested.append("kill")


class Table:
    """A table, and the thread of its processes done by hand."""

    def __init__(self, limit: int = 4, **options) -> None:
        self.now = 1000.0
        self.limit = limit
        self.jobs = Jobs(lambda: self.limit, clock=lambda: self.now, **options)
        self.processes: dict[Job, Fake] = {}

    def add(self, words: str = "put x", **more) -> Job:
        return self.jobs.add(words, lambda job: Fake(), **more)

    def start(self) -> list[Job]:
        """Start what may start."""
        started = []
        while (job := self.jobs.next_to_start()) is not None:
            self.processes[job] = Fake()
            self.jobs.began(job, self.processes[job])
            started.append(job)
        return started

    def reported(self, *, seen: bool = True) -> list[str]:
        notices = self.jobs.take_notices(ends_are_seen=seen)
        return [job_lines.notice(one) for one in notices]


@pytest.fixture
def table() -> Table:
    return Table()


def test_four_run_and_the_others_wait_in_order(table):
    jobs = [table.add(f"put {n}") for n in range(7)]
    assert [job.number for job in jobs] == [1, 2, 3, 4, 5, 6, 7]
    assert table.start() == jobs[:4]
    assert [job.state for job in jobs[4:]] == [State.QUEUED] * 3
    table.jobs.ended(jobs[2], 0)
    assert table.start() == [jobs[4]]
    table.limit = 6
    assert table.start() == jobs[5:]
    assert table.jobs.active() == [job for job in jobs if job is not jobs[2]]


def test_the_lowest_number_that_is_free(table):
    first, second = table.add("put 1"), table.add("put 2")
    table.start()
    table.jobs.ended(first, 0)
    assert table.add("put 3").number == 3, "nobody knows yet that 1 has ended"
    assert table.reported() == ["[1] done    put 1"]
    assert table.jobs.find(1) is first, "its output can still be shown"
    again = table.add("put 4")
    assert again.number == 1 and table.jobs.find(1) is again
    assert second.number == 2


def test_a_script_keeps_a_number_until_it_asked(table):
    first = table.add("put 1")
    table.start()
    table.jobs.ended(first, 0)
    table.reported(seen=False)
    assert table.add("put 2").number == 2
    table.jobs.seen(first)
    assert table.add("put 3").number == 1


def test_what_another_job_does_already(table):
    first = table.add(keys=[("put", "x", "/")])
    with pytest.raises(SameJob, match="job 1 does that already") as caught:
        table.add(keys=[("rm", "y"), ("put", "x", "/")])
    assert caught.value.exit_code == 2
    table.start()
    table.jobs.ended(first, 0)
    assert table.add(keys=[("put", "x", "/")]).state is State.QUEUED


def test_states_and_their_lines(table):
    done, failed, stopped, killed, by_itself, lost = (table.add(f"put {n}") for n in range(6))
    table.limit = 9
    table.start()
    table.jobs.reported(done, Report(summary="300 files, 1.7 MiB in 4.0 s"))
    table.jobs.ended(done, 0)
    table.jobs.ended(failed, 7)
    table.jobs.stop(stopped)
    table.jobs.ended(stopped, 130)
    table.jobs.stop(killed)
    table.jobs.stop(killed)
    assert table.processes[killed].requested == ["stop", "kill"]
    table.jobs.ended(killed, -9)
    table.jobs.ended(by_itself, 130)
    table.jobs.ended(lost, -11)
    assert table.reported() == [
        "[1] done    put 0: 300 files, 1.7 MiB in 4.0 s",
        "[2] failed 7 put 1",
        "[3] stopped put 2",
        "[4] stopped put 3",
        "[5] stopped put 4",
        "[6] failed 139 put 5",
    ]
    assert [job.status for job in (done, failed, stopped, killed)] == [0, 7, 130, 130]
    table.jobs.stop(done)
    assert done.state is State.DONE


def test_the_end_of_a_job_says_where_its_output_is(table):
    listed, failed = table.add("ls"), table.add("du /none")
    table.start()
    table.jobs.printed(listed, b"a\nb\n", is_error=False)
    table.jobs.printed(failed, b"ftp: none\n", is_error=True)
    table.jobs.ended(listed, 0)
    table.jobs.ended(failed, 5)
    assert table.reported() == [
        "[2] ftp: none",
        "[1] done    ls  (output: jobs -o 1)",
        "[2] failed 5 du /none",
    ]


def test_a_number_is_kept_until_the_results_were_shown(table):
    listed = table.add("ls")
    table.start()
    table.jobs.printed(listed, b"a\n", is_error=False)
    table.jobs.ended(listed, 0)
    table.reported()
    assert table.add("put 2").number == 2
    listed.shown = listed.output.end
    assert table.add("put 3").number == 1


def test_a_long_command_is_shortened(table):
    job = table.add("put " + "x" * 5000)
    assert len(job_lines.started(job)) < 300
    table.start()
    table.jobs.ended(job, 0)
    assert len(job_lines.row(job, 80)) < 300 and max(map(len, table.reported())) < 300


def test_one_that_ends_while_it_is_stopped_is_done(table):
    job = table.add()
    table.start()
    table.jobs.stop(job)
    table.jobs.ended(job, 0)
    assert job.state is State.DONE


def test_stopped_before_it_has_a_process(table):
    table.limit = 1
    first, second = table.add("put 1"), table.add("put 2")
    assert table.jobs.next_to_start() is first
    table.jobs.stop(first)
    process = Fake()
    table.jobs.began(first, process)
    assert process.requested == ["stop"]
    table.jobs.stop(second)
    assert (second.state, second.status) == (State.STOPPED, 130)
    table.jobs.ended(first, 130)
    assert table.start() == []


def test_closing_stops_all_and_starts_none(table):
    table.limit = 1
    first, second = table.add("put 1"), table.add("put 2")
    table.start()
    table.jobs.close()
    assert table.processes[first].requested == ["stop"]
    assert second.state is State.STOPPED
    table.jobs.ended(first, 130)
    table.add("put 3")
    assert table.start() == []


def test_without_a_session_it_is_queued_again(table):
    """It is tried when another job has ended, or after 30 seconds."""
    first, second = table.add("put 1"), table.add("put 2")
    table.start()
    table.jobs.reported(second, Report(is_busy=True))
    table.jobs.ended(second, 1)
    assert (second.state, table.start(), table.reported()) == (State.QUEUED, [], [])
    assert table.jobs.seconds_to_wait() == 30
    table.now += 30
    assert table.start() == [second]
    table.jobs.reported(second, Report(is_busy=True))
    table.jobs.ended(second, 1)
    table.jobs.ended(first, 0)
    assert table.start() == [second]
    table.jobs.reported(second, Report(is_busy=True))
    table.jobs.stop(second)
    table.jobs.ended(second, 1)
    assert second.state is State.STOPPED


def test_those_that_have_ended_are_listed_once(table):
    first, second = table.add("put 1"), table.add("put 2")
    table.start()
    table.jobs.ended(first, 5)
    assert table.jobs.listed() == [first, second]
    assert table.reported() == [], "who has seen the list isn't told again"
    assert table.jobs.listed() == [second]
    assert table.jobs.unseen() == [second]
    with pytest.raises(NotFound, match="no job 3"):
        table.jobs.find(3)


def test_waiting(table):
    job = table.add()
    table.start()
    assert not table.jobs.wait([job], timeout=0)
    waited = threading.Thread(target=table.jobs.wait, args=([job],))
    waited.start()
    table.jobs.ended(job, 0)
    waited.join(60)
    assert not waited.is_alive()
    assert table.jobs.wait([job])


# output -------------------------------------------------------------------------------------


def test_messages_are_whole_lines_and_some_are_counted(table):
    job = table.add("put -r site")
    table.start()
    table.jobs.printed(job, b"ftp: a", is_error=True)
    assert table.reported() == []
    table.jobs.printed(job, b": no\n" + b"".join(b"%d\n" % n for n in range(6)), is_error=True)
    assert table.reported() == [
        "[1] ftp: a: no",
        *(f"[1] {n}" for n in range(4)),
        "[1] … and 2 more (jobs -o 1)",
    ]
    table.jobs.printed(job, b"x\n" * 7 + b"\x1b[2J and no end", is_error=True)
    table.jobs.ended(job, 1)
    assert table.reported() == [
        *["[1] x"] * 5,
        "[1] … and 3 more (jobs -o 1)",
        "[1] failed 1 put -r site",
    ]
    shown = b"".join(data for is_error, data in job.output.since(0) if is_error)
    assert shown.count(b"\n") == 14 and shown.endswith(b"no end")


def test_a_line_without_an_end_is_bounded(table):
    job = table.add()
    table.start()
    for _ in range(10):
        table.jobs.printed(job, b"a" * 100_000, is_error=True)
    assert len(job.begun_line) < 10_000
    table.jobs.printed(job, b"\x1b[2J\n", is_error=True)
    (line,) = table.reported()
    assert len(line) < 5000 and "\x1b" not in line


def test_a_job_in_the_foreground_has_no_notices_of_its_messages(table):
    job = table.add()
    table.start()
    table.jobs.printed(job, b"result\n", is_error=False)
    table.jobs.printed(job, b"message\n", is_error=True)
    assert table.jobs.take_output(job, 0) == [(False, b"result\n"), (True, b"message\n")]
    assert table.reported() == []
    assert table.jobs.take_output(job, job.output.end) == []


def test_the_last_mib_of_output_is_kept():
    output = Output()
    for number in range(10 * MOST_OUTPUT // 4096):
        output.add(b"%4096d" % number, is_error=bool(number % 2))
    kept = list(output.since(0))
    assert sum(len(data) for _, data in kept) == MOST_OUTPUT
    assert output.dropped == 9 * MOST_OUTPUT and output.end == 10 * MOST_OUTPUT
    assert kept[-1] == (True, b"%4096d" % (10 * MOST_OUTPUT // 4096 - 1))
    output.add(b"the end", is_error=False)
    assert list(output.since(output.end - 3)) == [(False, b"end")]
    assert sum(len(data) for _, data in output.since(0)) == MOST_OUTPUT
    output.add(b"x" * (MOST_OUTPUT + 5), is_error=False)
    assert list(output.since(0)) == [(False, b"x" * MOST_OUTPUT)]


# texts --------------------------------------------------------------------------------------


def running(table, words: str, headway: Headway | None) -> Job:
    job = table.add(words)
    table.start()
    if headway is not None:
        table.jobs.reported(job, Report(headway))
    return job


MIB = 2**20


def test_the_line_below_the_prompt(table):
    running(table, "put big.iso", Headway(43 * MIB, 100 * MIB, rate=3 * MIB))
    running(table, "sync site :/www", Headway(0, None, files="120/300 files", count=120))
    running(table, "find /", None)
    table.add("put later")
    jobs = table.jobs.active()
    whole = (
        "[1] put big.iso 43% 3.0 MiB/s 0:19  [2] sync site :/www 120/300 files  [3] find /"
        "  +1 queued"
    )
    assert job_lines.below_prompt(jobs, 200) == whole
    assert job_lines.below_prompt(jobs, 60) == ("[1] put big.iso 43% 3.0 MiB/s 0:19  +2  +1 queued")
    assert job_lines.below_prompt(jobs, 38) == "4 jobs 43%"
    for width in range(1, 200):
        assert cells(job_lines.below_prompt(jobs, width)) <= width
    assert job_lines.below_prompt(jobs[3:], 80) == "+1 queued"


def test_the_list_and_its_records(table):
    job = running(table, "put 'a\nb'", Headway(5, 10, rate=5.0, count=1, failed=2))
    row = job_lines.row(job, 80)
    assert row.split()[:3] == ["1", "running", "50%"]
    assert "0:01" in row and row.endswith(r"put 'a\nb'")
    assert job_lines.row(job, 40).split(None, 3) == ["1", "running", "50%", r"put 'a\nb'"]
    assert job_lines.heading(40).split() == ["N", "STATE", "%", "WORDS"]
    record = records.job_record(job)
    started = record.pop("started")
    assert started.endswith("Z")
    assert record == {
        "job": 1,
        "state": "running",
        "words": r"put 'a\nb'",
        "done": 5,
        "size": 10,
        "files": 1,
        "failed": 2,
        "status": None,
    }
    table.jobs.ended(job, 7)
    assert "failed 7" in job_lines.row(job, 80) and "%" not in job_lines.row(job, 80)
    assert records.job_record(job)["status"] == 7
