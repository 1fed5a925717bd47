"""The processes of the jobs: starting them, reading what they write, and their ends.

Lives here: the thread that does this. Lives elsewhere: which job starts when (cli/jobs.py), the
inside of a process (job_child.py).

One thread reads the output of all processes, so a job never waits for the shell; what isn't shown
at once is kept in bounded memory. Each process has a pipe for reports that only it has open: its
end is the end of the process, even if a local command that it started goes on.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from ftpclient.cli.jobs import Job, Jobs, Report
from ftpclient.shell.job_task import STOP, Task, encoded
from ftpwire import paths
from ftpwire.errors import FtpError, from_oserror

_PIECE = 64 * 1024
_LONGEST_REPORT = 64 * 1024
_STOP_SECONDS = 5.0
"""Seconds that jobs get to stop when the shell exits."""
_START = "import sys; sys.path[:] = sys.argv[1:]; import ftpclient.shell.job_child as j; j.main()"
"""The process imports modules from the same directories as the shell, never from the local
directory."""


class _JobProcess:
    """One process, and the shell's ends of its pipes.

    ``_lock`` is held to send a signal and to record that the process was waited for, so that no
    signal goes to another process with the same number.

    Args:
        task: What it has to do; ``reports`` is set here.
        directory: Its local directory.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, task: Task, directory: str) -> None:
        self.reports, reports = os.pipe()
        try:
            task.reports = reports
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, *filter(os.path.isabs, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=directory,
                pass_fds=(reports,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self.reports)
            raise
        finally:
            os.close(reports)
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr
        self.stdin, self.stdout, self.stderr = (
            self._popen.stdin,
            self._popen.stdout,
            self._popen.stderr,
        )
        self._lock = threading.Lock()
        self._is_waited_for = False
        self.begun_report = b""
        self._order(encoded(task))

    def stop(self) -> None:
        self._order(STOP)

    def _order(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ValueError):  # it has ended
            while data:
                data = data[self.stdin.write(data) or 0 :]

    def kill(self) -> None:
        with self._lock:
            if not self._is_waited_for:
                with suppress(ProcessLookupError):  # no process of its group is left
                    os.killpg(self._popen.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until the process, which is ending, has ended; return its status."""
        os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._is_waited_for = True
            return self._popen.wait()

    def close(self) -> None:
        """Close the pipes."""
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
        os.close(self.reports)


class JobProcesses:
    """Runs the jobs of a table as processes, in a thread, until it is closed."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._running: set[Job] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        jobs.listeners.append(self._wake_up)
        self._thread.start()

    def close(self) -> None:
        """Stop all jobs; kill those that still run five seconds later."""
        self._jobs.close()
        active = self._jobs.active()
        if not self._jobs.wait(active, _STOP_SECONDS):
            with self._jobs.changed:
                for job in self._jobs.active():
                    if job.process is not None:
                        job.process.kill()
            if not self._jobs.wait(active, _STOP_SECONDS):
                return  # a process hangs in the kernel, and ends when it can
        self._is_closed = True
        self._wake_up()
        self._thread.join()
        self._jobs.listeners.remove(self._wake_up)
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)

    def _wake_up(self) -> None:
        with suppress(BlockingIOError):  # it is full, so the thread wakes up anyway
            os.write(self._waker, b"!")

    def _run(self) -> None:
        while not self._is_closed:
            while (job := self._jobs.next_to_start()) is not None:
                self._start(job)
            wait = self._jobs.seconds_to_wait()
            # a queued job that may start waits for a running one, whose end wakes this thread
            for key, _ in self._selector.select(wait or None):
                if key.data is None:
                    self._drain_wakes()
                else:
                    key.data()

    def _drain_wakes(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake, 1024):
                pass

    def _start(self, job: Job) -> None:
        assert job.launch is not None
        try:
            process = job.launch(job)
        except FtpError as error:
            self._fail(job, str(error), error.exit_code)
            return
        except Exception as error:  # of any kind: this thread serves the other jobs, too
            self._fail(job, f"internal error: {type(error).__name__}: {error}", 1)
            return
        assert isinstance(process, _JobProcess)
        self._running.add(job)
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            fd = stream.fileno()
            os.set_blocking(fd, False)
            read = self._reader(job, process, fd, is_error=is_error)
            self._selector.register(fd, selectors.EVENT_READ, read)
        self._selector.register(
            process.reports, selectors.EVENT_READ, lambda: self._read_reports(job, process)
        )
        self._jobs.began(job, process)

    def _fail(self, job: Job, reason: str, status: int) -> None:
        """Record that a job could not be started."""
        message = f"ftp: {paths.printable(reason)}\n"
        self._jobs.printed(job, message.encode("utf-8", "surrogateescape"), is_error=True)
        self._jobs.ended(job, status)

    def _reader(
        self, job: Job, process: _JobProcess, fd: int, *, is_error: bool
    ) -> Callable[[], None]:
        def read() -> None:
            if fd in self._selector.get_map() and self._read(job, fd, is_error=is_error):
                self._selector.unregister(fd)

        return read

    def _read(self, job: Job, fd: int, *, is_error: bool) -> bool:
        """Read some output; return True at its end."""
        data = os.read(fd, _PIECE)
        if data:
            self._jobs.printed(job, data, is_error=is_error)
        return not data

    def _read_reports(self, job: Job, process: _JobProcess) -> None:
        data = os.read(process.reports, _PIECE)
        if not data:
            self._end(job, process)
            return
        *lines, process.begun_report = (process.begun_report + data).split(b"\n")
        process.begun_report = process.begun_report[:_LONGEST_REPORT]
        for line in lines:
            self._jobs.reported(job, msgspec.json.decode(line, type=Report))

    def _end(self, job: Job, process: _JobProcess) -> None:
        """Read what is left of the output, and record the end."""
        self._selector.unregister(process.reports)
        status = process.wait()
        for stream, is_error in ((process.stdout, False), (process.stderr, True)):
            fd = stream.fileno()
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
                with suppress(BlockingIOError):  # a local command that still runs has it open
                    while not self._read(job, fd, is_error=is_error):
                        pass
        process.close()
        self._running.discard(job)
        self._jobs.ended(job, status)


def launcher(task: Task, directory: str) -> Callable[[Job], _JobProcess]:
    """Return a function that starts the process of a job. It raises FtpError."""

    def launch(job: Job) -> _JobProcess:
        try:
            return _JobProcess(task, directory)
        except OSError as error:  # most probably, the directory is gone
            raise from_oserror(error, paths.show(os.fsencode(directory))) from None

    return launch
