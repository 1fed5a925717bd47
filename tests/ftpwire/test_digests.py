"""BLAKE3 against its published vectors, and the digest that is kept beside a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import digests
from ftpwire.digests import StoredDigest


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(
            b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262", id="empty"
        ),
        pytest.param(
            b"\0", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213", id="one-byte"
        ),
        pytest.param(
            bytes(number % 251 for number in range(1024)),
            "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
            id="one-chunk",
        ),
        pytest.param(
            bytes(number % 251 for number in range(102400)),
            "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
            id="many-chunks",
        ),
    ],
)
@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_published_vectors(data, found, form):
    assert digests.digest(form(data)).hex() == found
    assert len(digests.digest(data)) == digests.SIZE


@given(pieces=st.lists(st.binary(max_size=50)))
def test_piece_by_piece(pieces):
    hasher = digests.new()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == digests.digest(b"".join(pieces))


stored = st.builds(
    StoredDigest,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(min_size=16, max_size=16),
)


@given(value=stored)
def test_attribute_round_trip(value):
    packed = value.pack()
    assert len(packed) == 65  # a bound of 80 bytes keeps it inside the inode
    assert StoredDigest.unpack(packed) == value


def test_a_commit_id_is_not_needed():
    value = StoredDigest(bytes(32), 5, -1)
    assert StoredDigest.unpack(value.pack()) == value
    assert value.commit_id == bytes(16)


GOOD = StoredDigest(b"d" * 32, 1, 2, b"c" * 16).pack()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[:-1], id="cut-short"),
        pytest.param(GOOD + b"\0", id="too-long"),
        pytest.param(b"\x02" + GOOD[1:], id="of-another-version"),
        pytest.param(b"\0" * 65, id="zeros"),
        pytest.param(b"sha256:" + b"0" * 58, id="somebody-elses"),
    ],
)
def test_values_that_are_not_ours(value):
    assert StoredDigest.unpack(value) is None


@given(value=st.binary(max_size=100))
def test_any_value_is_read_or_passed_over(value):
    found = StoredDigest.unpack(value)
    assert found is None or found.pack() == value


def test_the_attribute_is_the_users():
    assert digests.ATTRIBUTE.startswith("user.")  # no privilege is needed to set it


def test_a_kept_digest_holds_for_one_size_and_time_only():
    value = StoredDigest(b"d" * 32, 5, -1).pack()
    assert digests.digest_in(value, 5, -1) == b"d" * 32
    for size, mtime_ns in ((4, -1), (5, 0)):
        assert digests.digest_in(value, size, mtime_ns) is None
    for other in (b"", value[:-1], value + b"\0", b"\2" + value[1:]):
        assert digests.digest_in(other, 5, -1) is None
