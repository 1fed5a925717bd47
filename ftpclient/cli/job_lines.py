"""Texts about jobs: the line at a start and an end, the table, the line below the prompt.

Lives here: the texts. Lives elsewhere: the jobs (jobs.py), printing (commands/jobs.py, shell/).
"""

from __future__ import annotations

from collections.abc import Sequence

from ftpclient.cli.headway import seconds_left, share, time_text
from ftpclient.cli.jobs import Job, Notice, State
from ftpwire.cells import begun, cells, shortened
from ftpwire.paths import printable
from ftpwire.units import human

_NARROW = 39
"""Columns below which the line only has totals; a terminal of 40 columns has 39 for it."""
_NARROW_LIST = 70
"""Columns below which the list has neither rates nor times."""
_LONGEST_WORDS = 24
_MOST_WORDS = 200
_GAP = "  "


def started(job: Job) -> str:
    """Return the line about the start of a job."""
    return f"[{job.number}] {_words(job)}"


def notice(one: Notice) -> str:
    """Return the line of a notice."""
    job = one.job
    if one.left_out:
        return f"[{job.number}] … and {one.left_out} more (jobs -o {job.number})"
    return f"[{job.number}] {printable(one.line)}" if one.line else ended(job)


def ended(job: Job) -> str:
    """Return the line about the end of a job."""
    totals = f": {job.summary}" if job.summary else ""
    if job.has_results and not totals:
        totals = f"  (output: jobs -o {job.number})"
    return f"[{job.number}] {state(job):<7} {_words(job)}{totals}"


def _words(job: Job) -> str:
    return shortened(printable(job.words), _MOST_WORDS)


def state(job: Job) -> str:
    """Return the state of a job as text, with the status of a failure."""
    return f"failed {job.status}" if job.state is State.FAILED else job.state.value


def row(job: Job, width: int) -> str:
    """Return the line of a job in the list, without some columns if the terminal is narrow."""
    return _columns(str(job.number), state(job), *_figures(job), _words(job), width)


def heading(width: int) -> str:
    """Return the line above the list."""
    return _columns("N", "STATE", "%", "RATE", "LEFT", "WORDS", width)


def _columns(
    number: str, state: str, percent: str, rate: str, left: str, words: str, width: int
) -> str:
    begin = f"{number:>3}  {state:<10}  {percent:>4}  "
    return f"{begin}{words}" if width < _NARROW_LIST else f"{begin}{rate:>12}  {left:>8}  {words}"


def _figures(job: Job) -> tuple[str, str, str]:
    headway = job.headway
    if headway is None or job.state is not State.RUNNING:
        return "", "", ""
    percent = share(headway, 80).strip() if headway.size else ""
    rate = "" if headway.rate is None else f"{human(int(headway.rate))}/s"
    if headway.waiting:
        rate = headway.waiting[1]
    elif headway.stalled is not None:
        rate = f"stalled {headway.stalled} s"
    left = "" if headway.size is None else time_text(seconds_left(headway))
    return percent, rate, left


def below_prompt(jobs: Sequence[Job], width: int) -> str:
    """Return the line below the prompt about active jobs, at most ``width`` columns wide."""
    running = [job for job in jobs if job.state is State.RUNNING]
    queued = sum(job.state is State.QUEUED for job in jobs)
    if width < _NARROW:
        return begun(_totals(jobs), width)
    after = f"{_GAP}+{queued} queued" if queued else ""
    parts: list[str] = []
    for place, job in enumerate(running, 1):
        part = _part(job)
        more = f"{_GAP}+{len(running) - place}" if place < len(running) else ""
        if parts and cells(_GAP.join([*parts, part]) + more + after) > width:
            after = f"{_GAP}+{len(running) - len(parts)}{after}"
            break
        parts.append(part)
    return begun(_GAP.join(parts) + after if parts else after.strip(), width)


def _part(job: Job) -> str:
    percent, rate, left = _figures(job)
    figures = [percent, rate, left]
    if job.headway is not None and job.headway.files and not percent:
        figures = [job.headway.files.strip(), rate, left]
    words = shortened(printable(job.words), _LONGEST_WORDS)
    return " ".join([f"[{job.number}]", words, *(one for one in figures if one)])


def _totals(jobs: Sequence[Job]) -> str:
    known = [one.headway for one in jobs if one.headway is not None and one.headway.size]
    size = sum(one.size or 0 for one in known)
    done = sum(one.done for one in known)
    percent = f" {min(100, 100 * done // size)}%" if size else ""
    return f"{count(len(jobs))}{percent}"


def warning(jobs: Sequence[Job]) -> str:
    """Return the warning before a shell is left whose jobs run."""
    resumed = sum(job.resumes for job in jobs)
    run, them, they = ("runs", "it", "it") if len(jobs) == 1 else ("run", "them", "they")
    which = they if resumed == len(jobs) else f"{resumed} of them"
    remark = f" ({which} can be resumed)" if resumed else ""
    return f"{count(len(jobs))} {run}: exit again stops {them}{remark}, exit -w waits"


def count(number: int) -> str:
    """Return ``1 job`` or ``2 jobs``."""
    return "1 job" if number == 1 else f"{number} jobs"
