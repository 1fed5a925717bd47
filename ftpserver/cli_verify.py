"""`ftpd check`, `ftpd scrub`, `ftpd recount`: looking after what is stored.

Lives here: options, what is printed, exit statuses. Lives elsewhere: the verifier (verify.py),
reading files (scrub.py), counting (server.py).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpserver.cli import EXIT_FAILED, cli, json_option, open_accounts, root_option
from ftpwire import paths

if TYPE_CHECKING:
    from ftpserver.accounts import Account
    from ftpserver.verify import Finding

EXIT_DAMAGE = 8
_NICE = 10
