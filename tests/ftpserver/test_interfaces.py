"""Interfaces as schemas: what a method becomes, and what may be sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from ftpserver.interfaces import (
    Descriptors,
    Dispatcher,
    from_wire,
    later,
    make_proxy,
    namespaced,
    notification,
    request,
    requests_of,
    to_wire,
)
from ftpserver.settings.table import EVERY, Networks, Settings

encode = msgspec.msgpack.Encoder(enc_hook=to_wire).encode


@dataclass
class Loan:
    id: Annotated[str, Meta(max_length=8)]
    size: Annotated[int, Meta(ge=0)]


class QuotaStore(ABC):
    """An interface with methods of its own."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    @request
    @abstractmethod
    def reserve(
        self, size: Annotated[int, Meta(ge=0)], staging: bytes | None = None, *, files: int = 1
    ) -> Loan: ...

    @notification
    @abstractmethod
    def release(self, loans: list[Loan]) -> None: ...

    def reserve_nothing(self) -> Loan:
        return self.reserve(0)


class Writer(Protocol):
    @request
    def write(self, data: bytes, given: Descriptors) -> None: ...


class Local(QuotaStore):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def reserve(self, size, staging=None, *, files=1):
        self.calls.append((size, staging, files))
        return Loan("a", size)

    def release(self, loans):
        self.calls.append(loans)

    def remove_everything(self):
        raise AssertionError


class Wire:
    """A way that packs and unpacks."""

    def __init__(self, targets: dict[type, object]) -> None:
        self.dispatcher = Dispatcher(targets)

    def ask(self, request, message, descriptors):
        result = self.dispatcher.call(self.dispatcher.decode(encode(message)), descriptors)
        return request.decode_result(encode(result))

    notify = ask

    def ask_later(self, request, message, descriptors):
        future: Future[Any] = Future()
        future.set_result(self.ask(request, message, descriptors))
        return future


def test_a_stand_in_is_one_like_any_other():
    local = Local()
    quota_store = make_proxy(QuotaStore, Wire({QuotaStore: local}), "far away")
    assert isinstance(quota_store, QuotaStore)
    assert quota_store.name == "far away"
    assert quota_store.reserve(5, b"u-1", files=2) == Loan("a", 5)
    assert quota_store.reserve(size=6) == Loan("a", 6)
    assert quota_store.reserve_nothing() == Loan(
        "a", 0
    )  # its own method asks by one that is marked
    assert later(quota_store.reserve)(7).result() == Loan("a", 7)
    quota_store.release([Loan("a", 5)])
    assert local.calls == [
        (5, b"u-1", 2),
        (6, None, 1),
        (0, None, 1),
        (7, None, 1),
        [Loan("a", 5)],
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"is": "reserve", "size": -1},
        {"is": "reserve", "size": "5"},
        {"is": "reserve"},
        {"is": "release", "loans": [{"id": "a" * 9, "size": 1}]},
        {"is": "release", "loans": [{"id": "a", "size": -1}]},
        {"is": "remove_everything"},
        {"is": "reserve_nothing"},
        {"is": "__init__", "name": "x"},
        {},
        [],
    ],
    ids=str,
)
def test_what_the_interface_does_not_have_is_not_decoded(message):
    with pytest.raises(msgspec.MsgspecError):
        Dispatcher({QuotaStore: Local()}).decode(encode(message))


def test_wrong_arguments_are_a_mistake_of_the_caller():
    quota_store = make_proxy(QuotaStore, Wire({QuotaStore: Local()}))
    with pytest.raises(TypeError):
        quota_store.reserve()
    with pytest.raises(TypeError):
        quota_store.reserve(1, size=2)


@pytest.mark.parametrize(
    "call", [lambda it: it.write(b"x", [3]), lambda it: it.write(data=b"x", given=[3])]
)
def test_descriptors_are_no_part_of_the_message(call):
    seen = []

    class Local:
        def write(self, data, given):
            seen.append((data, given))

    way = Wire({Writer: Local()})
    call(make_proxy(Writer, way))
    assert seen == [(b"x", [3])]
    (request,) = requests_of(Writer).values()
    assert request.struct.__struct_fields__ == ("data",)


def test_two_interfaces_with_one_name_are_refused():
    class Other(Protocol):
        @request
        def reserve(self) -> None: ...

    with pytest.raises(TypeError, match="another interface"):
        Dispatcher({QuotaStore: Local(), Other: Local()})


def test_interfaces_with_the_same_names_are_kept_apart():
    @namespaced
    class Other(Protocol):
        @request
        def reserve(self, size: int) -> str: ...

    class Shelf:
        def reserve(self, size):
            return f"{size} books"

    way = Wire({QuotaStore: Local(), Other: Shelf()})
    assert make_proxy(Other, way).reserve(5) == "5 books"
    assert make_proxy(QuotaStore, way).reserve(5) == Loan("a", 5)


def test_a_class_without_marks_is_refused():
    with pytest.raises(TypeError, match="no marked methods"):
        requests_of(Wire)


def test_a_message_does_not_show_what_is_in_it():
    message, _ = requests_of(QuotaStore)["reserve"].message((5, b"secret"), {})
    assert "secret" not in repr(message)


# settings -----------------------------------------------------------------------------------------


def carried(settings: Settings) -> Settings:
    return msgspec.msgpack.Decoder(Settings, dec_hook=from_wire).decode(encode(settings))


def test_all_settings_arrive_as_they_were(tmp_path):
    odd = Settings(
        tmp_path / "r\udcfft",
        host="::1",
        unix=Path("s"),
        certificate=Path("c"),
        trusted_networks=Networks([ip_network("192.0.2.0/24"), ip_network("2001:db8::/48")]),
        max_sessions=7,
        limit_rate=10,
        name="x",
        log_format="json",
        stall=0.5,
    )
    for settings in (Settings(tmp_path), odd):
        arrived = carried(settings)
        assert arrived == settings
        for one in fields(settings):
            assert type(getattr(arrived, one.name)) is type(getattr(settings, one.name)), one.name


@given(st.sampled_from(sorted(EVERY)), st.text(max_size=20))
def test_every_setting_arrives_as_it_was_written(name, text):
    try:
        value = EVERY[name].kind.parse(text)
    except ValueError:
        return
    settings = replace(Settings(Path("x")), **{name: value})
    assert carried(settings) == settings
