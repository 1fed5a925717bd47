"""`ftpd` on gevent: the code of the threads, unchanged, with greenlets in their place.

Lives here: the patching, which has to come before everything else is imported.
Lives elsewhere: what it is compared with (engines.py).
"""

from __future__ import annotations

import importlib.util
import sys

from benchmarks.processes import Unavailable


def check() -> None:
    """Raises Unavailable when gevent isn't there."""
    if importlib.util.find_spec("gevent") is None:
        raise Unavailable("gevent is not installed (pip install gevent)")


def main() -> None:
    """Entry point: the command line of `ftpd`."""
    from gevent import monkey

    monkey.patch_all()
    from ftpserver.cli.main import main as ftpd

    ftpd()


if __name__ == "__main__":
    sys.exit(main())
