"""The jobs of a shell: their numbers, states, output and notices.

Lives here: the table, without processes and without a terminal. Lives elsewhere: the processes
(shell/job_processes.py), starting a job from a line (shell/background.py), texts (job_lines.py),
the commands (commands/jobs.py), showing notices above the prompt (shell/above_prompt.py).

Two threads use the table: the main thread adds, stops and shows jobs; the thread of
`JobProcesses` starts them, and records their output and their ends. ``changed`` is notified after
each change, and its lock guards all attributes of the table and of its jobs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import Protocol

import msgspec

from ftpclient.cli.headway import Headway
from ftpwire.errors import CommandError, Interrupted, NotFound

MOST_OUTPUT = 1024 * 1024
"""Bytes of a job's output that are kept."""
LINES_AT_ONCE = 5
"""Maximum lines of a job's messages that are shown at once; the others are only counted."""
LINES_OF_A_SCRIPT = 1000
"""The same for a script, whose messages may be read later."""
_LONGEST_LINE = 4096
_RETRY_SECONDS = 30.0
"""Seconds until a job is tried again, after the server had no session for it."""


class State(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"


class Process(Protocol):
    """The process that runs a job. The methods don't wait, and do nothing once it has ended."""

    def stop(self) -> None:
        """Stop it as Ctrl-C does: what was transferred is kept."""

    def kill(self) -> None:
        """End it at once."""


class Report(msgspec.Struct, omit_defaults=True):
    """A message from a job's process.

    Attributes:
        headway: The progress of its current command.
        summary: The totals of its last transfer, as text.
        operation: The id of its operation in the server's trash.
        is_busy: True if the server has no session for it now, so that nothing was done.
    """

    headway: Headway | None = None
    summary: str = ""
    operation: bytes = b""
    is_busy: bool = False


class Output:
    """The last output of a job.

    Attributes:
        dropped: Bytes that were dropped to keep memory bounded.
        end: Bytes written in all: the offset of the end.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[bool, bytes]] = deque()
        self.dropped = 0
        self.end = 0

    def add(self, data: bytes, *, is_error: bool) -> None:
        """Add output; drop the oldest if there is too much of it."""
        self._pieces.append((is_error, data))
        self.end += len(data)
        while (excess := self.end - self.dropped - MOST_OUTPUT) > 0:
            of_error, oldest = self._pieces.popleft()
            self.dropped += min(excess, len(oldest))
            if excess < len(oldest):
                self._pieces.appendleft((of_error, oldest[excess:]))

    def since(self, offset: int) -> Iterator[tuple[bool, bytes]]:
        """Yield the output from an offset on: True for messages, and the bytes."""
        at = self.dropped
        for is_error, data in tuple(self._pieces):
            skipped = max(0, offset - at)
            at += len(data)
            if skipped < len(data):
                yield is_error, data[skipped:]


class Job:
    """One job.

    Attributes:
        number: Its number.
        words: The command line.
        keys: Its sources and targets, to find a second job with the same ones.
        is_forgiven: True if its failure doesn't count in a batch.
        resumes: True if the same line goes on where the job was stopped.
        launch: A function that starts its process.
        state: Its state.
        status: The exit status, once it has ended.
        headway: The progress, as far as it is known.
        summary: The totals of its last transfer, as text.
        output: The last output.
        shown: The offset up to which the output was shown.
        started: When it was started, in seconds since 1970.
        stops: How often it was asked to stop.
        process: Its process, while it runs.
        not_before: When a queued job may be tried, on the table's clock.
        is_seen: True once the user has seen that it has ended.
        is_listed: True once `jobs` has shown it as ended.
        begun_line: The beginning of a line of its messages whose end has not been received.
        lines: The number of lines of messages since notices were last taken.
        lines_left_out: How many further ones were only counted.
    """

    def __init__(
        self,
        number: int,
        words: str,
        launch: Callable[[Job], Process],
        *,
        keys: frozenset[object] = frozenset(),
        is_forgiven: bool = False,
        resumes: bool = False,
        started: float = 0.0,
    ) -> None:
        self.number = number
        self.words = words
        self.keys = keys
        self.is_forgiven = is_forgiven
        self.resumes = resumes
        self.launch: Callable[[Job], Process] | None = launch
        self.state = State.QUEUED
        self.status: int | None = None
        self.headway: Headway | None = None
        self.summary = ""
        self.output = Output()
        self.shown = 0
        self.started = started
        self.stops = 0
        self.process: Process | None = None
        self.not_before = 0.0
        self.is_seen = False
        self.is_listed = False
        self.begun_line = b""
        self.lines = 0
        self.lines_left_out = 0

    @property
    def has_results(self) -> bool:
        """True if it has printed results that weren't shown yet."""
        return any(not is_error for is_error, _ in self.output.since(self.shown))

    @property
    def is_over(self) -> bool:
        """True if the user knows of its end and its results, so that its number can be reused."""
        return self.is_seen and not self.has_results

    @property
    def is_active(self) -> bool:
        """True if it is queued or running."""
        return self.state in (State.QUEUED, State.RUNNING)


class Notice(msgspec.Struct, frozen=True):
    """A message of a job, or its end, that the user has not seen yet.

    Attributes:
        job: The job.
        line: A line of its messages; empty for its end.
        left_out: The number of further lines that are left out.
    """

    job: Job
    line: str = ""
    left_out: int = 0


class Jobs:
    """The table of jobs.

    Args:
        limit: A function that returns how many jobs may run at once.
        most_lines: Lines of a job's messages that are kept until they are shown.
        operations: A set to which the ids of the jobs' operations are added.
        before_first: A function to call before the first job is added.
        clock: A monotonic clock, in seconds.

    Attributes:
        changed: Notified after each change, with its lock held.
        listeners: Functions to call after each change, with the lock held: they must not wait.
    """

    def __init__(
        self,
        limit: Callable[[], int],
        *,
        most_lines: int = LINES_AT_ONCE,
        operations: set[bytes] | None = None,
        before_first: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = threading.Condition()
        self.listeners: list[Callable[[], None]] = []
        self._operations = set() if operations is None else operations
        self._limit = limit
        self._before_first: Callable[[], None] | None = before_first
        self._most_lines = most_lines
        self._clock = clock
        self._jobs: dict[int, Job] = {}
        self._queue: list[Job] = []
        self._notices: list[Notice] = []
        self._is_closed = False

    # for the main thread ----------------------------------------------------------------------

    def add(
        self,
        words: str,
        launch: Callable[[Job], Process],
        *,
        keys: Iterable[object] = (),
        is_forgiven: bool = False,
        resumes: bool = False,
    ) -> Job:
        """Add a job, which starts as soon as it may. Raises SameJob if one does the same."""
        wanted = frozenset(keys)
        with self.changed:
            for other in self.active():
                if wanted & other.keys:
                    raise SameJob(f"job {other.number} does that already")
            if self._before_first is not None:
                self._before_first()
                self._before_first = None
            number = 1
            while number in self._jobs and not self._jobs[number].is_over:
                number += 1
            job = Job(
                number,
                words,
                launch,
                keys=wanted,
                is_forgiven=is_forgiven,
                resumes=resumes,
                started=time.time(),
            )
            self._jobs[number] = job
            self._queue.append(job)
            self._notify()
            return job

    def find(self, number: int) -> Job:
        """Return a job. Raises NotFound."""
        with self.changed:
            if number not in self._jobs:
                raise NotFound(f"no job {number} (jobs lists them)")
            return self._jobs[number]

    def active(self) -> list[Job]:
        """Return the jobs that are queued or running, by number."""
        with self.changed:
            return [job for job in self._in_order() if job.is_active]

    def unseen(self) -> list[Job]:
        """Return the jobs that are active, or whose end the user has not seen, by number."""
        with self.changed:
            return [job for job in self._in_order() if not job.is_seen]

    def with_results(self) -> list[Job]:
        """Return the jobs that have printed results that weren't shown yet, by number."""
        with self.changed:
            return [job for job in self._in_order() if job.has_results]

    def listed(self) -> list[Job]:
        """Return the active jobs and, once, those that have ended, by number."""
        with self.changed:
            found = [job for job in self._in_order() if not job.is_listed]
            for job in found:
                if not job.is_active:
                    job.is_listed = True
                    self.seen(job)
            return found

    def _in_order(self) -> list[Job]:
        return [self._jobs[number] for number in sorted(self._jobs)]

    def seen(self, job: Job) -> None:
        """Record that the user has seen a job's end, so that its number can be reused."""
        with self.changed:
            job.is_seen = True
            self._notices = [one for one in self._notices if one.job is not job or one.line]

    def stop(self, job: Job) -> None:
        """Stop a job as Ctrl-C does; the second time, end it at once."""
        with self.changed:
            if not job.is_active:
                return
            job.stops += 1
            if job.state is State.QUEUED:
                self._queue.remove(job)
                self._finish(job, Interrupted.exit_code)
            elif job.process is not None:
                if job.stops > 1:
                    job.process.kill()
                else:
                    job.process.stop()
            self._notify()

    def close(self) -> None:
        """Start no further job, and stop all."""
        with self.changed:
            self._is_closed = True
            for job in self.active():
                if not job.stops:
                    self.stop(job)

    def limit_changed(self) -> None:
        """Start queued jobs if more may run now."""
        with self.changed:
            self._notify()

    def wait(self, jobs: Iterable[Job], timeout: float | None = None) -> bool:
        """Wait until all of the jobs have ended; return whether they have."""
        wanted = tuple(jobs)
        with self.changed:
            return self.changed.wait_for(
                lambda: not any(job.is_active for job in wanted), timeout=timeout
            )

    def take_notices(self, *, ends_are_seen: bool) -> list[Notice]:
        """Return the notices, in order, and forget them.

        Args:
            ends_are_seen: True if the numbers of jobs that have ended can be reused afterwards.
        """
        with self.changed:
            notices, self._notices = self._notices, []
            left_out = [
                Notice(job, left_out=job.lines_left_out)
                for job in self._in_order()
                if job.lines_left_out
            ]
            for job in self._jobs.values():
                job.lines = job.lines_left_out = 0
            for notice in notices:
                if ends_are_seen and not notice.line and not notice.left_out:
                    notice.job.is_seen = True
            return notices + left_out

    def take_output(self, job: Job, offset: int) -> list[tuple[bool, bytes]]:
        """Return the output from an offset on, and forget the notices about the same messages."""
        with self.changed:
            self._notices = [one for one in self._notices if one.job is not job]
            job.lines = job.lines_left_out = 0
            return list(job.output.since(offset))

    @property
    def has_ended_some(self) -> bool:
        """True if the end of a job is among the notices."""
        with self.changed:
            return any(not one.line and not one.left_out for one in self._notices)

    @property
    def has_notices(self) -> bool:
        """True if there are notices."""
        with self.changed:
            return bool(self._notices)

    # for the thread of the processes ----------------------------------------------------------

    def next_to_start(self) -> Job | None:
        """Return a job that may start now, and mark it as running; None if there is none."""
        with self.changed:
            running = sum(job.state is State.RUNNING for job in self._jobs.values())
            if self._is_closed or running >= self._limit():
                return None
            now = self._clock()
            for job in self._queue:
                if job.not_before <= now:
                    self._queue.remove(job)
                    job.state = State.RUNNING
                    self._notify()
                    return job
            return None

    def seconds_to_wait(self) -> float | None:
        """Return the seconds until a queued job can be tried again; None if none waits for that."""
        with self.changed:
            if not self._queue:
                return None
            return max(0.0, min(job.not_before for job in self._queue) - self._clock())

    def began(self, job: Job, process: Process) -> None:
        """Record that a job's process was started."""
        with self.changed:
            job.process = process
            if job.stops > 1:
                process.kill()
            elif job.stops:
                process.stop()  # it was stopped meanwhile

    def reported(self, job: Job, report: Report) -> None:
        """Record a report of a job's process."""
        with self.changed:
            job.headway = report.headway or job.headway
            job.summary = report.summary or job.summary
            if report.operation:
                self._operations.add(report.operation)
            if report.is_busy:
                job.not_before = self._clock() + _RETRY_SECONDS
            self._notify()

    def printed(self, job: Job, data: bytes, *, is_error: bool) -> None:
        """Record output of a job: results, or messages."""
        with self.changed:
            job.output.add(data, is_error=is_error)
            if is_error:
                *lines, job.begun_line = (job.begun_line + data).split(b"\n")
                for line in lines:
                    self._add_line(job, line)
                job.begun_line = job.begun_line[:_LONGEST_LINE]
            self._notify()

    def _add_line(self, job: Job, line: bytes) -> None:
        if job.lines >= self._most_lines:
            job.lines_left_out += 1
            return
        job.lines += 1
        text = line[:_LONGEST_LINE].decode("utf-8", "backslashreplace")
        self._notices.append(Notice(job, text or " "))

    def ended(self, job: Job, status: int) -> None:
        """Record that a job's process has ended with a status; negative if a signal ended it."""
        with self.changed:
            job.process = None
            if job.not_before > self._clock() and not job.stops and not self._is_closed:
                job.state = State.QUEUED
                self._queue.insert(0, job)
            else:
                self._finish(job, status if status >= 0 else 128 - status)
                for other in self._queue:
                    other.not_before = 0.0  # the server may have a session now
            self._notify()

    def _finish(self, job: Job, status: int) -> None:
        if status == 0:
            job.state = State.DONE
        elif job.stops or status == Interrupted.exit_code:
            job.state, status = State.STOPPED, Interrupted.exit_code
        else:
            job.state = State.FAILED
        job.status = status
        job.launch = None
        if job.begun_line:
            self._add_line(job, job.begun_line)
            job.begun_line = b""
        if job.lines_left_out:
            self._notices.append(Notice(job, left_out=job.lines_left_out))
            job.lines_left_out = 0
        if not job.is_seen:
            self._notices.append(Notice(job))

    def _notify(self) -> None:
        self.changed.notify_all()
        for listener in tuple(self.listeners):
            listener()


class SameJob(CommandError):
    """Another active job has the same source and target."""

    code = "usage"
    exit_code = 2
