"""Comparison with other file servers: ``python -m benchmarks``, described in docs/benchmarks.md.

    __main__.py   options
    suite.py      the measurements, and the servers that take part in each
    peers/        each server with its client: set-up and command lines
    clients.py    several real clients at once
    stat_beside.py   how long another user waits meanwhile
    memory.py     the memory of transfers of very many files; peak.py (a helper process)
    sessions.py   log-ins one after another, and many idle sessions (a helper process)
    unauthenticated.py   failing log-ins (a helper process)
    delay.py      a link with delay, as a TCP proxy (a helper process)
    workloads.py  the files and trees to transfer, and checking the results
    measure.py    running a command, interleaved rounds, medians
    processes.py  servers as child processes: their CPU time and memory, stopping them
    report.py     tables as Markdown, JSON
    profiles.py   profiles of our own programs

This installs nothing, asserts nothing, and writes only below the directory of its data.
"""
