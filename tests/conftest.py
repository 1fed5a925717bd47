"""What tests share: servers in this process, clients, bare peers, a canary, and clean leaving."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import ssl
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import settings

from tests.peer import PATIENCE, FakeServer, Peer
from tests.removal import Removal
from tests.system import modes

# Slow examples are no failures, and no example is kept from one run to the next. Each run has other
# examples; what takes many at once is `--hypothesis-profile thorough`.
settings.register_profile("tests", deadline=None, database=None, max_examples=50)
settings.register_profile("thorough", parent=settings.get_profile("tests"), max_examples=1000)
settings.load_profile("tests")

# started in the background, or by nohup: the programs that tests start would ignore these as well
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

QUICK = PasswordHasher(1, 8, 1)
"""Hashes passwords in no time."""

DESCRIPTORS = Path("/proc/self/fd")
SYSTEM = Path(__file__).parent / "system"
FAST = "not system and not long"
"""What pytest's ``-m`` is unless another one is written (pyproject.toml)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Here, because pytest reads no options from the folders below."""
    parser.addoption(
        "--serve-as",
        metavar="MODES",
        type=modes.chosen,
        help="run tests/system in these modes of serving, separated by commas, or in 'all'",
    )
    parser.addoption(
        "--cold-starts",
        action="store_true",
        help="start each `ftp` and `ftpd` of tests/system from nothing (see tests/system/warm.py)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Don't read tests/system for the fast tier, which has none of them: that takes a second."""
    return True if collection_path == SYSTEM and config.option.markexpr == FAST else None


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m leaves out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests into tiers: what is below tests/system starts real programs, and so does what
    asks for the fixture that starts them.

    The tiers are disjoint: what takes hundreds of rounds is in *long* alone.
    """
    for item in items:
        if item.get_closest_marker("long") is None:
            if item.path.is_relative_to(SYSTEM) or "programs" in item.fixturenames:
                item.add_marker("system")
        elif item.get_closest_marker("system") is not None:
            raise pytest.UsageError(f"{item.nodeid}: a test is in one tier: system or long")


def pytest_collection_finish() -> None:
    """Leave the modules and tests out of what is searched for garbage: they stay to the end.

    A whole search takes a tenth of a second otherwise, and many tests ask for one (see below).
    """
    gc.collect()
    gc.freeze()


def open_descriptors() -> dict[str, str]:
    """What is open, and what it is."""
    found = {}
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.exists() else ():
        try:
            found[name] = os.readlink(DESCRIPTORS / name)
        except FileNotFoundError:
            continue  # the listing's own
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test ends with the threads and descriptors that it began with."""
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} outlived its test"
    left = open_descriptors()
    if len(left) > len(descriptors):
        gc.collect()  # what only a cycle holds is nobody's
        gc.freeze()  # the rest stays: modules that were imported meanwhile, caches
        left = open_descriptors()
    new = {fd: what for fd, what in left.items() if descriptors.get(fd) != what}
    assert len(left) <= len(descriptors), f"descriptors left open: {new}"


_HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.stash[_HAS_FAILED] = True
    return report


@pytest.fixture(scope="session")
def removal(tmp_path_factory) -> Iterator[Removal]:
    with Removal(tmp_path_factory.mktemp("removed")) as one:
        yield one


@pytest.fixture
def tmp_path(tmp_path: Path, removal: Removal, request: pytest.FixtureRequest) -> Iterator[Path]:
    """pytest's own. That of a test that passed is removed while other tests run."""
    yield tmp_path
    if not request.node.stash.get(_HAS_FAILED, False):
        removal.take(tmp_path)


@pytest.fixture(autouse=True)
def own_environment(request, monkeypatch) -> None:
    """Nothing of the caller's own set-up counts, and nothing of it is written to."""
    for name in list(os.environ):
        if name.startswith(("FTP_", "FTPD_", "XDG_", "NETRC")):
            monkeypatch.delenv(name)
    if "tmp_path" in request.fixturenames:
        home = request.getfixturevalue("tmp_path") / "user"
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


# servers and their peers -------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def statements_compiled_once() -> Iterator[None]:
    """Have all engines of this process share what SQLAlchemy compiled.

    Each server of a test has an engine of its own, and would compile the same thirty statements
    again: a tenth of what all tests take. The key of what is compiled has the dialect, which is one
    object of each engine; those of one kind compile the same.
    """
    import sqlalchemy
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as Dialect

    from ftpserver import database

    compiled: dict[object, object] = {}

    def create_engine(*arguments, **options) -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(*arguments, **options)
        engine.update_execution_options(compiled_cache=compiled)
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "create_engine", create_engine)
        patch.setattr(Dialect, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(Dialect, "__hash__", lambda one: hash(type(one)))
        yield


@pytest.fixture
def quick_passwords(monkeypatch) -> None:
    """Hash passwords in no time: what that costs is none of most tests' business."""
    from ftpserver.accounts import passwords

    monkeypatch.setattr(passwords, "_hasher", QUICK)


@pytest.fixture(scope="session")
def root_of_alice(tmp_path_factory) -> Path:
    """A root with nothing but alice's account and home, to be copied."""
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.database import open_state

    root = tmp_path_factory.mktemp("of-alice") / "root"
    engine = open_state(root / ".ftpd")
    Accounts(engine, root).add("alice", "", password_hash=QUICK.hash("secret"))
    engine.dispose()
    return root


@pytest.fixture
def start_server(tmp_path, root_of_alice, quick_passwords):
    """Starts servers in this process: by default plain, on tmp_path/root, with alice.

    By default they leave it to the system when files reach the disk: with each answer, a test would
    wait for all that the machine is writing. tests/system has the servers that do it at once.

    They are stopped at the end, or by ``start_server.finish(server)``.
    """
    from ftpserver.daemon.assembly import whole_server
    from ftpserver.daemon.server import FtpServer
    from ftpserver.settings.table import Settings

    running: dict[FtpServer, ExitStack] = {}

    def start(*, quota: int | None = None, **options) -> FtpServer:
        values = {
            "root": tmp_path / "root",
            "host": "127.0.0.1",
            "port": 0,
            "plaintext": True,
            "grace": 10.0,
            "durable": False,
            "workers": 1,  # what runs here is to be seen from here
            "trash_reserve": 0,  # however full the disk of the tests is
        }
        settings = Settings(**values | options)
        if not settings.state.exists():
            shutil.copytree(root_of_alice, settings.root, dirs_exist_ok=True)
        with ExitStack() as stack:
            server = stack.enter_context(whole_server(settings))
            if not len(server.accounts):
                server.accounts.add("alice", "secret")
            if quota is not None:
                server.accounts.change("alice", quota=quota)
            stack.enter_context(server.running())
            running[server] = stack.pop_all()
        return server

    start.finish = lambda server: running.pop(server).close()
    yield start
    for server in list(running):
        _left(server)
        start.finish(server)


def _left(server) -> None:
    """Give the clients, which were closed, a moment to be gone: a server that stops looks for that
    every 20 ms, which is most of what a test takes."""
    for _ in range(20):
        if not server.service.connections:
            return
        time.sleep(0.001)


@pytest.fixture
def server(start_server):
    """A running server, without TLS."""
    return start_server()


@pytest.fixture(params=[True, False], ids=["same-machine", "other-machine"])
def client_is_local(request, monkeypatch) -> bool:
    """Whether the servers of this process take their clients for ones on the same machine: without
    TLS they then send large files another way."""
    from ftpwire.channel import Channel

    monkeypatch.setattr(Channel, "is_local", request.param)
    return request.param


@pytest.fixture
def files(server) -> Path:
    """Alice's home, as the file system has it."""
    return server.settings.root / "alice"


@pytest.fixture
def dial(start_server) -> Iterator[Callable[..., Peer]]:
    """Connects bare peers to a server; they are closed before it stops."""
    with ExitStack() as stack:

        def connect(server, *, logged_in: bool = True, **options) -> Peer:
            peer = stack.enter_context(Peer.connect(server.server_address[:2], **options))
            if logged_in:
                peer.log_in()
            return peer

        yield connect


@pytest.fixture
def tls_client_context() -> ssl.SSLContext:
    """For bare peers: TLS with whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def connect(tmp_path, start_server) -> Iterator[Callable]:
    """Connects clients, to a server or a fake one; they are closed before it stops."""
    from ftpclient.client import Client
    from ftpclient.connection.addresses import ServerAddress
    from ftpclient.connection.known_hosts import KnownHosts

    with ExitStack() as stack:

        def make(
            server, user: str = "alice", password: str = "secret", kind: type = Client, **options
        ) -> Client:
            if isinstance(server, FakeServer):
                address, plain = server.address, True
            else:
                host, port = server.server_address[:2]
                address = ServerAddress(host, port, user)
                plain = server.settings.plaintext
            values = {
                "password": password,
                "plaintext": plain,
                "accept_new": True,
                "known_hosts": KnownHosts(tmp_path / "known_hosts"),
            }
            client = kind(address, **values | options)
            stack.callback(client.close)
            client.connect()
            return client

        yield make


@pytest.fixture
def client(server, connect):
    """A client of the server, logged in as alice."""
    return connect(server)


@pytest.fixture
def fake(dial) -> Iterator[Callable[..., FakeServer]]:
    """Starts servers that follow a script; see FakeServer."""
    with ExitStack() as stack:
        yield lambda script, **options: stack.enter_context(FakeServer(script, **options))


# the canary --------------------------------------------------------------------------------


def state_of_tree(directory: Path) -> dict[str, tuple]:
    """All that can be told of a tree without reading a file: reading one shows in its atime."""
    found = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        info = path.lstat()
        found[str(path.relative_to(directory))] = (
            info.st_ino,
            info.st_mode,
            info.st_nlink,
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
            info.st_atime_ns if stat.S_ISREG(info.st_mode) else None,
        )
    return found


@contextmanager
def unharmed(directory: Path) -> Iterator[Path]:
    """Nothing below the directory may be read, made, changed or removed meanwhile."""
    (directory / "inside").mkdir(parents=True)
    (directory / "secret").write_bytes(b"not yours")
    (directory / "inside" / "deeper").write_bytes(b"not yours either")
    for path in (directory / "secret", directory / "inside" / "deeper"):
        os.utime(path, ns=(0, 10**18))  # so old that any read would show
    before = state_of_tree(directory)
    yield directory
    assert state_of_tree(directory) == before


@pytest.fixture
def canary(tmp_path) -> Iterator[Path]:
    """A tree beside the homes and the destinations. No test's deeds may reach it."""
    with unharmed(tmp_path / "canary") as directory:
        yield directory


# privileges --------------------------------------------------------------------------------

_CAPABILITY_VERSION = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER = 1, 2, 3


class _Capabilities(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Have this thread, and those it starts, pass no permission check that a user wouldn't."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    data = (_Capabilities * 2)()
    assert libc.capget(header, data) == 0, os.strerror(ctypes.get_errno())
    before = data[0].effective
    data[0].effective = before & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH | 1 << _FOWNER)
    assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        data[0].effective = before
        assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())


@pytest.fixture
def plain_user() -> Iterator[None]:
    """Root passes permission checks and hides bugs: do without, in this test."""
    with as_plain_user():
        yield
