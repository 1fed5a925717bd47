"""Workers and a fork server that a test is itself, at the real other end of their sockets."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, later, make_proxy
from ftpserver.processes.rpc import Endpoint
from ftpserver.processes.supervisor import WorkerSupervisor
from ftpserver.processes.worker_interfaces import (
    MAX_SIZE,
    ChildNote,
    Client,
    ServerForWorker,
    WorkerForServer,
)
from ftpserver.serving.stats import SessionInfo, Stats
from ftpserver.settings.table import Settings

PATIENCE = 60.0


class FakeWorker(WorkerForServer):
    """A worker that does as its test says.

    Attributes:
        reported: What it was told, and not asked, by name; ``serve`` when it has a connection.
        given: Connections by number, and what is known of their clients.
        answers: To each kind of question, by name: a result or an error.
        deaf: It claims nothing that it is offered.
    """

    def __init__(self, number: int, descriptor: int, note: bytes) -> None:
        self.number = number
        self.note = msgspec.msgpack.decode(note, type=ChildNote)
        self.reported: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.given: dict[int, tuple[Client, socket.socket]] = {}
        self.followed: list[Settings] = []
        self.answers: dict[str, Any] = {"stats": Stats(), "session_infos": [], "kick": []}
        self.deaf = False
        self.forked: Future[Carried[int]] = Future()
        self.ended = threading.Event()
        self.endpoint = Endpoint(
            socket.socket(fileno=descriptor),
            targets={WorkerForServer: self},
            max_descriptors=1,
            max_size=MAX_SIZE,
            on_end=self.ended.set,
            name=f"fake worker {number}",
        )
        self.server = self.ask(ServerForWorker)
        self.endpoint.start()

    def ask(self, interface: type[Any]) -> Any:
        """To ask the server by that."""
        return make_proxy(interface, self.endpoint)

    def offer(self, number: int) -> None:
        if not self.deaf:
            claimed = later(self.server.claim)(number)
            claimed.add_done_callback(lambda done: self._claimed(number, done))

    def _claimed(self, number: int, done: Future[Carried[Client]]) -> None:
        if done.exception() is not None:
            self.reported.put(("refused", number))
            return
        client, (descriptor,) = done.result()
        self.given[number] = client, socket.socket(fileno=descriptor)
        self.reported.put(("serve", number))

    def apply_settings(self, settings: Settings) -> None:
        self.followed.append(settings)
        self._answer("apply_settings")

    def stats(self) -> Stats:
        return self._answer("stats")

    def session_infos(self) -> list[SessionInfo]:
        return self._answer("session_infos")

    def kick(self, session: int | None, user: str | None) -> list[int]:
        return self._answer("kick")

    def _answer(self, name: str) -> Any:
        answer = self.answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def drain(self) -> None:
        self.reported.put(("drain",))

    def retire(self) -> None:
        self.reported.put(("retire",))

    def drop(self, number: int) -> None:
        self.reported.put(("drop", number))

    def stop(self, grace: float) -> None:
        self.reported.put(("stop", grace))

    def hear(self) -> tuple[Any, ...]:
        """What it is told next."""
        return self.reported.get(timeout=PATIENCE)

    def die(self) -> None:
        """Be no more, without a word."""
        self.endpoint.close()
        for _, connection in self.given.values():
            connection.close()


def look_after(crew: WorkerSupervisor) -> None:
    """Wait until all was put right that was to be by now, and started what is missing by now."""
    crew.enforce()
    done = threading.Event()
    crew._tasks.put(done.set)
    assert done.wait(PATIENCE)


class FakeForkServer:
    """Forks nobody. The newest one is ``made``."""

    made: FakeForkServer
    failures = 0
    """So many of the next children cannot be had."""
    silent = False
    """Children don't say that they are ready."""

    def __init__(
        self,
        module: str,
        settings: Settings,
        on_report: Callable[..., None],
        *,
        resting: bool = False,
    ) -> None:
        self.resting = resting
        self.became: list[int] = []
        """The numbers of those that were no child of it."""
        assert module == "ftpserver.processes.worker"
        self.settings = [settings]
        self.refuses: StateError | None = None
        self.report = on_report
        self.children: list[FakeWorker] = []
        self._new: queue.SimpleQueue[FakeWorker] = queue.SimpleQueue()
        self.stopped = False
        type(self).made = self

    def configure(self, settings: Settings) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.settings.append(settings)

    def spawn(self, number: int, descriptors: list[int], note: bytes) -> Future[Carried[int]]:
        if self.failures:
            self.failures -= 1
            raise StateError("no process can be started")
        worker = FakeWorker(number, os.dup(descriptors[0]), note)
        self.children.append(worker)
        if not self.silent:
            worker.server.ready()
        self._new.put(worker)
        return worker.forked

    def next(self) -> FakeWorker:
        """The next one that is forked."""
        return self._new.get(timeout=PATIENCE)

    def stop(self) -> None:
        self.stopped = True

    def become(self, number: int, descriptors: list[int], note: bytes) -> Future[Carried[int]]:
        self.became.append(number)
        return self.spawn(number, descriptors, note)

    @property
    def is_awake(self) -> bool:
        return not self.resting

    def go_idle(self) -> None:
        self.resting = True
