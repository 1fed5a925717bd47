"""Reloading: what is taken over while the server runs, and what takes a restart."""

from __future__ import annotations

import datetime
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ftpserver.errors import StateError
from ftpserver.net.tls import fingerprint_of, make_context
from ftpserver.settings.table import TABLE, Settings, Startups

OTHER = {
    "host": "127.0.0.2",
    "port": 5,
    "durable": True,
    "grace": 1.5,
    "login_grace": 2.5,
    "stall": 3.5,
    "idle_timeout": 4.5,
    "max_startups": Startups(1, 2, 3),
    "max_sessions": 6,
    "max_user_sessions": 7,
    "max_user_transfers": 5,
    "proxy_from": (ip_network("192.0.2.7/32"),),
    "max_address_sessions": 8,
    "ban_after": 9,
    "ban_time": 10.5,
    "limit_rate": 2**20,
    "staging_seconds": 12,
    "open_registration": True,
    "default_quota": 13,
    "audit_size": 14,
    "audit_keep": 15,
    "log_format": "json",
}


def certify(
    directory: Path,
    name: str = "own",
    kind: str = "ec",
    password: bytes | None = None,
    days: tuple[int, int] = (-1, 100),
):
    """A certificate and its key, as an authority would give them.

    Args:
        days: From now on, that it begins and ends to be valid.
    """
    key = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "files.example.org")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .sign(key, hashes.SHA256())
    )
    protection = (
        serialization.NoEncryption()
        if password is None
        else serialization.BestAvailableEncryption(password)
    )
    certificate, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    return certificate, key_path


def test_what_is_live_is_taken_over_and_the_rest_is_reported(server):
    before = server.settings
    server.load_settings = lambda: replace(before, **OTHER)
    reported = server.reload()
    assert len(reported) == len(OTHER)
    for name, value in OTHER.items():
        live = TABLE[name].live
        assert getattr(server.settings, name) == (value if live else getattr(before, name))
        (line,) = [line for line in reported if line.startswith(f"{TABLE[name].name}: ")]
        assert line.endswith("takes effect after a restart") is not live
    assert server.service.grace == 1.5
    assert server.service.registration.open and server.service.registration.default_quota == 13
    assert server.service.limits.settings is server.settings


def test_it_is_reported_as_people_write_it(server):
    before = server.settings
    new = {"idle_timeout": 600.0, "grace": 1.5, "stall": 90.0, "ban_time": 7200.0}
    new |= {"default_quota": 3 * 2**30, "limit_rate": 1000, "open_registration": True}
    server.load_settings = lambda: replace(before, **new, max_sessions=None)
    assert set(server.reload()) == {
        "idle-timeout: 10m",
        "grace: 1.5",
        "stall: 90s",
        "ban-time: 2h",
        "default-quota: 3GiB",
        "limit-rate: 1000",
        "open-registration: true",
    }


@pytest.mark.parametrize("name", OTHER)
def test_what_is_reported_can_be_written(name):
    kind = TABLE[name].kind
    for value in (OTHER[name], getattr(Settings, name)):
        assert kind.parse(kind.to_text(value)) == value


def test_nothing_new_is_nothing_to_report(server):
    assert server.reload() == []
    server.load_settings = lambda: server.settings
    assert server.reload() == []


def test_settings_that_can_not_be_used_change_nothing(server):
    def broken() -> Settings:
        raise StateError("ftpd.toml:1: unknown key prot")

    before = server.settings
    server.load_settings = broken
    with pytest.raises(StateError, match="prot"):
        server.reload()
    assert server.settings is before


def test_a_certificate_that_can_not_be_used_changes_nothing(start_server, tmp_path):
    server = start_server(plaintext=False)
    before, context, key = server.settings, server.service.tls_context, server.fingerprint
    certificate, _ = certify(tmp_path, "one")
    _, other = certify(tmp_path, "other")
    server.load_settings = lambda: replace(before, certificate=certificate, key=other, stall=1.0)
    with pytest.raises(StateError, match="is not the key of"):
        server.reload()
    assert (server.settings, server.service.tls_context, server.fingerprint) == (
        before,
        context,
        key,
    )


def test_a_certificate_of_ones_own(start_server, tmp_path, connect):
    certificate, key = certify(tmp_path)
    server = start_server(plaintext=False, certificate=certificate, key=key)
    assert server.fingerprint == fingerprint_of(certificate)
    assert not (server.settings.state / "tls").exists()
    assert connect(server).whoami() == "alice"
    certify(tmp_path)  # a renewed one, with a new key, in the same place
    assert fingerprint_of(certificate) != server.fingerprint
    assert server.reload() == [f"certificate: key {fingerprint_of(certificate)}"]
    assert server.fingerprint == fingerprint_of(certificate)
    assert server.reload() == []


def test_a_certificate_that_is_renewed_for_the_same_key(start_server, tmp_path):
    certificate, key = certify(tmp_path)
    server = start_server(plaintext=False, certificate=certificate, key=key)
    before = server.fingerprint
    certificate.write_bytes(certificate.read_bytes() * 2)  # with a chain
    assert server.reload() == ["certificate: renewed for the same key"]
    assert server.fingerprint == before
    assert server.reload() == []


def test_an_rsa_key_does_too(tmp_path):
    certificate, key = certify(tmp_path, kind="rsa")
    make_context(certificate, key)
    assert fingerprint_of(certificate).startswith("SHA256:")


@pytest.mark.parametrize(
    ("days", "reported"),
    [((-1, 100), None), ((-1, 5), "expires on"), ((-9, -2), "expired on"), ((2, 9), "before")],
)
def test_dates_that_clients_look_at_are_warned_of(start_server, tmp_path, caplog, days, reported):
    certificate, key = certify(tmp_path, days=days)
    start_server(plaintext=False, certificate=certificate, key=key)
    lines = [one.getMessage() for one in caplog.records if str(certificate) in one.getMessage()]
    assert len(lines) == (reported is not None)
    assert reported is None or reported in lines[0]


def _missing(certificate: Path, key: Path) -> None:
    key.unlink()


def _directory(certificate: Path, key: Path) -> None:
    certificate.unlink()
    certificate.mkdir()


def _swapped(certificate: Path, key: Path) -> None:
    certificate.write_bytes(key.read_bytes())


def _no_key(certificate: Path, key: Path) -> None:
    key.write_bytes(certificate.read_bytes())


def _torn(certificate: Path, key: Path) -> None:
    certificate.write_bytes(certificate.read_bytes()[:200])


def _protected(certificate: Path, key: Path) -> None:
    certify(certificate.parent, password=b"secret")


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (_missing, "own.key: cannot be read: no such file"),
        (_directory, "own.crt: cannot be read: is a directory"),
        (_swapped, "own.crt: holds no certificate"),
        (_no_key, "own.key: holds no private key"),
        (_torn, "own.crt: not a usable certificate"),
        (_protected, "own.key: is protected by a passphrase"),
    ],
)
def test_files_that_can_not_be_used_are_one_clear_line(tmp_path, spoil, reported):
    certificate, key = certify(tmp_path)
    spoil(certificate, key)
    with pytest.raises(StateError) as caught:
        make_context(certificate, key)
    assert reported in str(caught.value) and "\n" not in str(caught.value)
