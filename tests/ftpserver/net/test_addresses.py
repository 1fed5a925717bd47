"""Addresses as limits, bans and networks know them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ftpserver.net.addresses import LOCAL, host_of, is_in, network_of


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (("192.0.2.7", 4711), "192.0.2.7"),
        (("::ffff:192.0.2.7", 4711, 0, 0), "192.0.2.7"),
        (("2001:DB8:0:0::7", 4711, 0, 0), "2001:db8::7"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::1%eth0"),
        (("::1", 4711, 0, 0), "::1"),
        ("", LOCAL),
        (b"", LOCAL),
    ],
)
def test_the_address_of_a_peer(address, host):
    assert host_of(address) == host


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        (LOCAL, LOCAL),
    ],
)
def test_what_counts_as_one_place(host, place):
    assert network_of(host) == place


@pytest.mark.parametrize(
    ("host", "networks", "inside"),
    [
        ("192.0.2.7", ["192.0.2.0/24"], True),
        ("::ffff:192.0.2.7", ["192.0.2.0/24"], True),
        ("192.0.3.7", ["192.0.2.0/24"], False),
        ("192.0.3.7", ["2001:db8::/32", "192.0.3.0/24"], True),
        ("2001:db8::1", ["192.0.2.0/24"], False),
        ("2001:db8::1", ["2001:db8::/32"], True),
        ("192.0.2.7", [], False),
        (LOCAL, ["192.0.2.0/24"], True),
    ],
)
def test_networks(host, networks, inside):
    assert is_in(host, [ip_network(one) for one in networks]) is inside
