"""The engines that are compared: each serves the same crowd; the coroutine server stores, too."""

from __future__ import annotations

import os
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.crowd import Crowd, Helper
from benchmarks.measure import Failed
from benchmarks.processes import Unavailable
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import Found, Put, Sent, Stat, Stored
from tests.peer import Peer

SIZE = 3_000_000
BY_NAME = {engine.name: engine for engine in engines.ENGINES}


@pytest.fixture
def serve(tmp_path):
    """Starts a server of one kind; skips where it cannot be had."""
    with ExitStack() as stack:

        def start(name: str):
            try:
                return stack.enter_context(engines.serving(BY_NAME[name], tmp_path, SIZE))
            except Unavailable as why:
                if "not installed" not in str(why):
                    raise
                pytest.skip(str(why))

        yield start


@pytest.mark.system
@pytest.mark.parametrize("name", BY_NAME)
def test_an_engine_serves_a_crowd(serve, tmp_path, name):
    server, spec = serve(name)
    with Helper(spec, tmp_path / "crowd.log") as helper:
        assert helper.do("open", count=20)["seconds"] > 0
        assert helper.do("ask", seconds=0.2, at_once=8)["rate"] > 0
        assert len(helper.do("log_in", times=3)["ms"]) == 3
        assert helper.do("fetch", path="/large")["rate"] > 0
        assert helper.do("ask", seconds=0.2, at_once=1)["rate"] > 0
        helper.do("close")


@pytest.mark.system
def test_a_crowd_reports_what_it_could_not_do(serve):
    _, spec = serve("asyncio")
    crowd = Crowd(spec)
    with pytest.raises(Failed, match="not-found"):
        crowd.fetch("/nothing")


def log_in(peer: Peer, spec) -> None:
    from ftpwire.messages import LoggedIn, LoginToken

    peer.hello()
    assert peer.ask(LoginToken(spec.user, spec.token)) == LoggedIn(spec.user)


@pytest.mark.system
def test_the_coroutine_server_stores_whole_verified_files(serve, tmp_path):
    _, spec = serve("asyncio")
    context = ssl.create_default_context(cafile=spec.certificate)
    context.check_hostname = False
    home = Path(tmp_path / "root" / spec.user)
    data = os.urandom(5000)
    with Peer.connect(("127.0.0.1", spec.port), context=context) as peer:
        log_in(peer, spec)
        for name, digest in (("good", digests.digest(data)), ("bad", bytes(32))):
            number = peer.request(Put(f"/{name}".encode(), len(data)))
            peer.frame(Kind.DATA, number, data)
            peer.frame(Kind.END, number, Sent(len(data), digest))
        assert peer.answer().message == Stored(len(data))
        assert peer.answer().message.code == "verification-failed"
        found = peer.ask(Stat(b"/good"))
        assert isinstance(found, Found) and found.entry.size == len(data)
        assert peer.ask(Stat(b"/bad")).code == "not-found"
    assert (home / "good").read_bytes() == data
    assert not (home / "bad").exists()
