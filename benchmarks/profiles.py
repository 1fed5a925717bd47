"""Profiles of our own programs: one transfer with a profiler on both sides.

Lives here: cProfile in every thread of both processes; py-spy on request.
Lives elsewhere: the transfers (suite.py), starting `ftpd` and `ftp` (peers/ours.py).

cProfile counts CPU seconds of each thread, so waiting costs nothing, but calls look more expensive
than they are. py-spy shows lines and disturbs little, but a thread that waits for a lock or a queue
often counts as running.
"""

from __future__ import annotations

import cProfile
import importlib
import io
import os
import pstats
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.measure import Command, run
from benchmarks.peers.ours import MODULES, PATIENCE, Ours
from benchmarks.processes import Unavailable

PROFILES = {
    "small-up": ("small", True),
    "small-down": ("small", False),
    "large-up": ("large", True),
    "large-down": ("large", False),
}
TOP = 25
ROOT = Path(__file__).resolve().parent.parent


# the profiled program ------------------------------------------------------------------------


class Threads:
    """One profile per thread of this process. ``_lock`` guards the list of finished ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._profiles: list[cProfile.Profile] = []
        self._refused = 0

    def run(self, action: object) -> None:
        """Call ``action`` with a profile of its own."""
        assert callable(action)
        profile = cProfile.Profile(time.thread_time)
        try:
            profile.enable()
        except ValueError:  # Python 3.12 and later allow only one at a time in a process
            self._refused += 1
            action()
            return
        try:
            action()
        finally:
            profile.disable()
            with self._lock:
                self._profiles.append(profile)

    def install(self) -> None:
        """Profile every thread that starts from now on."""
        original = threading.Thread.run
        threads = self

        def run_profiled(self: threading.Thread) -> None:
            threads.run(lambda: original(self))

        threading.Thread.run = run_profiled  # type: ignore[method-assign]

    def write(self, path: str) -> None:
        """Write the sum of all threads' profiles."""
        with self._lock:
            stats = pstats.Stats(*self._profiles)
        stats.dump_stats(path)
        if self._refused:
            print(f"{self._refused} threads were not profiled: use py-spy", file=sys.stderr)


def profiled(path: str, module: str, arguments: list[str]) -> None:
    """Run ``module.main()`` as a program would, and write the profile at the end."""
    sys.argv = [module.removesuffix(".cli"), *arguments]
    main = importlib.import_module(module).main
    threads = Threads()
    threads.install()
    try:
        threads.run(main)
    finally:
        threads.write(path)


# both sides ----------------------------------------------------------------------------------


def profile(bench: Bench, name: str, profiler: str) -> str:
    """Profile one transfer. Return the top functions of both sides as text. Raises Unavailable."""
    what, up = PROFILES[name]
    source = bench.small if what == "small" else bench.large
    ours = Ours(bench.place / "profiled", tls=True)
    ours.place.mkdir()
    bench.peers["profiled"] = ours
    ours.start()
    # an upload without the profiler, so that first-time costs are not profiled; `down` stays stored
    ours.offer(source.path, "down")
    by = {"cprofile": _by_cprofile, "py-spy": _by_py_spy}[profiler]
    return by(bench, ours, command_of(bench, ours, source.path, up))


def command_of(bench: Bench, ours: Ours, source: Path, up: bool) -> Command:
    """Return the transfer to profile. A tree uses one connection, so that the profile shows the
    thread that works, and not how several wait for each other."""
    if source.is_dir():
        ours = ours.over(1)
    if up:
        return ours.put_tree(source, "up") if source.is_dir() else ours.put_file(source, "up")
    target = bench.result("down")
    workloads.remove(target)
    if source.is_dir():
        return ours.get_tree("down", target)
    return ours.get_file("down", target)


def _by_cprofile(bench: Bench, ours: Ours, command: Command) -> str:
    client, server = ours.place / "client.prof", ours.place / "server.prof"
    ours.stop()
    ours.start_server = _wrapped(server, "ftpd")
    ours.launch_server()
    length = len(ours.start_client)
    argv = [*_wrapped(client, "ftp"), *command.argv[length:]]
    ran = run(Command(argv, command.env), bench.log(ours), PATIENCE)
    ours.stop()
    return (
        f"{ran.seconds:.2f} s with cProfile on both sides; CPU seconds by function\n\n"
        f"client\n{top_of_stats(client)}\nserver\n{top_of_stats(server)}"
    )


def _wrapped(output: Path, name: str) -> list[str]:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from benchmarks.profiles import profiled; "
        f"profiled({str(output)!r}, {MODULES[name]!r}, sys.argv[1:])"
    )
    return [sys.executable, "-c", code]


def top_of_stats(path: Path) -> str:
    """Return the functions with the highest cost of their own."""
    out = io.StringIO()
    stats = pstats.Stats(str(path), stream=out)
    stats.sort_stats("tottime").print_stats(TOP)
    text = out.getvalue().partition("ncalls")
    return _shorten(text[1] + text[2]).rstrip() + "\n"


def _shorten(text: str) -> str:
    """Return a text with paths relative to the project, or to the standard library."""
    for prefix in (str(ROOT), str(Path(os.__file__).parent.parent), sys.prefix):
        text = text.replace(prefix + os.sep, "")
    return text


# py-spy --------------------------------------------------------------------------------------


_WAITING = re.compile(r"\b(select|wait|_wait_for_tstate_lock|_housekeeping|poll) \(")
"""Functions that py-spy shows as running although they wait."""


def _py_spy() -> str:
    """Return the path of py-spy. Raises Unavailable."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    found = shutil.which("py-spy", path=path)
    if found is None:
        raise Unavailable("py-spy is not installed")
    return found


def _by_py_spy(bench: Bench, ours: Ours, command: Command) -> str:
    record = [_py_spy(), "record", "--rate", "400", "--format", "raw", "--output"]
    client, server = ours.place / "client.raw", ours.place / "server.raw"
    log = ours.place / "py-spy.log"
    with open(log, "wb") as out:
        watcher = subprocess.Popen(
            [*record, str(server), "--pid", str(ours.server.pid)], stdout=out, stderr=out
        )
    try:
        time.sleep(1.0)  # it takes some time to attach, and does not report when it has
        argv = [*record, str(client), "--", *command.argv]
        ran = run(Command(argv, command.env), bench.log(ours), PATIENCE)
        ours.stop()
        watcher.wait(30)
    finally:
        if watcher.poll() is None:
            watcher.kill()
            watcher.wait()
    return (
        f"{ran.seconds:.2f} s with py-spy on both sides; share of samples by function"
        f"\n\nclient\n{top_of_samples(client)}\nserver\n{top_of_samples(server)}"
    )


def top_of_samples(path: Path) -> str:
    """Return the functions that were running most often."""
    return _shorten(format_samples(path.read_text().splitlines()))


def format_samples(lines: Iterable[str]) -> str:
    """Format lines ``outer;inner COUNT`` as each function's share alone, and with its callees."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if _WAITING.search(frames[-1]) or not frames[-1]:
            continue
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    total = sum(alone.values()) or 1
    shown = [
        f"{count / total:7.1%} {within[frame] / total:7.1%}  {frame}"
        for frame, count in alone.most_common(TOP)
    ]
    return "\n".join([f"{'alone':>7} {'within':>7}", *shown]) + "\n"
