"""Restoring gives back exactly what was there: random commands, undone in turn, and done again."""

from __future__ import annotations

import os
import shutil
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash.taking_back import DryRunPath, DryRunState
from ftpwire.errors import CommandError
from ftpwire.messages import Move, Remove

PLACES = (b"a", b"b", b"d", b"d/a", b"d/b", b"d/e", b"d/e/a", b"f", b"f/a", b"\xff", b"d/\xff")
paths_ = st.sampled_from([b"/" + place for place in PLACES])
steps = st.one_of(
    st.tuples(st.just("rm"), paths_),
    st.tuples(st.just("put"), paths_),
    st.tuples(st.just("mv"), paths_, paths_),
)
commands = st.lists(st.lists(steps, min_size=1, max_size=4), min_size=1, max_size=5)


def fill(bin_) -> None:
    """The same files at each beginning."""
    for top in bin_.files.iterdir():
        if top.is_dir():
            shutil.rmtree(top)
        else:
            top.unlink()
    for place in PLACES:
        path = bin_.files / place.decode("utf-8", "surrogateescape")
        if place in (b"d", b"d/e", b"f"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(place * 3)


def run(bin_, step, content: bytes) -> None:
    """One step; what cannot be done isn't."""
    try:
        match step:
            case ("rm", path):
                bin_.session.remove(Remove(path, recursive=True))
            case ("put", path):
                if (bin_.files / path[1:].decode("utf-8", "surrogateescape")).is_file():
                    bin_.put(path, content)
            case ("mv", source, target):
                bin_.session.move(Move(source, target))
    except (CommandError, OSError):
        pass


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commands=commands)
def test_undoing_all_commands_gives_the_first_tree(bin_, commands):
    bin_.session.go_idle()
    fill(bin_)
    states, names = [bin_.tree()], []
    for number, command in enumerate(commands):
        bin_.begin("command")
        for count, step in enumerate(command):
            run(bin_, step, b"%d.%d" % (number, count))
        if bin_.session.keeping.name is None:
            continue
        states.append(bin_.tree())
        names.append(bin_.session.keeping.name)
    after = states.pop()
    undone = []
    for name in reversed(names):
        restored = bin_.restore(name)
        assert restored.conflicts == [], restored
        assert bin_.tree() == states.pop()
        if restored.operation is not None:
            undone.append(restored.operation)
    for name in reversed(undone):
        restored = bin_.restore(name)
        assert restored.conflicts == [], restored
    assert bin_.tree() == after


def contents(bin_) -> set[bytes]:
    """What all files hold, in the home and in the trash."""
    found = set()
    for above, _, names in os.walk(os.fsencode(bin_.files)):
        for name in names:
            if name not in (b"index", b"lock") or b".ftpd-" not in above:
                with open(os.path.join(above, name), "rb") as file:
                    found.add(file.read())
    return found


restores = st.lists(
    st.tuples(
        st.integers(0, 10),
        st.sampled_from(["skip", "replace", "beside"]),
        st.sampled_from([None, None, b"/", b"/new/place"]),
        st.one_of(st.none(), paths_),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(commands=commands, restores=restores)
def test_nothing_is_lost_whatever_is_restored(bin_, commands, restores):
    """In any order, over anything, in parts, to other places: each content is somewhere, the books
    say what is there, and looking has told what is done."""
    bin_.session.go_idle()
    fill(bin_)
    names = []
    for number, command in enumerate(commands):
        bin_.begin("command")
        for count, step in enumerate(command):
            run(bin_, step, b"%d.%d" % (number, count))
        if bin_.session.keeping.name is not None:
            names.append(bin_.session.keeping.name)
    recount(bin_.ledger, bin_.account.id, Home(bin_.files, durable=False))
    for number, conflict, target, path in restores:
        if not names:
            return
        before = contents(bin_)
        options = {"conflict": conflict, "target": target}
        if path is not None:
            options["paths"] = [path]
        name = names[number % len(names)]
        tree = bin_.tree()
        looked = bin_.restore(name, look=True, **options)
        assert bin_.tree() == tree
        restored = bin_.restore(name, **options)
        assert contents(bin_) == before
        if path is None and conflict == "skip":
            assert (looked.items, looked.already) == (restored.items, restored.already)
        if restored.operation is not None:
            names.append(restored.operation)
        assert bin_.agrees()
        bin_.measure()
        assert bin_.agrees()


def test_what_was_looked_at_is_found_without_going_through_all_of_it():
    imagined = DryRunState()
    began = time.process_time()
    for number in range(20_000):  # half a minute, if each were compared with all before
        imagined.put((b"d", b"%d" % number), DryRunPath())
    assert time.process_time() - began < 5
    imagined.put((b"d",), DryRunPath())
    assert imagined.find((b"d", b"7")) == (DryRunPath(), (b"7",))
    assert imagined.find((b"e",)) == (None, (b"e",))
