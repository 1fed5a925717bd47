"""The benchmarks: parsers, medians, the delaying link, and one small run of all of it.

No figure is asserted anywhere: only that they come about, and that results are checked.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from benchmarks import __main__ as command_line
from benchmarks import delay, durable, profiles, report, suite, workloads
from benchmarks.measure import (
    Column,
    Command,
    Entry,
    Failed,
    Row,
    Table,
    interleave,
    run,
    run_together,
)
from benchmarks.peers.ours import Ours
from benchmarks.processes import Server, Unavailable, parse_busy, parse_kilobytes, parse_stat, tree
from tests.clock import Clock

ROOT = Path(__file__).resolve().parent.parent.parent


def quiet(text: str) -> None:
    """Nobody watches."""


# parsers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ftpd", "a b", "x) R 1 (y"])
def test_stat_is_read_whatever_the_program_is_called(name):
    fields = ["S", "7", *["0"] * 9, "100", "50", "30", "20", *["0"] * 4, "12345", "0"]
    stat = parse_stat(f"42 ({name}) {' '.join(fields)}\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert (stat.pid, stat.parent, stat.started) == (42, 7, 12345)
    assert stat.cpu == pytest.approx(200 / ticks)


def test_kilobytes():
    assert parse_kilobytes("Name:\tx\nPss:  12 kB\nPss_Dirty: 3 kB\n", "Pss") == 12 * 1024
    assert parse_kilobytes("", "Pss") == 0


def test_busy_cores():
    text = "cpu  100 10 40 9000 50 3 2 5 77 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert parse_busy(text) == pytest.approx(160 / os.sysconf("SC_CLK_TCK"))


@pytest.mark.parametrize(
    ("path", "kind"), [("/dev/shm/x", "tmpfs"), ("/dev/shmx", "ext4"), ("/a b/c", "xfs")]
)
def test_file_system_of_a_path(path, kind):
    mounts = "/dev/vda / ext4 rw 0 0\nnone /dev/shm tmpfs rw 0 0\n/dev/vdb /a\\040b xfs rw 0 0\n"
    assert workloads.parse_file_system(mounts, Path(path)) == kind


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("64M", 2**26), ("3k", 3072), ("4096", 4096), ("7B", 7)]
)
def test_sizes(text, size):
    assert workloads.parse_size(text) == size


def test_wrong_size():
    with pytest.raises(ValueError, match="not a size"):
        workloads.parse_size("much")


def test_samples_of_py_spy():
    text = profiles.format_samples(["main;read 3", "main;write 1", "main;wait (a.py:1) 9"])
    assert text.splitlines()[1].split() == ["75.0%", "75.0%", "read"]


@pytest.mark.parametrize("up", [True, False])
def test_a_tree_is_profiled_over_one_connection(tmp_path, up):
    """So the profile shows the thread that works; a file goes as `ftp` sends it."""
    ours = Ours(tmp_path / "ours", tls=True)
    tree, file = tmp_path / "tree", tmp_path / "file"
    tree.mkdir(), file.touch()
    bench = SimpleNamespace(result=lambda name: tmp_path / name)
    argv = profiles.command_of(bench, ours, tree, up).argv
    assert argv[argv.index("put" if up else "get") :][1:4] == ["-P", "1", "-r"]
    if up:
        assert "-P" not in profiles.command_of(bench, ours, file, up).argv


# figures -------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_the_warm_up_is_not_counted():
    turns: list[str] = []

    def entry(name: str) -> Entry:
        def attempt() -> dict[str, float]:
            turns.append(name)
            return {"seconds": float(len(turns))}

        return Entry(name, attempt)

    rows, notes = interleave([entry("a"), entry("b")], 2, quiet)
    assert turns == ["a", "b"] * 3
    assert [row.values["seconds"] for row in rows] == [[3.0, 5.0], [4.0, 6.0]]
    assert rows[0].median("seconds") == 4.0
    assert not notes


def test_who_fails_is_left_out_and_reported():
    def fails() -> dict[str, float]:
        raise Failed("took more than 1 s, stopped")

    rows, notes = interleave([Entry("a", fails), Entry("b", lambda: {"seconds": 1})], 1, quiet)
    assert [row.name for row in rows] == ["b"]
    assert notes == ["a: took more than 1 s, stopped"]


def table(*, more_is_better: bool = False) -> Table:
    rows = [
        Row("ours", ours=True, values={"x": [1.0, 2.0, 9.0]}),
        Row("limit", limit=True, values={"x": [0.1]}),
        Row("slow", values={"x": [8.0]}),
        Row("fast", values={"x": [1.0]}),
    ]
    return Table("t", "title", (Column("x", "x", 1),), rows, more_is_better=more_is_better)


def test_the_best_peer_is_no_limit_and_losing_is_printed():
    text = report.markdown(table())
    assert "| **ours** | 2.0 (1.0–9.0) |  |" in text
    assert "ours is behind the best peer, fast: **0.50 ×**" in text


def test_more_can_be_better():
    text = report.markdown(table(more_is_better=True))
    assert "ours is behind the best peer, slow: **0.25 ×**" in text
    assert "| fast | 1.0 | 2.00 × |" in text


def test_only_the_marked_part_of_the_document_is_replaced():
    text = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"
    replaced = report.replace_between(text, "new")
    assert replaced == f"above\n{report.BEGIN}\nnew\n{report.END}\nbelow\n"
    with pytest.raises(ValueError, match="needs the lines"):
        report.replace_between("nothing", "new")


def test_the_document_has_the_marks():
    report.replace_between((ROOT / "docs" / "benchmarks.md").read_text(), "figures")


def test_names_of_measurements():
    assert suite.chosen([]) == [name for name in suite.WORKS if name not in suite.NAMED_ONLY]
    assert suite.chosen(["memory"]) == ["memory-up", "memory-down"]
    assert suite.chosen(["clients-8"]) == ["clients-8-up", "clients-8-down"]
    assert suite.chosen(["small-down", "large-plain"]) == [
        "large-plain-down",
        "large-plain-up",
        "small-down",
    ]
    with pytest.raises(KeyError):
        suite.chosen(["larg"])


def test_space_is_taken_only_for_what_is_measured():
    scale = workloads.Scale()
    plain = command_line.needed(scale, ["small-up"])
    assert (plain.sync_files, plain.files_each, plain.memory_files) == (0, 0, ())
    named = command_line.needed(scale, ["trash-remove", "clients-8-up", "memory-down"])
    assert named == scale
    assert named.stored > plain.stored


# commands, servers, sources ------------------------------------------------------------------


def test_a_command_that_takes_too_long_is_stopped(tmp_path):
    with pytest.raises(Failed, match="took more than"):
        run(Command(["sleep", "60"]), tmp_path / "log", 0.05)


def test_a_command_that_fails_is_reported_with_its_last_line(tmp_path):
    command = Command(["sh", "-c", "echo first; echo because >&2; exit 3"])
    with pytest.raises(Failed, match="status 3: because"):
        run(command, tmp_path / "log", 60)


def test_commands_run_at_the_same_time(tmp_path):
    # each waits until the other is there: one after another they would not end
    meet = 'touch "$0/$1"; until [ -e "$0/$2" ]; do :; done'
    commands = [
        Command(["sh", "-c", meet, str(tmp_path), *names]) for names in (("a", "b"), ("b", "a"))
    ]
    logs = [tmp_path / "log-a", tmp_path / "log-b"]
    seconds, rans = run_together(commands, logs, 60)
    assert len(rans) == 2
    assert all(0 < ran.seconds <= seconds for ran in rans)


def test_one_of_several_commands_that_fails_is_reported(tmp_path):
    commands = [Command(["true"]), Command(["sh", "-c", "echo because; exit 3"])]
    with pytest.raises(Failed, match="status 3: because"):
        run_together(commands, [tmp_path / "one", tmp_path / "two"], 60)
    commands = [Command(["false"]), Command(["sleep", "600"])]  # is not waited for
    with pytest.raises(Failed, match="status 1"):
        run_together(commands, [tmp_path / "one", tmp_path / "two"], 600)


def test_the_peak_of_a_command_is_its_own(tmp_path):
    held = bytearray(b"x") * 200_000_000  # of this process: a child's figure must be without it
    result = tmp_path / "peak"
    argv = [sys.executable, "-m", "benchmarks.peak", str(result)]
    environment = {"PYTHONPATH": str(ROOT)}
    run(Command([*argv, sys.executable, "-c", "pass"], environment), tmp_path / "log", 60)
    little = int(result.read_text())
    assert 0 < little < len(held) // 2
    code = "b'x' * 100_000_000"
    run(Command([*argv, sys.executable, "-c", code], environment), tmp_path / "log", 60)
    assert int(result.read_text()) > little + 90_000_000
    with pytest.raises(Failed, match="status 3"):
        run(Command([*argv, "sh", "-c", "exit 3"], environment), tmp_path / "log", 60)


@pytest.mark.system
def test_the_peak_of_a_server_is_that_of_all_its_processes(tmp_path):
    holds = "import sys; held = b'x' * 50_000_000; print('ready', flush=True); sys.stdin.read()"
    script = f'sleep 60 | {sys.executable} -c "{holds}"'
    with Server(["sh", "-c", script], tmp_path / "log") as server:
        server.wait_for_line("ready")
        assert server.peak() > 50_000_000
        server.reset_peak()
        assert server.peak() > 50_000_000  # it still has them


@pytest.mark.system
def test_a_server_ends_with_all_it_has_started(tmp_path):
    with Server(["sh", "-c", "sleep 60 & echo ready; wait"], tmp_path / "log") as server:
        server.wait_for_line("ready")
        processes = tree(server.pid)
        assert len(processes) == 2
    deadline = time.monotonic() + 20
    while any(tree(process.pid) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_ends_at_once_is_reported(tmp_path):
    with (
        Server(["sh", "-c", "echo no such option; exit 1"], tmp_path / "log") as server,
        pytest.raises(Unavailable, match="status 1: no such option"),
    ):
        server.wait_for_line("ready")


def test_sources_are_the_same_every_time_and_results_are_checked(tmp_path):
    one = workloads.Source.of(workloads.small_tree(tmp_path / "one", 30, 4))
    two = workloads.Source.of(workloads.small_tree(tmp_path / "two", 30, 4))
    assert one.digest == two.digest
    one.check(two.path)
    changed = two.path / workloads.names(two.path)[7]
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with pytest.raises(Failed, match="differs"):
        one.check(two.path)
    with pytest.raises(Failed, match="nothing arrived"):
        one.check(tmp_path / "three")


def test_empty_files_are_made_and_counted(tmp_path):
    tree = workloads.empty_tree(tmp_path / "tree", 25, each=10)
    assert workloads.count_files(tree) == 25
    assert sorted(os.listdir(tree)) == ["d00000", "d00001", "d00002"]
    assert all((tree / name).stat().st_size == 0 for name in workloads.names(tree))


# the link with delay -------------------------------------------------------------------------


class SleepingClock(Clock):
    """Time that passes only while somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_each_piece_is_due_one_delay_after_it_came_in_order():
    async def scenario() -> list[tuple[bytes, float]]:
        clock = SleepingClock(100.0)
        line = delay.DelayLine(0.5, not_before=100.1, clock=clock, sleep=clock.sleep)
        await line.put(b"a")  # at 100.0, but counted from 100.1
        clock.now += 0.3
        await line.put(b"b")
        await line.put(b"c")
        came = []
        for _ in range(3):
            data = await line.get()
            came.append((data, round(clock(), 6)))
        return came

    assert asyncio.run(scenario()) == [(b"a", 100.6), (b"b", 100.8), (b"c", 100.8)]


def test_a_limited_line_is_as_slow_as_it_says():
    async def scenario() -> list[float]:
        clock = SleepingClock(100.0)
        line = delay.DelayLine(0.5, rate=1000, clock=clock, sleep=clock.sleep)
        for _ in range(3):
            await line.put(bytes(100))
        clock.now += 0.25
        await line.put(bytes(100))  # there was no gap
        clock.now += 0.35
        await line.put(bytes(100))  # here was one
        came = []
        for _ in range(5):
            await line.get()
            came.append(round(clock(), 6))
        return came

    assert asyncio.run(scenario()) == [100.6, 100.7, 100.8, 100.9, 101.2]


def test_the_proxy_relays_both_ways_in_order_and_passes_the_end_on():
    sent = os.urandom(3_000_000)
    one_way = 0.02

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def scenario() -> tuple[bytes, float]:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with await delay.serve(port, one_way) as proxy:
                began = time.monotonic()
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", proxy.sockets[0].getsockname()[1]
                )
                answer = asyncio.create_task(reader.read())
                writer.write(sent)
                await writer.drain()
                writer.write_eof()
                received = await answer
                passed = time.monotonic() - began
                writer.close()
                await writer.wait_closed()
                return received, passed

    received, passed = asyncio.run(scenario())
    assert received == sent
    assert passed >= 4 * one_way  # the connection's round trip, there, and back


# all of it -----------------------------------------------------------------------------------


RUN_ENDS = 600
"""Seconds after which a run of the command is ended, with all that it has started."""
runs_the_command = pytest.mark.timeout(RUN_ENDS + 60)  # it is ended before the test is


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its document says."""
    command = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=RUN_ENDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # killed, it could not stop its servers
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_list():
    assert benchmarks("--list").stdout.split() == list(suite.WORKS)


def test_unknown_name():
    done = benchmarks("--only", "smal")
    assert done.returncode == 2
    assert "--list" in done.stderr


@pytest.mark.system
@runs_the_command
def test_a_small_run_of_ours(tmp_path):
    results = tmp_path / "results.json"
    place = tmp_path / "data"
    place.mkdir()
    done = benchmarks(
        *("--quick", "--only", "small-up", "--rounds", "1", "--peers", "none"),
        *("--files", "40", "--size", "1MiB", "--dir", str(place), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    assert "| **ours, TLS** |" in done.stdout
    (small_up,) = json.loads(results.read_text())["tables"]
    assert [row["name"] for row in small_up["rows"]] == ["ours, TLS", "ours, plain"]
    assert all(len(row["values"]["seconds"]) == 1 for row in small_up["rows"])
    assert small_up["notes"] == []
    assert not list(place.iterdir())  # nothing is left behind


@pytest.mark.system
@runs_the_command
def test_a_small_run_with_durable_files(tmp_path):
    results = tmp_path / "results.json"
    place = tmp_path / "data"
    place.mkdir()
    done = benchmarks(
        *("--quick", "--only", "durable-files", "--rounds", "1", "--peers", "none"),
        *("--size", "1MiB", "--dir", str(place), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(results.read_text())["tables"]
    assert [row["name"] for row in table["rows"]] == ["1 worker", "2 workers", "workers auto"]
    assert {"rate", "slowest", "server", "clients"} <= table["rows"][0]["values"].keys()
    assert table["notes"][0].startswith("on ")
    assert not list(place.iterdir())


def test_each_client_of_durable_files_has_a_directory_of_its_own(monkeypatch):
    """Also of those that come later: files that replace others cost more."""
    session = Mock()
    monkeypatch.setattr(durable, "Session", lambda spec: session)
    clients = durable.Clients(Mock())
    clients.open(2)
    clients.open(14)
    made = [call.args[0] for call in session.send.call_args_list]
    assert len(set(made)) == len(made) == 16


def test_durable_files_are_measured_where_no_disk_can_be_mounted(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match="only root"), durable.own_disk(tmp_path):
        pass


@pytest.mark.system
@runs_the_command
def test_a_small_run_of_several_clients_and_of_many_files(tmp_path):
    results = tmp_path / "results.json"
    place = tmp_path / "data"
    place.mkdir()
    done = benchmarks(
        *("--quick", "--only", "clients-2", "memory", "--rounds", "1", "--peers", "none"),
        *("--files-each", "30", "--files", "40", "--size", "1MiB"),
        *("--dir", str(place), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    *clients, put, got = json.loads(results.read_text())["tables"]
    assert [table["name"] for table in clients] == ["clients-2-up", "clients-2-down"]
    for table in clients:
        names = [row["name"] for row in table["rows"]]
        assert names == ["ours, workers auto", "ours, 1 worker", "ours, 1 worker, one client"]
        (note,) = table["notes"]
        assert note.startswith("1 worker, 2 clients against 1 client: ")
    for table in (put, got):
        assert [row["name"] for row in table["rows"]] == ["ours, 200 files", "ours, 2,000 files"]
        assert all(row["values"]["client_peak"][0] > 1 for row in table["rows"])
    assert not list(place.iterdir())


@pytest.mark.long
@runs_the_command
def test_a_small_run_of_many_clients_against_all(tmp_path):
    results = tmp_path / "results.json"
    done = benchmarks(
        *("--quick", "--only", "clients-8-up", "stat-beside", "--rounds", "1"),
        *("--files-each", "30", "--files", "40", "--size", "1MiB"),
        *("--dir", str(tmp_path), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    clients, beside = json.loads(results.read_text())["tables"]
    assert any("(floor: 1.0 ×)" in note for note in clients["notes"])
    names = [row["name"] for row in beside["rows"]]
    assert len(names) == 10
    for worker in ("ours, 1 worker", "ours, workers auto"):
        assert f"{worker}, alone" in names
        assert f"{worker}, beside 8, every 10 ms" in names
    assert all({"p50", "p99", "max"} <= row["values"].keys() for row in beside["rows"])
    assert "p99 at most 20 ms" in beside["notes"][0]


@pytest.mark.long
@runs_the_command
def test_a_small_run_with_failing_log_ins(tmp_path):
    results = tmp_path / "results.json"
    done = benchmarks(
        *("--quick", "--only", "timing", "flood", "--rounds", "1", "--peers", "none"),
        *("--size", "1MiB", "--dir", str(tmp_path), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    timing, flood = json.loads(results.read_text())["tables"]
    assert [row["name"] for row in timing["rows"]] == list(suite.REFUSALS)
    assert "the medians differ by" in timing["notes"][0]
    assert len(flood["rows"]) == 4
    assert [note.split()[0] for note in flood["notes"]] == ["down:", "up:"]


@pytest.mark.long
@runs_the_command
def test_a_small_run_with_crowds(tmp_path):
    results = tmp_path / "results.json"
    done = benchmarks(
        *("--quick", "--only", "idle-10000", "engines-1", "--rounds", "1"),
        *("--size", "1MiB", "--dir", str(tmp_path), "--json", str(results)),
    )
    assert done.returncode == 0, done.stderr
    idle, one = json.loads(results.read_text())["tables"]
    assert [row["name"] for row in idle["rows"]] == ["alone", "beside 150"]
    assert "of the transfer's speed is kept" in idle["notes"][0]
    names = [row["name"] for row in one["rows"]]
    assert names[:3] == ["parked threads", "one thread per session", "asyncio"]
    assert all({"rate", "fetch", "total", "log_in"} <= row["values"].keys() for row in one["rows"])
