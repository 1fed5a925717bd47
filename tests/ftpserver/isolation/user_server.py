"""A server whose sessions are hostile, as a process of a plain user: for test_isolation_as_user.py.

``python user_server.py ROOT``. It tells of itself in one line of JSON, and of the processes of its
sessions for each line that it is sent; it ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from argon2 import PasswordHasher
from attacks import Secret

from ftpserver.accounts import passwords
from ftpserver.daemon.server import FtpServer
from ftpserver.isolation import supervisor
from ftpserver.settings.table import Settings


def main(root: Path) -> None:
    """Serve until the input ends."""
    passwords._hasher = PasswordHasher(1, 8, 1)
    supervisor.CHILD = "hostile_child"
    secret = Secret(b"secret!!")
    settings = Settings(
        root, host="127.0.0.1", port=0, plaintext=True, isolation="process", grace=1.0
    )
    with FtpServer(settings) as server:
        for name in ("alice", "bob"):
            server.accounts.add(name, "secret")
        (root / "bob" / "secret").write_text("bob's own")
        (settings.state / "key.pem").touch()
        with server.running():
            tell(
                address=server.server_address,
                pid=os.getpid(),
                secret=secret.address,
                uid=os.geteuid(),
            )
            for _ in sys.stdin:
                assert server.supervisor is not None
                sessions = server.supervisor.sessions()
                tell(sessions=[one.pid for one in sessions if one.account is not None])


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
