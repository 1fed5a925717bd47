"""Starts an `ftp` that removes a source before it has arrived for good: ``hasty.py ARGUMENTS…``.

The rounds of test_remove_source.py have to catch it, or their zero losses would mean nothing.
"""

from __future__ import annotations

import os
from typing import Any

from ftpclient.__main__ import main
from ftpclient.connection.protocol import Call
from ftpclient.transfer.file_download import FileDownload
from ftpclient.transfer.file_upload import FileUpload
from ftpwire.messages import Remove

_put, _add = FileUpload._put_once, FileDownload.add_one


def put_and_remove(self: FileUpload, source: bytes, *rest: Any) -> None:
    """Send a file, and remove it before the server has answered."""
    _put(self, source, *rest)
    os.unlink(source)


def get_and_remove(self: FileDownload, item: Any, *rest: Any, **named: Any) -> None:
    """Ask for a file, and for its removal with the same breath."""
    _add(self, item, *rest, **named)
    self.connection.submit(Call(), Remove(item.source))


FileUpload._put_once = put_and_remove  # type: ignore[method-assign]
FileDownload.add_one = get_and_remove  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
