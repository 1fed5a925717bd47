"""What a logged-in user may do with files, without a socket.

Lives here: the verbs (workspace.py), what they need of the account's permissions (needs.py), whom
they tell of long work (observer.py), reading (reading.py), writing at any offset (writer.py),
copying (copying.py), moving and removing where no rename leads (moving.py).
Lives elsewhere: frames and who may ask for what before log-in (serving/), how files and room are
kept (storage/), accounts (accounts/).
"""
