"""Figures against other file servers: ``python -m benchmarks``, described in docs/benchmarks.md.

    __main__.py   options
    suite.py      what is measured, and who takes part in it
    peers/        each server with its client: how it is set up, and its command lines
    clients.py    several real clients at once; stat_beside.py, what somebody else waits then
    memory.py     the memory of transfers of very many files; peak.py (a helper process)
    sessions.py   log-ins one after another, and many idle sessions (a helper process)
    delay.py      a link with delay, as a TCP proxy (a helper process)
    workloads.py  the files and trees that are moved, and how results are checked
    measure.py    running a command, interleaved rounds, medians
    processes.py  servers as child processes: their CPU time and memory, and their end
    report.py     tables as Markdown, JSON
    profiles.py   where our own time goes

Installs nothing, asserts nothing, and writes only below the directory of its data.
"""
