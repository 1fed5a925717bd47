"""Someone registers to learn which names are taken, or to fill the disk."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest

from ftpserver.accounts import registration as module
from ftpserver.accounts.invitations import Invitations
from ftpserver.accounts.registration import Probes
from ftpserver.cli import main
from ftpserver.cli.config import read_again, warnings_about
from ftpwire.errors import Busy, NameTaken
from ftpwire.messages import Failed, LoggedIn, Register

WAYS = [pytest.param({}, id="threads"), pytest.param({"threads": 0}, id="threads-0")]
WORKERS = pytest.param({"workers": 2}, id="workers", marks=pytest.mark.system)
ISOLATED = pytest.param({"isolation": "process"}, id="isolation", marks=pytest.mark.system)
MOST = module._OF_ONE_INVITATION[0]


@pytest.mark.parametrize("way", [*WAYS, WORKERS, ISOLATED])
def test_an_unused_invitation_does_not_reveal_all_names(start_server, dial, way):
    server = start_server(**way)
    _, code = Invitations(server.service.engine).make(None, 3, None)
    _, other = Invitations(server.service.engine).make(None, 1, None)
    codes = []

    def tries(count: int) -> None:
        """On a connection of their own, which answers so many requests before a log-in at most."""
        with dial(server, logged_in=False) as peer:
            peer.hello()
            for _ in range(count):
                reply = peer.ask(Register("alice", "correct-horse", code))
                assert isinstance(reply, Failed)
                codes.append(reply.code)

    for _ in range(3):
        tries(MOST // 3)
    tries(3)
    assert codes == [NameTaken.code] * MOST + [Busy.code] * 3
    with dial(server, logged_in=False) as peer:  # the control: another one is as good as before
        peer.hello()
        assert isinstance(peer.ask(Register("bob", "correct-horse", other)), LoggedIn)


@pytest.mark.long
@pytest.mark.parametrize(
    "way", [{}, {"threads": 0}, {"workers": 2}, {"isolation": "process"}], ids=str
)
def test_two_hundred_names_are_tried_with_each_of_three_invitations(start_server, dial, way):
    server = start_server(trusted_networks=(ip_network("127.0.0.0/8"),), **way)
    codes = [Invitations(server.service.engine).make(None, 3, None)[1] for _ in range(3)]
    reported: Counter[str] = Counter()
    for number in range(0, 200, 10):
        for code in codes:
            with dial(server, logged_in=False) as peer:
                peer.hello()
                for _ in range(number, number + 10):
                    reported[peer.ask(Register("alice", "correct-horse", code)).code] += 1
    lately = 3  # a minute or so gives one more try each
    assert 3 * MOST <= reported[NameTaken.code] <= 3 * (MOST + lately)
    assert reported.total() == 600 and set(reported) == {NameTaken.code, Busy.code}


def test_tries_come_back_and_accounts_cost_none():
    now = 0.0
    probes = Probes(lambda: now)
    for _ in range(MOST * 3):
        probes.take("a")
        probes.give_back("a")
    for _ in range(MOST):
        probes.take("a")
    with pytest.raises(Busy):
        probes.take("a")
    probes.take("b")
    now = 60.0
    probes.take("a")
    with pytest.raises(Busy):
        probes.take("a")


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        pytest.param(["--open-registration"], True, id="open"),
        pytest.param(["--open-registration", "--default-quota=1GiB"], False, id="with-quota"),
        pytest.param([], False, id="closed"),
    ],
)
def test_open_registration_without_a_quota_is_warned_of(tmp_path, given, warned):
    settings = read_again(main.start, [f"--root={tmp_path}", *given])
    assert ["default-quota" in one for one in warnings_about(settings)] == [True] * warned
