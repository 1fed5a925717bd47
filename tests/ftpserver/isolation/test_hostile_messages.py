"""What a session's process says to its server that somebody hostile has taken over.

Lives here: the attacks by messages, each with a control: the same attack on a server without the
guard that it meets.
Lives elsewhere: attacks on processes, files and the network (attacks.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import pytest
from sqlalchemy import update

from ftpserver.accounts.account import Account
from ftpserver.interfaces import Descriptors, Dispatcher, request, requests_of
from ftpserver.isolation import handler, isolated_session, session_quota_store
from ftpserver.isolation.handler import Answers
from ftpserver.isolation.interfaces import ServerForSession, SessionForServer
from ftpserver.isolation.isolated_session import IsolatedSession
from ftpserver.isolation.session_quota_store import SessionQuotaStore
from ftpserver.processes import rpc
from ftpserver.processes.child import ChildProcess
from ftpserver.schema import account
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.quota import Lease, QuotaStore
from ftpwire.errors import NotLoggedIn
from ftpwire.messages import ListTokens, Tokens
from tests.peer import eventually

HELD = 1000
"""Bytes that another session holds, for alice and for bob each."""
LARGE = 2**30


@dataclass
class Scene:
    """What an attack is on."""

    server: Any
    bob: Account
    lease: Lease
    token: str
    log: Callable[[], str]
    recorded: list[bytes]
    """Lines of the audit log."""
    sizes: list[int]
    """Bytes that the server has allocated for messages."""
    taken: list[int]
    """Descriptors that it has taken."""

    @property
    def session(self) -> IsolatedSession | None:
        """The hostile one, if it is still there."""
        return next((one for one in self.server.supervisor.sessions() if one.account), None)

    def held(self, name: str) -> int:
        """Bytes that an account holds."""
        return self.server.service.ledger.space(self.server.accounts.get(name).id).held


class Attack(NamedTuple):
    """One attack by messages.

    Attributes:
        program: Runs in the session's process.
        refusal: Part of its answer, or of the server's log, when it meets its guard.
        succeeded: Whether the server shows that it did.
        weaken: Takes the guard out.
    """

    program: str
    refusal: str
    succeeded: Callable[[Scene], object]
    weaken: Callable[[pytest.MonkeyPatch], None]


# guards that are taken out ---------------------------------------------------------------------


class Recounting(Protocol):
    """A method of the ledger that no session's process may call."""

    @request
    def recounted(self, account_id: int, used: int, files: int) -> None: ...


class Unbounded(Protocol):
    """A method of the books, without its bounds."""

    @request
    def reserve(self, account_id: int, size: int) -> Any: ...


class Taking(Protocol):
    """A method that descriptors go along with."""

    @request
    def space(self, account_id: int, given: Descriptors) -> None: ...


class Taker:
    """Takes them."""

    def __init__(self, taken: list[int]) -> None:
        self.taken = taken

    def space(self, account_id: int, given: Descriptors) -> None:
        self.taken.extend(given)
        given.clear()


def settle_as_claimed(quota_store: SessionQuotaStore, leases: list[Lease], *changes: int):
    """As a server that believes how large a lease is."""
    more = sum(one.size - quota_store.leases[one.id].size for one in leases)
    own = quota_store._account().id
    settled = quota_store._ledger.settle(
        [quota_store.leases.pop(one.id) for one in leases], *changes
    )
    with quota_store._ledger._engine.begin() as connection:
        freed = update(account).where(account.c.id == own).values(held=account.c.held - more)
        connection.execute(freed)
    return settled


def log_in_again(answers: Answers, prove: Callable) -> object:
    """As a server that doesn't look whether somebody is logged in."""
    return answers._admit(prove(answers._session.host))


def be_bob(answers: Answers) -> Account:
    """As a server that believes whose account it is."""
    assert answers.account_before() is not None  # type: ignore[attr-defined]
    return answers._service.accounts.get("bob")


def ignore_unasked(peer: rpc.Endpoint, kind: int, number: int, *rest: Any) -> None:
    """As one that doesn't mind an answer to nothing."""
    if number in peer._open:
        peer.settle_before(kind, number, *rest)  # type: ignore[attr-defined]


def targets_with(interface: type, of: Callable[[IsolatedSession], object]) -> Callable:
    """Takes out what keeps a method from being called: it becomes one of the targets."""

    def weaken(patch: pytest.MonkeyPatch) -> None:
        targets = IsolatedSession.targets

        def more(session: IsolatedSession) -> dict[type, object]:
            without = {
                one: target
                for one, target in targets(session).items()
                if not requests_of(one).keys() & requests_of(interface).keys()
            }
            return {**without, interface: of(session)}

        patch.setattr(IsolatedSession, "targets", more)

    return weaken


def setting(where: Any, name: str, value: object) -> Callable:
    """Replaces one guard."""
    return lambda patch: patch.setattr(where, name, value)


def set_account(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Answers, "account_before", Answers.account, raising=False)
    patch.setattr(Answers, "account", be_bob)


def take_descriptors(patch: pytest.MonkeyPatch) -> None:
    targets_with(Taking, lambda session: Taker(session._server.taken))(patch)
    wide = partial(ChildProcess, max_descriptors=8)
    patch.setattr(isolated_session, "ChildProcess", wide)


def hear_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rpc.Endpoint, "settle_before", rpc.Endpoint._settle, raising=False)
    patch.setattr(rpc.Endpoint, "_settle", ignore_unasked)


# the attacks -------------------------------------------------------------------------------------

_FORGED = {
    "time": "2001-01-01T00:00:00.000Z",
    "event": "remove",
    "outcome": "ok",
    "user": "bob",
    "address": "192.0.2.1",
    "session": "77",
    "path": "/forged",
}
_MADE_UP = """
class MadeUp(Protocol):
    @{mark}
    def {method}: ...
"""


def made_up(method: str, call: str, mark: str = "request") -> str:
    """A program that calls a method as the session's process says that it is."""
    head = _MADE_UP.replace("{mark}", mark).replace("{method}", method)
    heard = "0" if mark == "request" else "books.space(own)"
    return f"{head}\nmake_proxy(MadeUp).{call}\nresult = {heard}"


ATTACKS = {
    "space-of-another-account": Attack(
        "books.reserve({bob}, 1000); result = 0",
        "PermissionError",
        lambda scene: scene.held("bob") > HELD,
        setting(SessionQuotaStore, "_own", lambda quota_store, account_id: account_id),
    ),
    "lease-of-another-session": Attack(
        "books.keep(Lease({lease}, own, 0)); result = 0",
        "LeaseLost",
        lambda scene: scene.server.service.ledger.kept_staging(scene.bob.id),
        setting(
            SessionQuotaStore, "keep", lambda quota_store, held: quota_store._ledger.keep(held)
        ),
    ),
    "larger-size-at-settlement": Attack(
        "held = books.reserve(own, 1000); held.size = 1500; books.settle([held], 0); result = 0",
        "0",
        lambda scene: scene.held("alice") < HELD,
        setting(SessionQuotaStore, "settle", settle_as_claimed),
    ),
    "negative-size": Attack(
        made_up("reserve(self, account_id: int, size: int) -> Any", "reserve(own, -500)"),
        "Expected `int` >= 0",
        lambda scene: scene.held("alice") < HELD,
        targets_with(Unbounded, lambda session: session.quota_store),
    ),
    "too-many-leases": Attack(
        "for _ in range(60): books.reserve(own, 0)\nresult = 0",
        "too many reservations",
        lambda scene: scene.session is not None and len(scene.session.quota_store.leases) > 50,
        setting(session_quota_store, "_MOST_LEASES", LARGE),
    ),
    "method-that-is-not-marked": Attack(
        made_up(
            "recounted(self, account_id: int, used: int, files: int) -> None",
            "recounted({bob}, 777, 7)",
        ),
        "Invalid value 'recounted'",
        lambda scene: scene.server.service.ledger.space(scene.bob.id).used == 777,
        targets_with(Recounting, lambda session: session.ledger),
    ),
    "method-of-the-other-direction": Attack(
        made_up("close(self, why: str) -> None", "close('forged')", "notification"),
        "Invalid value 'close'",
        lambda scene: scene.session is not None and scene.session.channel.ended is not None,
        targets_with(SessionForServer, lambda session: session),
    ),
    "request-sent-as-notification": Attack(
        made_up("space(self, account_id: int) -> None", "space({bob})", "notification"),
        "a notification sent as a request",
        lambda scene: scene.session is not None,
        lambda patch: patch.setattr(
            rpc.Endpoint,
            "_hear",
            lambda peer, kind, number, payload, descriptors: (
                peer._answer(number, peer._dispatcher.decode(payload), descriptors)
                if number
                else None
            ),
        ),
    ),
    "forged-record": Attack(
        f"server.record({json.dumps(_FORGED).encode()!r}); books.space(own); result = 0",
        "0",
        lambda scene: any(b'"user":"bob"' in one for one in scene.recorded),
        setting(Answers, "_vouch", lambda answers, record: True),
    ),
    "log-in-as-somebody-else": Attack(
        "server.by_password('bob', 'bobs-secret'); result = 0",
        "logged in already",
        lambda scene: scene.session is not None and scene.session.account.name == "bob",
        setting(Answers, "_log_in", log_in_again),
    ),
    "token-of-another-account": Attack(
        "server.revoke_token({token}); result = 0",
        "NotFound",
        lambda scene: not scene.server.service.tokens.of(scene.bob),
        set_account,
    ),
    "password-of-another-account": Attack(
        made_up(
            "change_password(self, old: str, new: str, account_id: int, name: str) -> Any",
            "change_password('bobs-secret', 'another-secret', {bob}, 'bob')",
        ),
        "that is not your password",
        lambda scene: scene.server.accounts.check_password("bob", "another-secret"),
        set_account,
    ),
    "descriptors-along": Attack(
        made_up(
            "space(self, account_id: int, given: Descriptors) -> None", "space(own, [0, 1, 2])"
        ),
        "3 descriptors along with a message",
        lambda scene: scene.taken,
        take_descriptors,
    ),
    "message-of-a-gigabyte": Attack(
        f"send(struct.pack('!IIBB', {LARGE}, 1, 1, 0)); result = books.space(own)",
        f"{LARGE} bytes in one message",
        lambda scene: max(scene.sizes) >= LARGE,
        setting(isolated_session, "ChildProcess", partial(ChildProcess, max_size=2 * LARGE)),
    ),
    "answer-that-nobody-asked-for": Attack(
        "send(struct.pack('!IIBB', 1, 12345, 3, 0) + msgspec.msgpack.encode(None))\n"
        "books.space(own)\nresult = 0",
        "a reply to no request",
        lambda scene: scene.session is not None,
        hear_answers,
    ),
    "flooded-log": Attack(
        "for _ in range(100): server.log(30, 'ftpd.session', 'flood\\n\\x1b[2J')\n"
        "books.space(own)\nresult = 0",
        "0",
        lambda scene: scene.log().count("flood") > 50,
        setting(handler, "_LOG_BURST", 10_000),
    ),
    "log-flooded-by-failures": Attack(
        """
class MadeUp(Protocol):
    @request
    def extended(self, held: Any, size: int) -> Any: ...
held = books.reserve(own, 2**62)
for _ in range(100):
    try:
        make_proxy(MadeUp).extended(held, 2**62)
    except Exception:
        pass
result = 0
""",
        "0",
        lambda scene: scene.log().count("a request failed") > 50,
        setting(handler, "_LOG_BURST", 10_000),
    ),
}


@pytest.fixture
def strike(hostile, caplog, monkeypatch):
    """Starts a server; gives a function that attacks it, and tells how that ended and whether the
    server shows it."""
    attack = hostile()
    server = attack.server
    server.taken = taken = []
    sizes: list[int] = []
    exactly = rpc.Endpoint._exactly

    def measured(peer: rpc.Endpoint, size: int) -> bytes:
        sizes.append(size)
        if size >= LARGE:
            raise ValueError("enough")
        return exactly(peer, size)

    monkeypatch.setattr(rpc.Endpoint, "_exactly", measured)
    recorded: list[bytes] = []
    append = server.service.audit.append

    def noted(lines: bytes, *rest: Any) -> None:
        recorded.append(lines)
        append(lines, *rest)

    monkeypatch.setattr(server.service.audit, "append", noted)
    monkeypatch.setattr(session_quota_store, "_MOST_LEASES", 50)
    monkeypatch.setattr(handler, "_LOG_BURST", 20)
    bob = server.accounts.get("bob")
    ledger: Ledger = server.service.ledger
    lease = ledger.reserve(bob.id, HELD, b"u-bobs", pieces=b"key")
    ledger.reserve(server.accounts.get("alice").id, HELD)
    token = server.service.tokens.issue(bob, "of bob").id
    scene = Scene(server, bob, lease, token, lambda: caplog.text, recorded, sizes, taken)

    def struck(what: Attack) -> tuple[str, bool]:
        caplog.clear()
        shown: list[bool] = []
        program = what.program
        values = {"bob": bob.id, "lease": repr(lease.id), "token": repr(token)}
        for name, value in values.items():
            program = program.replace("{" + name + "}", str(value))
        answer = attack(program, lambda: shown.append(bool(what.succeeded(scene))))
        eventually(lambda: not server.supervisor.sessions())
        return f"{answer}\n{caplog.text}", shown[0]

    yield struck
    for group in server.supervisor._groups._groups.values():  # of who became somebody else
        taken.append(group.page)
    for descriptor in taken:
        os.close(descriptor)


ALONE = ("larger-size-at-settlement", "negative-size")
"""What they count would be mended by the recount that follows others."""


@pytest.mark.system
@pytest.mark.parametrize(
    "names", [[one for one in ATTACKS if one not in ALONE], *([one] for one in ALONE)]
)
def test_hostile_messages_meet_a_guard(strike, monkeypatch, names):
    """And the control: without it, the same program does harm."""
    for name in names:
        what = ATTACKS[name]
        answer, succeeded = strike(what)
        assert not succeeded, (name, answer)
        assert what.refusal in answer, (name, answer)
        with monkeypatch.context() as patch:
            what.weaken(patch)
            answer, succeeded = strike(what)
        assert succeeded, (name, answer)


@pytest.mark.system
def test_a_message_that_nests_too_deep_ends_its_session_alone(hostile, dial, caplog):
    attack = hostile()
    with dial(attack.server) as other:
        deep = "b'\\x83\\xa2is\\xa5space\\xaaaccount_id\\x01\\xa1x' + b'\\x91' * 10**5 + b'\\xc0'"
        program = f"data = {deep}\nsend(struct.pack('!IIBB', len(data), 1, 1, 0) + data)\n"
        assert attack(program + "result = books.space(own)") is None
        assert "given up: maximum recursion depth" in caplog.text
        assert other.ask(ListTokens()) == Tokens([])


# before log-in -----------------------------------------------------------------------------------

_BEFORE_LOGIN = {"by_password", "by_token", "by_peer", "register", "delay"}


def arguments(parameters: tuple[str, ...]) -> dict[str, object]:
    """Something for each parameter."""
    lease = Lease("0" * 32, 1, 1)
    known = {"held": lease, "leases": [], "staging": b"u-1", "key": b"k", "pieces": None}
    texts = dict.fromkeys(("old", "new", "name", "token_id"), "x")
    return {one: ({"seconds": None} | known | texts).get(one, 1) for one in parameters}


def test_an_unauthenticated_client_is_answered_nothing_but_log_in(start_server):
    """All that can be asked is tried: also what is added some day."""
    service = start_server().service

    class Stranger:
        account = token_id = None

    answers = Answers(service, Stranger())
    targets = {
        ServerForSession: answers,
        QuotaStore: SessionQuotaStore(service.ledger, answers.account),
    }
    dispatcher = Dispatcher(targets)
    tried = set()
    for interface in targets:
        for name, one in requests_of(interface).items():
            if one.waits and name not in _BEFORE_LOGIN:
                message = one.struct(**arguments(one.struct.__struct_fields__))
                with pytest.raises(NotLoggedIn):
                    dispatcher.call(message, [])
                tried.add(name)
    assert {"space", "settle", "begin_transfer", "revoke_token"} < tried
