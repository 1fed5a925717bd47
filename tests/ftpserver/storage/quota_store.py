"""What the accounts file says that no interface tells."""

from __future__ import annotations

from sqlalchemy import Engine, select

from ftpserver.schema import account


def held_files(engine: Engine, name: str = "alice") -> int:
    """Files, directories and links that an account's leases hold room for."""
    with engine.connect() as connection:
        found = connection.execute(select(account.c.held_files).where(account.c.name == name))
        return found.scalar_one()
