"""The system's clock, set while programs run: for them only, and under their hands.

Lives here: a small library that the loader puts in front of the C library's (LD_PRELOAD), and the
number of seconds that it adds. Programs and their children share that number through memory, so
that a session that may open no file any more sees the clock jump, too. Clocks that nobody can set
(CLOCK_MONOTONIC, CLOCK_BOOTTIME) and times of files stay as they are.

libfaketime does nearly the same. It reads its file at each call, which a confined session cannot,
and takes the clocks of sleeps for the one that is set.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_AHEAD");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        abort();
    void *at = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        abort();
    ahead = at;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *to)
{
    int result = syscall(SYS_clock_gettime, clock, to);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && ahead)
        to->tv_sec += *ahead;
    return result;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to)
        *to = now.tv_sec;
    return now.tv_sec;
}
"""


class WallClock:
    """The clock of all programs that are started with its environment.

    Skips the test where the library cannot be had.
    """

    def __init__(self, place: Path) -> None:
        self._file = place / "clock-ahead"
        self.set(0)
        library = place / "clock.so"
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler for the library that sets the clock")
        made = subprocess.run(
            [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"],
            input=_SOURCE.encode(),
            capture_output=True,
        )
        if made.returncode:
            pytest.skip(f"the library that sets the clock cannot be made: {made.stderr.decode()}")
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(self._file)}

    def set(self, seconds: int) -> None:
        """Have the clock show so many seconds more than the system's."""
        fd = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(fd, struct.pack("=q", seconds), 0)
        finally:
            os.close(fd)
        self.ahead = seconds

    def now(self) -> float:
        """Seconds since 1970 by this clock."""
        return time.time() + self.ahead
