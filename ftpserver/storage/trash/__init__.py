"""The trash: keeps removed and replaced files for a while, at the cost of one rename each.

`HOME/.ftpd-trash/NAME/` is one *operation*: one command of a client. It holds the removed items
unchanged, under names that the server chose, and an `index` that describes each of them. The
decisions are in docs/decisions/0029-trash.md.

Lives here: names (names.py), the index (index.py), the directory of a home's operations, and
opening one of them (directory.py), reading them without a lock (glance.py), the operation that a
session adds to (operation.py), items and their index lines (entries.py), listing (listing.py),
reading an item (reading.py), restoring (restoring.py, with taking_back.py and steps.py), purging
(discarding.py), counting (measuring.py), purging to free space (evicting_store.py), and purging
what exceeds the account's policy (thinning.py).
Lives elsewhere: removing and replacing (home.py, commit.py, atomic_tree.py), the quota store
(ledger.py).
"""
