"""What these tests do behind a server's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest


@pytest.fixture
def change(root) -> Callable[..., None]:
    """Changes the accounts file behind the server's back."""

    def execute(statement: str, *values: object) -> None:
        database = sqlite3.connect(root / ".ftpd" / "state.db")
        with database:
            database.execute(statement, values)
        database.close()

    return execute
