"""The trash: what was removed and replaced is kept for a while, at the cost of a rename.

`HOME/.ftpd-trash/NAME/` is one *operation*, one command of a client. In it lie the things as they
were, under names of the server's, and an `index` that says what each of them was. The decisions
are in docs/decisions/0029-trash.md.

Lives here: names (names.py), the index (index.py), the directory of a home's operations, and
opening one of them (directory.py), looking at them without holding any (glance.py), the operation
that a session puts things into (operation.py), things and their lines (things.py), telling what
there is (listing.py), looking into it (reading.py), restoring (restoring.py, with taking_back.py
and steps.py), giving up (discarding.py), counting (measuring.py), giving up what room is needed for
(making_room.py), and what is kept for too long, or too much of (thinning.py).
Lives elsewhere: who removes and replaces (home.py, commit.py, atomic_tree.py), the books
(ledger.py).
"""
