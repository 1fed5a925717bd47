"""Isolation: each session in a process of its own that can reach only what it needs.

Lives here: confining a process (sandbox.py), the requests between it and the server
(interfaces.py), the process of one session (session_process.py) and its proxies for the server
(proxies.py); in the server, the object for each session (isolated_session.py), all of them
(supervisor.py), what one account's sessions share (account_groups.py), requests (handler.py).
Lives elsewhere: the session itself, which doesn't depend on where it runs (serving/session.py),
forking (processes/forkserver.py), requests between processes (processes/rpc.py).
"""
