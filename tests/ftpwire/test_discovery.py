"""The datagrams of discovery: what travels, what is refused, and what the protocol says of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire import discovery
from ftpwire.discovery import SIZE, Announcement, announcement_of, answer, nonce_of, question
from ftpwire.errors import BadMagic, BadMessage, ProtocolError, VersionMismatch

NONCE = bytes(range(discovery.NONCE_SIZE))
PRINT = "SHA256:" + "A" * 43
REPORTED = Announcement(b"12345678", "office", 1234, "ftpd/1", PRINT)
PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_a_question_and_its_answer():
    requested = question(NONCE)
    assert len(requested) == SIZE
    assert nonce_of(requested) == NONCE
    assert announcement_of(answer(NONCE, REPORTED), NONCE) == REPORTED


def test_no_answer_is_larger_than_its_question():
    longest = "\N{GRINNING FACE}" * discovery.MAX_NAME
    assert len(answer(NONCE, Announcement(b"12345678", longest, 65535, "ftpd/1", PRINT))) <= SIZE
    with pytest.raises(ValueError):
        answer(NONCE, Announcement(b"12345678", longest, 65535, longest, PRINT))


@pytest.mark.parametrize(
    ("datagram", "error"),
    [
        pytest.param(b"", BadMessage, id="empty"),
        pytest.param(question(NONCE)[:-1], BadMessage, id="padding-cut-short"),
        pytest.param(question(NONCE) + b"\0", BadMessage, id="too-long"),
        pytest.param(b"GET / HTTP/1.0".ljust(SIZE), BadMagic, id="something-else"),
        pytest.param(b"FTPd\2" + question(NONCE)[5:], VersionMismatch, id="version"),
        pytest.param(answer(NONCE, REPORTED).ljust(SIZE, b"\0"), BadMessage, id="an-answer"),
    ],
)
def test_what_is_no_question(datagram, error):
    with pytest.raises(error):
        nonce_of(datagram)


def lying(**changes) -> bytes:
    """An answer whose body breaks the rules."""
    body = msgspec.structs.asdict(REPORTED) | changes
    return answer(NONCE, REPORTED)[: discovery._HEADER.size] + msgspec.msgpack.encode(body)


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="empty"),
        pytest.param(question(NONCE), id="a-question"),
        pytest.param(answer(bytes(discovery.NONCE_SIZE), REPORTED), id="to-another-question"),
        pytest.param(answer(NONCE, REPORTED)[:-1], id="cut-short"),
        pytest.param(answer(NONCE, REPORTED) + b"\0", id="something-after-it"),
        pytest.param(answer(NONCE, REPORTED).ljust(SIZE + 1, b"\0"), id="too-long"),
        pytest.param(lying(port=0), id="port-0"),
        pytest.param(lying(port=65536), id="port-65536"),
        pytest.param(lying(name=""), id="no-name"),
        pytest.param(lying(name="n" * (discovery.MAX_NAME + 1)), id="long-name"),
        pytest.param(lying(name=b"\xff"), id="name-no-text"),
        pytest.param(lying(fingerprint=PRINT + "\n"), id="fingerprint-with-a-line"),
        pytest.param(lying(fingerprint="MD5:x"), id="fingerprint-of-another-kind"),
        pytest.param(lying(run=b""), id="no-run"),
    ],
)
def test_what_is_no_answer(datagram):
    with pytest.raises(ProtocolError):
        announcement_of(datagram, NONCE)


def test_what_a_later_version_adds_is_passed_over():
    assert announcement_of(lying(motto="we serve"), NONCE) == REPORTED


@given(st.binary(max_size=SIZE + 2))
def test_noise_is_refused_in_the_same_way(noise):
    for datagram in (noise, question(NONCE)[:22] + noise, answer(NONCE, REPORTED)[:22] + noise):
        for read in (nonce_of, lambda data: announcement_of(data, NONCE)):
            try:
                read(datagram)
            except ProtocolError:
                pass


def test_the_protocol_lists_the_fields_of_an_answer():
    text = PROTOCOL.read_text().partition("\n## Discovery\n")[2].partition("\n## ")[0]
    reported = re.findall(r"^\| `(\w+)` \|", text, re.M)
    assert reported == [field.name for field in msgspec.structs.fields(Announcement)]
    assert f"{SIZE} bytes" in text and "`FTPd`" in text
