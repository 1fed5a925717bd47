"""vsftpd, with curl and with lftp.

Log-ins are anonymous, the only kind without system accounts: vsftpd checks no password, so its
log-ins are cheaper than they would be for users.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Command
from benchmarks.peers.base import CIPHER, Certificate, Curl, Peer, find

OLDER_CIPHER = "ECDHE-ECDSA-AES128-GCM-SHA256"
"""The same cipher for TLS 1.2, the only version that can be set in vsftpd."""
BELOW = "pub"
"""A directory for the files, because vsftpd refuses a writable top directory."""

CONFIG = """\
listen=YES
listen_address=127.0.0.1
background=NO
anonymous_enable=YES
local_enable=NO
run_as_launching_user=YES
no_anon_password=YES
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
xferlog_enable=NO
use_sendfile=YES
connect_from_port_20=NO
max_per_ip=0
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
"""
TLS = """\
ssl_enable=YES
allow_anon_ssl=YES
force_anon_data_ssl=YES
force_anon_logins_ssl=YES
require_ssl_reuse=NO
"""


class Vsftpd(Peer):
    """FTP or explicit FTPS with curl."""

    client = "curl"

    def __init__(self, place: Path, *, tls: bool) -> None:
        super().__init__(place)
        self.tls = tls
        self.server_name = f"vsftpd{' TLS' if tls else ''}"
        self.name = f"{self.server_name} + {self.client}"

    def check_programs(self) -> None:
        self._vsftpd = find("vsftpd")
        find(self.client)

    def launch(self) -> None:
        (self.root / BELOW).mkdir()
        text = CONFIG + f"listen_port={self.port}\nanon_root={self.root}\n"
        if self.tls:
            files = Certificate(self.place)
            self._certificate = files.certificate
            text += TLS + f"ssl_ciphers={OLDER_CIPHER}\n"
            text += f"rsa_cert_file={files.certificate}\nrsa_private_key_file={files.key}\n"
        config = self.place / "vsftpd.conf"
        config.write_text(text)
        self.serve(self._vsftpd, str(config)).wait_for_port(self.port)

    def versions(self) -> list[str]:
        with tempfile.TemporaryFile() as stream:  # it prints to its standard input
            subprocess.run([self._vsftpd, "-v"], stdin=stream)
            stream.seek(0)
            return [stream.read().decode().strip()]

    def stored(self, name: str) -> Path:
        return self.root / BELOW / name

    @property
    def _curl(self) -> Curl:
        options: list[str] = ["--ftp-skip-pasv-ip", "--ftp-create-dirs"]
        if self.tls:
            options += ["--ssl-reqd", "--cacert", str(self._certificate)]
            options += ["--tls13-ciphers", CIPHER, "--ciphers", OLDER_CIPHER]
        return Curl(f"ftp://127.0.0.1:{self.port}/{BELOW}", options, self.place)

    def put_file(self, source: Path, name: str) -> Command:
        return self._curl.put(source, name)

    def get_file(self, name: str, target: Path) -> Command:
        return self._curl.get(name, target)

    def put_tree(self, source: Path, name: str) -> Command:
        return self._curl.put_all(source, name)

    def get_tree(self, name: str, target: Path) -> Command:
        return self._curl.get_all(self.sources[name], name, target)

    def cat(self, name: str) -> Command:
        return self._curl.cat(name)

    def session(self) -> dict[str, Any]:
        certificate = str(self._certificate) if self.tls else None
        return {"kind": "ftp", "port": self.port, "certificate": certificate}


class Lftp(Vsftpd):
    """lftp: trees with its mirror, eight transfers at a time."""

    client = "lftp"

    def _lftp(self, command: str) -> Command:
        settings = "set net:max-retries 1; set cmd:fail-exit yes; set ftp:use-feat yes; "
        if self.tls:
            settings += "set ftp:ssl-force yes; set ftp:ssl-protect-data yes; "
            settings += f"set ssl:ca-file {self._certificate}; "
        else:
            settings += "set ftp:ssl-allow no; "
        address = f"open -u anonymous,guest ftp://127.0.0.1:{self.port}"
        script = f"{settings}{address}; {command}"
        return Command([find("lftp"), "-c", script], {"HOME": str(self.place)})

    def put_file(self, source: Path, name: str) -> Command:
        return self._lftp(f"put {source} -o {BELOW}/{name}")

    def get_file(self, name: str, target: Path) -> Command:
        return self._lftp(f"get {BELOW}/{name} -o {target}")

    def put_tree(self, source: Path, name: str) -> Command:
        return self._lftp(f"mirror --parallel=8 -R {source} {BELOW}/{name}")

    def get_tree(self, name: str, target: Path) -> Command:
        return self._lftp(f"mirror --parallel=8 {BELOW}/{name} {target}")
