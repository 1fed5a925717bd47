"""Admission: which connections are taken before anybody has logged in.

Lives here: what counts for and against a new connection. Lives elsewhere: counting those without a
log-in (startups.py), what they are refused for (penalties.py), bans (bans.py), what an address is
(net/addresses.py).
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from ftpserver.accounts.bans import Bans, duration
from ftpserver.accounts.penalties import Offence, Penalties
from ftpserver.accounts.startups import Spared, TurnedAway, UnauthenticatedConnections
from ftpserver.net.addresses import LOCAL, is_in, network_of, source_of
from ftpserver.settings.table import Settings


class Admission:
    """Decides on new connections.

    Attributes:
        settings: May be replaced while the server runs.
        unauthenticated: Connections that have not logged in.
        penalties: Of addresses from which too many of them came.
    """

    def __init__(self, settings: Settings, bans: Bans) -> None:
        self.settings = settings
        self.unauthenticated = UnauthenticatedConnections(settings.max_startups)
        self.penalties = Penalties()
        self._bans = bans
        self._known = Spared()

    def admit(self, connection: Hashable, host: str) -> bool:
        """Whether a connection is taken; before it costs a thread.

        Where somebody has logged in lately, only the connections from there count: whoever else
        knocks, and no penalty holds: one of many behind an address shuts out none of the others.
        Who is banned, and hasn't, gets one at a time, to be told so; a proxy that tells the
        addresses of its clients goes on bringing them.
        """
        known, trusted = host in self._known, self.is_trusted(host)
        if not known and not trusted and self.penalties.refuses(host):
            return False
        one_at_a_time = not known and not self.is_proxy(host) and self._bans.may_be_banned(host)
        if one_at_a_time and self.unauthenticated.count(host):
            return False
        return self.unauthenticated.take(connection, host, known=known, trusted=trusted)

    def turned_away(self, host: str) -> TurnedAway | None:
        """Why a connection from there would not be taken just now; None if it would. For people.

        Whoever is banned gets one, to be told so: `ban_of`.
        """
        known, trusted = host in self._known, self.is_trusted(host)
        left = 0.0 if known or trusted else self.penalties.left(host)
        if left:
            return TurnedAway(
                "penalty",
                f"connections from {source_of(host)} are refused for another "
                f"{duration(math.ceil(left))}: too many ended without a log-in",
            )
        if self.unauthenticated.has_room(host, known=known, trusted=trusted):
            return None
        return TurnedAway("connections", self.crowd(host) or "too many connections have no log-in")

    def crowd(self, host: str) -> str | None:
        """What there is to say of a place that has its share of connections without a log-in."""
        count, most = (
            self.unauthenticated.count(host),
            self.unauthenticated.share(self.is_trusted(host)),
        )
        if count < most:
            return None
        return (
            f"{network_of(host)} has {count} connections that have not logged in, and {most} are "
            "allowed: a new one ends the oldest"
        )

    def is_trusted(self, host: str) -> bool:
        """Whether an address has no share and no penalties: it stands for many clients."""
        return is_in(host, self.settings.trusted_networks) or self.is_proxy(host)

    def is_proxy(self, host: str) -> bool:
        """Whether an address is that of a proxy which says whose its connections are."""
        networks = self.settings.proxy_from
        return bool(networks) and host != LOCAL and is_in(host, networks)

    def penalize(self, host: str, offence: Offence) -> None:
        """A connection from there has ended without a log-in, in a way that costs something."""
        if not self.is_trusted(host):
            self.penalties.add(host, offence)

    def is_known(self, host: str) -> bool:
        """Whether somebody has logged in from there lately."""
        return host in self._known

    def spare(self, host: str) -> None:
        """Somebody has logged in from there."""
        self._known.add(host)
