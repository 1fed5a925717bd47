"""`ftpd` on gevent: the unchanged code, with greenlets in place of threads.

Lives here: the patching, which must come before all other imports.
Lives elsewhere: the comparison (engines.py).
"""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.processes import Unavailable


def check() -> None:
    """Raise Unavailable if gevent is not installed."""
    if importlib.util.find_spec("gevent") is None:
        raise Unavailable("gevent is not installed (pip install gevent)")


def main() -> None:
    """Run the command line of `ftpd`."""
    from gevent import monkey

    monkey.patch_all()
    from ftpserver.cli.main import main as ftpd

    ftpd()


if __name__ == "__main__":
    sys.exit(main())
