"""When notices about jobs and the line about them are drawn, while a line is typed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from ftpclient.cli.app import App
from ftpclient.cli.headway import Headway
from ftpclient.cli.jobs import Job, Jobs, Process, Report
from ftpclient.shell import above_prompt
from ftpclient.shell.above_prompt import AbovePrompt


class Session:
    """A prompt that counts how often it is drawn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.drawn = 0
        self.bottom_toolbar: object = None
        self.output = SimpleNamespace(get_size=lambda: SimpleNamespace(columns=80))
        self.app = SimpleNamespace(
            loop=loop,
            is_running=True,
            layout=SimpleNamespace(is_searching=False),
            invalidate=self._draw,
        )

    def _draw(self) -> None:
        self.drawn += 1


def no_process(job: Job) -> Process:
    raise AssertionError(job)


@pytest.fixture
def typing(monkeypatch, capsys):
    """Runs a test in the loop of a prompt, on a clock that it sets; gives the lines printed."""
    monkeypatch.setenv("TERM", "xterm")
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(above_prompt.time, "monotonic", lambda: clock.now)

    async def print_there(write) -> None:
        write()

    monkeypatch.setattr(above_prompt, "run_in_terminal", print_there)

    def run(test) -> list[str]:
        async def main() -> None:
            app = App(interactive=True)
            app.shell.jobs = Jobs(lambda: 4)
            session = Session(asyncio.get_running_loop())
            above = AbovePrompt(app, session)  # type: ignore[arg-type]
            app.shell.jobs.listeners.append(above.changed)
            above.begin()
            job = app.shell.jobs.add("put x", no_process)
            app.shell.jobs.next_to_start()
            await settle()
            await test(clock, app.shell.jobs, job, session, above)
            app.interrupt.close()

        asyncio.run(main())
        return capsys.readouterr().err.splitlines()

    return run


async def settle() -> None:
    """Let the loop do what it was asked to do now."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_messages_come_once_a_second_and_an_end_at_once(typing):
    async def test(clock, jobs, job, session, above) -> None:
        jobs.printed(job, b"one\n", is_error=True)
        await settle()
        assert jobs.has_notices, "the prompt has just begun"
        clock.now += 1
        jobs.printed(job, b"two\n", is_error=True)
        await settle()
        assert not jobs.has_notices
        jobs.printed(job, b"three\n" * 8, is_error=True)
        await settle()
        assert jobs.has_notices
        jobs.ended(job, 5)
        await settle()
        assert not jobs.has_notices and session.bottom_toolbar is None

    assert typing(test) == [
        "[1] one",
        "[1] two",
        *["[1] three"] * 5,
        "[1] … and 3 more (jobs -o 1)",
        "[1] failed 5 put x",
    ]


def test_the_line_is_drawn_twice_a_second_at_most(typing):
    """However often something changes, one look is planned."""

    async def test(clock, jobs, job, session, above) -> None:
        assert session.bottom_toolbar is not None
        drawn = session.drawn
        for done in range(100):
            jobs.reported(job, Report(Headway(done, 100)))
            await settle()
        assert session.drawn == drawn
        planned = [one for one in asyncio.get_running_loop()._scheduled if not one.cancelled()]
        assert len(planned) == 1
        clock.now += 0.5
        jobs.reported(job, Report(Headway(100, 100)))
        await settle()
        assert session.drawn == drawn + 1
        assert session.bottom_toolbar()[0][1].startswith("[1] put x 100%")
        session.app.layout.is_searching = True
        clock.now += 0.5
        jobs.reported(job, Report(Headway(100, 100)))
        await settle()
        assert session.drawn == drawn + 1, "never during a search of the history"

    typing(test)


def test_what_an_earlier_prompt_left_undone(typing):
    """Its loop ended before it looked; the next one is asked again."""

    async def test(clock, jobs, job, session, above) -> None:
        above._is_asked_to_look = above._is_printing = True
        above.begin()
        jobs.ended(job, 0)
        await settle()
        assert not jobs.has_notices

    assert typing(test) == ["[1] done    put x"]


def test_a_simple_terminal_has_no_line(typing, monkeypatch):
    async def test(clock, jobs, job, session, above) -> None:
        monkeypatch.setenv("TERM", "dumb")
        jobs.ended(job, 0)
        await settle()
        assert jobs.has_notices, "they are printed before the next prompt"
        above.begin()

    assert typing(test) == ["[1] done    put x"]
