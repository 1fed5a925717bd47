"""The operations on files that a logged-in user can request, independent of sockets.

Lives here: the verbs (workspace.py), the permissions that they need (needs.py), reporting progress
(observer.py), reading (reading.py), writing at any offset (writer.py), copying (copying.py), moving
and removing across file systems (moving.py).
Lives elsewhere: frames, and what is allowed before log-in (serving/), storing files and counting
quota (storage/), accounts (accounts/).
"""
