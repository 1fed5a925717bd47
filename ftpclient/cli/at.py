"""The option ``--at`` of restore, get and cat, which selects a version of a file.

Lives here: the option, and finding the version. Lives elsewhere: listing versions
(commands/trash.py), which version existed at a given time (transfer/trash.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from ftpclient.cli.app import App, UsageError
from ftpclient.cli.group import offers
from ftpwire import paths
from ftpwire.errors import NotFound
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.transfer.trash import Version

_NUMBER = r"#?([0-9]{1,6})"

at_option = click.option(
    "--at",
    metavar="N|WHEN",
    shell_complete=offers("versions"),
    help="Use version N, or the version at a time: 2h, yesterday, 2030-12-31.",
)


def version_at(app: App, path: RemotePath, at: str) -> Version | None:
    """Return the version of a file that ``--at`` selects; None for the current file.

    Args:
        at: The number of a kept version, 1 being the newest; or a point in time.

    Raises:
        UsageError: ``at`` is neither.
        NotFound: No such version is kept.
    """
    from ftpclient.cli import moments  # not needed without --at
    from ftpclient.transfer.trash import at_time

    number = re.fullmatch(_NUMBER, at.strip())
    moment_ns = 0
    if number is None:
        try:
            moment_ns = moments.past(at)
        except ValueError as error:
            raise UsageError(f"--at: {error}; or the number of a version") from None
    found = app.client.versions(path)
    if number is not None:
        wanted = int(number[1])
        if not 1 <= wanted <= len(found):
            count = f"{len(found)} are" if len(found) != 1 else "1 is"
            lister = app.command("versions")
            kept = f"{count} kept ({lister} lists them)" if found else "none is kept"
            raise NotFound(f"{paths.show(path)}: no version {wanted}: {kept}", path=path)
        return found[wanted - 1]
    version = at_time(found, moment_ns)
    there_since = app.client.stat(path).mtime_ns if version is None else version.item.mtime_ns
    if there_since > moment_ns:
        raise NotFound(f"{paths.show(path)}: no version from that time is kept", path=path)
    return version
