"""The peak memory of one command, without the memory of its parent.

Lives here: a small process that starts the command and waits for it.
Lives elsewhere: the measurement that uses it (memory.py).

The kernel counts the memory of a process from its fork on, so the child of a large process has a
high peak before it runs its program. Therefore this process imports little, and none of the other
modules.

``python -m benchmarks.peak RESULT COMMAND…`` writes the number of bytes to RESULT and exits with
the command's status.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> int:
    """Run the helper process."""
    result, *command = arguments
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    with open(result, "w") as file:
        file.write(str(usage.ru_maxrss * 1024))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
