"""The most memory that one command has had, without what its parent had.

Lives here: a small process that starts the command and waits for it.
Lives elsewhere: what is measured with it (memory.py).

The kernel counts the memory of a process from its fork on: a child of a large process has had much
before it runs its program. This one imports little for that reason: nothing of the other modules.

``python -m benchmarks.peak RESULT COMMAND…`` writes the bytes to RESULT and ends with the command's
exit status.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> int:
    """Entry point of the helper process."""
    result, *command = arguments
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    with open(result, "w") as file:
        file.write(str(usage.ru_maxrss * 1024))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
