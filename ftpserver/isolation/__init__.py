"""Isolation: each session in a process of its own, which has only what it needs.

Lives here: confining a process (confinement.py), what it may ask the server and what that asks it
(questions.py), the process of one session (child.py) and the interfaces that ask (remote.py), the
server's side: its hold on those processes (parent.py) and its answers (answers.py).
Lives elsewhere: what a session does, which doesn't know where it is (session.py), forking
(nursery.py), how processes ask each other (calls.py).
"""
