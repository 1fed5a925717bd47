"""The target of a sync to the server.

Lives here: the requests that carry out the steps of a plan.
Lives elsewhere: choosing and ordering the steps (job.py), transferring bytes (transfer/upload.py).

No request waits for its reply until ``settle``: a step costs no round trip.
"""

from __future__ import annotations

import os

from ftpclient.connection.protocol import Call
from ftpclient.sync.apply import Done, Replica
from ftpclient.sync.plan import Plan, Step
from ftpclient.transfer import preflight
from ftpclient.transfer.upload import Upload
from ftpwire import paths
from ftpwire.errors import NotFound, SourceChanged, from_oserror
from ftpwire.messages import (
    IF_SAME,
    MakeDir,
    Move,
    Remove,
    Removed,
    Request,
    SetAttributes,
    Space,
)


class RemoteReplica(Replica[Upload]):
    """A directory on the server."""

    _transfer_class = Upload

    def check_space(self, plan: Plan, growth: int, undone: str) -> None:
        reply = self._connection.ask(Space())
        preflight.check(reply, growth, undone)

    def make_root(self) -> None:
        try:
            mode = os.stat(self._route.local).st_mode & 0o777
        except OSError as error:
            raise from_oserror(error, paths.show(self._route.local)) from None
        self._connection.ask(MakeDir(self._route.remote, mode | 0o700, parents=True))

    def make_dir(self, step: Step) -> None:
        assert step.mode is not None
        path = self._route.remote_path(step.path)
        request = MakeDir(path, step.mode | 0o700, parents=True, fill=True)
        self.transfer.change(_StepCall(step, self._done), request)

    def remove(self, step: Step) -> None:
        path = self._route.remote_path(step.path)
        request = Remove(path, recursive=step.type == "dir")
        if step.type in ("file", "link") and IF_SAME in self._connection.server.features:
            size = step.size if step.type == "file" else None
            request = Remove(path, False, size, step.mtime_ns)
        self._ask(step, request)

    def rename(self, step: Step) -> None:
        path = self._route.remote_path(step.path)
        move = _StepCall(step, self._done)
        self.transfer.submit(move, Move(self._route.remote_path(step.source), path, "never"))
        if step.mode is not None or step.mtime_ns is not None:
            attributes_call = _StepCall(Step("attributes", step.path), self._done, after=move)
            self.transfer.submit(attributes_call, SetAttributes(path, step.mode, step.mtime_ns))

    def send(self, step: Step) -> None:
        transfer = self.transfer
        source, target = self._route.local_path(step.path), self._route.remote_path(step.path)
        if step.type == "file" and not transfer.options.copy_links:
            transfer.add_file(source, target)
        else:
            transfer.add(source, target)

    def set_attributes(self, step: Step) -> None:
        request = SetAttributes(self._route.remote_path(step.path), step.mode, step.mtime_ns)
        if step.type == "dir":
            self.transfer.change(_StepCall(step, self._done), request)
        else:
            self._ask(step, request)

    def _ask(self, step: Step, request: Request) -> None:
        self.transfer.submit(_StepCall(step, self._done), request)


class _StepCall(Call):
    """A step being requested. Not reported if the call on which it depends has failed."""

    def __init__(self, step: Step, done: Done, *, after: Call | None = None) -> None:
        super().__init__()
        self._step = step
        self._on_done = done
        self._after = after

    def on_done(self) -> None:
        if self._after is not None and self._after.error is not None:
            return
        error = self.error
        if self._step.action == "delete" and isinstance(error, NotFound):
            error = None  # another client has removed it already
        elif self._step.action == "delete" and isinstance(error, SourceChanged):
            error = SourceChanged("changed since the comparison, so it is not deleted")
        removed = self.reply if error is None and isinstance(self.reply, Removed) else None
        self._on_done(self._step, error, removed)
