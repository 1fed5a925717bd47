"""Isolation: each session in a process of its own, which has only what it needs.

Lives here: confining a process (sandbox.py), what it may ask the server and what that asks it
(messages.py), the process of one session (session_process.py) and the interfaces that ask
(proxies.py), the server's side: its hold on each of those processes (isolated_session.py), all of
them (supervisor.py), what those of one account share (account_groups.py), its answers (handler.py).
Lives elsewhere: what a session does, which doesn't know where it is (serving/session.py), forking
(processes/forkserver.py), how processes ask each other (processes/rpc.py).
"""
