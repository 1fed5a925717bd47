"""What the tests of the guard share: every verb of a client, and whether the next one is right."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ftpclient.connection.credentials import Credential
from ftpwire import digests

KNOWN = b"what is known" * 1000
PASSWORD = "correct-horse"
"""Of alice: the same before and after it is changed, whether that came about or not."""
NAMES = [b"%03d" % number for number in range(16)]


@dataclass
class StagingDirs:
    """A home on the server and a directory here, with something in each."""

    home: Path
    here: Path
    source: int = -1
    sink: int = -1

    def fill(self) -> None:
        (self.home / "known").write_bytes(KNOWN)
        for top in (self.home / "many", self.here / "many"):
            top.mkdir(parents=True)
            for name in NAMES:
                (top / os.fsdecode(name)).write_bytes(name * 500)
        for top in (self.home, self.here):
            (top / "large").write_bytes(os.urandom(1_500_000))
        (self.here / "to").mkdir()
        self.source = os.open(self.here / "large", os.O_RDONLY)
        self.sink = os.open(os.devnull, os.O_WRONLY)

    def piped(self, client, **options) -> None:
        """With a descriptor that stays open: Ctrl-C may come amid the opening of one, too."""
        os.lseek(self.source, 0, os.SEEK_SET)
        client.put_stream(self.source, "piped", **options)

    def poured(self, client, **options) -> None:
        client.get_stream("large", self.sink, **options)

    def close(self) -> None:
        os.close(self.source)
        os.close(self.sink)


Call = Callable[..., object]
"""Of a client, the places and the verb's further arguments."""

QUESTIONS: dict[str, Call] = {
    "whoami": lambda c, p, **o: c.whoami(**o),
    "space": lambda c, p, **o: c.space(**o),
    "stat": lambda c, p, **o: c.stat("known", **o),
    "find": lambda c, p, **o: c.find("nowhere", **o),
    "hash": lambda c, p, **o: c.hash("known", **o),
    "glob": lambda c, p, **o: c.glob("/many/*1", **o),
    "list_dir": lambda c, p, **o: list(c.list_dir("many", **o)),
    "walk": lambda c, p, **o: list(c.walk("/", **o)),
    "change_dir": lambda c, p, **o: c.change_dir("/", **o),
    "is_directory": lambda c, p, **o: c.is_directory("many", **o),
    "tokens": lambda c, p, **o: c.tokens(**o),
}
CHANGES: dict[str, Call] = {
    "make_dir": lambda c, p, **o: c.make_dir("made/deep", parents=True, **o),
    "make_target": lambda c, p, **o: c.make_target("target/", several=False, **o),
    "make_link": lambda c, p, **o: c.make_link("link", "known", overwrite=True, **o),
    "set_attributes": lambda c, p, **o: c.set_attributes("large", mode=0o600, **o),
    "copy": lambda c, p, **o: c.copy("known", "copied", **o),
    "move": lambda c, p, **o: c.move("copied", "moved", **o),
    "remove": lambda c, p, **o: c.remove("moved", **o),
    "issue_token": lambda c, p, **o: c.issue_token("a name", **o),
    "change_password": lambda c, p, **o: c.change_password(PASSWORD, PASSWORD, **o),
    "log_in": lambda c, p, **o: c.log_in(Credential("alice", PASSWORD), **o),
}
TRANSFERS: dict[str, Call] = {
    "put": lambda c, p, **o: c.put(p.here / "many", "put/", recursive=True, **o),
    "put-parallel": lambda c, p, **o: c.put(
        [p.here / "many", p.here / "large"], "put2/", recursive=True, parallel=2, **o
    ),
    "put-atomic": lambda c, p, **o: c.put(
        p.here / "many", "whole", recursive=True, atomic=True, **o
    ),
    "put_file": lambda c, p, **o: c.put_file(p.here / "large", "file", **o),
    "put_stream": lambda c, p, **o: p.piped(c, **o),
    "get": lambda c, p, **o: c.get(["many", "large"], p.here / "to", recursive=True, **o),
    "get-parallel": lambda c, p, **o: c.get(
        ["many"], p.here / "to", recursive=True, parallel=2, **o
    ),
    "get_file": lambda c, p, **o: c.get_file("large", p.here / "got", **o),
    "sync-up": lambda c, p, **o: c.sync(p.here / "many", ":/mirror", **o),
    "sync-down": lambda c, p, **o: c.sync(":/many", p.here / "mirror", **o),
}
POURING: dict[str, Call] = {"get_stream": lambda c, p, **o: p.poured(c, **o)}
ALL = QUESTIONS | CHANGES | TRANSFERS | POURING


def next_is_right(client) -> None:
    """The next verbs have their own answers, and nobody else's."""
    assert client.whoami() == "alice"
    assert client.hash("/known").digest == digests.digest(KNOWN)
    assert sorted(entry.path for entry in client.list_dir("/many")) == NAMES
    assert client.stat("/known").size == len(KNOWN)
    assert client.find("/nowhere") is None
