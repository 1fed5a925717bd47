"""Admission: which new connections are accepted, before any log-in.

Lives here: the decision on a new connection. Lives elsewhere: counting unauthenticated connections
(startups.py), penalties for them (penalties.py), bans (bans.py), kinds of addresses
(net/addresses.py).
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from ftpserver.accounts.bans import Bans, duration
from ftpserver.accounts.penalties import Offence, Penalties
from ftpserver.accounts.startups import KnownNetworks, RefusedConnection, UnauthenticatedConnections
from ftpserver.net.addresses import LOCAL, is_in, network_of, source_of
from ftpserver.settings.table import Settings


class Admission:
    """Decides on new connections.

    Attributes:
        settings: The limits; may be replaced while the server runs.
        unauthenticated: The connections that have not logged in.
        penalties: The addresses that are refused because too many of their connections didn't.
    """

    def __init__(self, settings: Settings, bans: Bans) -> None:
        self.settings = settings
        self.unauthenticated = UnauthenticatedConnections(settings.max_startups)
        self.penalties = Penalties()
        self._bans = bans
        self._known = KnownNetworks()

    def admit(self, connection: Hashable, host: str) -> bool:
        """Return True if a connection is accepted. Called before it costs a thread.

        For an address from which a user has logged in lately, only connections of its own network
        count, and no penalty applies: one of many clients behind an address must not shut out the
        others.
        From a banned address without such a log-in, one connection at a time is accepted, so that
        it can be shown the reason. A proxy that names its clients' addresses isn't limited so.
        """
        known, trusted = host in self._known, self.is_trusted(host)
        if not known and not trusted and self.penalties.refuses(host):
            return False
        one_at_a_time = not known and not self.is_proxy(host) and self._bans.may_be_banned(host)
        if one_at_a_time and self.unauthenticated.count(host):
            return False
        return self.unauthenticated.take(connection, host, known=known, trusted=trusted)

    def turned_away(self, host: str) -> RefusedConnection | None:
        """Return why a connection from there would be refused now; None if it wouldn't be.

        A banned address is still allowed one connection, which is shown the reason: see `ban_of`.
        """
        known, trusted = host in self._known, self.is_trusted(host)
        left = 0.0 if known or trusted else self.penalties.left(host)
        if left:
            return RefusedConnection(
                "penalty",
                f"connections from {source_of(host)} are refused for another "
                f"{duration(math.ceil(left))}: too many ended without a log-in",
            )
        if self.unauthenticated.has_capacity(host, known=known, trusted=trusted):
            return None
        return RefusedConnection(
            "connections", self.crowd(host) or "too many clients have not logged in"
        )

    def crowd(self, host: str) -> str | None:
        """Describe a network that has used up its share of unauthenticated connections, or None."""
        count, most = (
            self.unauthenticated.count(host),
            self.unauthenticated.share(self.is_trusted(host)),
        )
        if count < most:
            return None
        return (
            f"{network_of(host)} has {count} connections that have not logged in, the limit is "
            f"{most}: a new one closes the oldest"
        )

    def is_trusted(self, host: str) -> bool:
        """Return True if an address has no limits or penalties, as many clients share it."""
        return is_in(host, self.settings.trusted_networks) or self.is_proxy(host)

    def is_proxy(self, host: str) -> bool:
        """Return True if the address is a proxy that passes on its clients' addresses."""
        networks = self.settings.proxy_from
        return bool(networks) and host != LOCAL and is_in(host, networks)

    def penalize(self, host: str, offence: Offence) -> None:
        """Penalize an address for what an unauthenticated connection from there has done."""
        if not self.is_trusted(host):
            self.penalties.add(host, offence)

    def is_known(self, host: str) -> bool:
        """Return True if a user has logged in from there lately."""
        return host in self._known

    def spare(self, host: str) -> None:
        """Exempt an address from limits and penalties: a user has logged in from there."""
        self._known.add(host)
