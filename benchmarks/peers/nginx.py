"""nginx with curl, for HTTP. Uploads need the dav module, if nginx was built with it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.measure import Command
from benchmarks.peers.base import CIPHER, Certificate, Curl, Peer, find, user, version_line
from benchmarks.processes import Unavailable


class Nginx(Peer):
    """HTTP/1.1 with or without TLS 1.3; sendfile, no access log, no log-in."""

    def __init__(self, place: Path, *, tls: bool) -> None:
        super().__init__(place)
        self.tls = tls
        self.server_name = f"nginx{' TLS' if tls else ''}"
        self.name = f"{self.server_name} + curl"

    def check_programs(self) -> None:
        self._nginx, self._curl_path = find("nginx"), find("curl")
        built = subprocess.run([self._nginx, "-V"], capture_output=True, text=True).stderr
        self._can_put = "http_dav_module" in built

    def launch(self) -> None:
        temporary = self.place / "incoming"
        temporary.mkdir()
        options: list[str] = []
        encryption = ""
        if self.tls:
            files = Certificate(self.place)
            self._certificate = files.certificate
            encryption = (
                f"ssl_certificate {files.certificate}; ssl_certificate_key {files.key};\n"
                f"ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER};\n"
            )
            options = ["--cacert", str(files.certificate), "--tls13-ciphers", CIPHER]
        dav = "dav_methods PUT; create_full_put_path on;" if self._can_put else ""
        who = f"user {user()};\n" if os.getuid() == 0 else ""
        config = self.place / "nginx.conf"
        config.write_text(
            f"{who}worker_processes 2;\ndaemon off;\npid {self.place / 'nginx.pid'};\n"
            "error_log stderr crit;\nevents { worker_connections 1024; }\nhttp {\n"
            "access_log off; sendfile on; tcp_nopush on;\n"
            "keepalive_requests 1000000; keepalive_timeout 600s;\n"
            "client_max_body_size 0; client_body_buffer_size 512k;\n"
            + "".join(
                f"{kind}_temp_path {temporary / kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"default_type application/octet-stream;\n{encryption}"
            f"server {{ listen 127.0.0.1:{self.port}{' ssl' if self.tls else ''};\n"
            f"root {self.root}; {dav} }}\n}}\n"
        )
        argv = [self._nginx, "-p", str(self.place), "-e", "stderr", "-c", str(config)]
        self.serve(*argv).wait_for_port(self.port)
        self._options = options

    def versions(self) -> list[str]:
        return [version_line(self._nginx, "-v"), version_line(self._curl_path, "--version")]

    @property
    def _curl(self) -> Curl:
        scheme = "https" if self.tls else "http"
        return Curl(f"{scheme}://127.0.0.1:{self.port}", self._options, self.place)

    def _check_put(self) -> None:
        if not self._can_put:
            raise Unavailable("this nginx was built without the dav module")

    def put_file(self, source: Path, name: str) -> Command:
        self._check_put()
        return self._curl.put(source, name)

    def get_file(self, name: str, target: Path) -> Command:
        return self._curl.get(name, target)

    def put_tree(self, source: Path, name: str) -> Command:
        self._check_put()
        return self._curl.put_all(source, name)

    def get_tree(self, name: str, target: Path) -> Command:
        return self._curl.get_all(self.sources[name], name, target)

    def cat(self, name: str) -> Command:
        return self._curl.cat(name)

    def session(self) -> dict[str, Any]:
        certificate = str(self._certificate) if self.tls else None
        return {"kind": "http", "port": self.port, "certificate": certificate}
