"""An sshd of its own, for the current user, with its usual clients: sftp, rsync, rclone."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from benchmarks.measure import Command
from benchmarks.peers.base import Peer, call, find, user, version_line
from benchmarks.peers.rsync import KEEP
from benchmarks.processes import Unavailable

CIPHER = "aes128-gcm@openssh.com"
PRIVSEP = Path("/run/sshd")


class _Sshd(Peer):
    """The server, with keys that are generated for the run."""

    server_name = "sshd"

    def check_programs(self) -> None:
        self._sshd = find("sshd")
        self._ssh = find("ssh")

    def launch(self) -> None:
        keygen = find("ssh-keygen")
        self._identity = self.place / "identity"
        for name in ("host", "identity"):
            call(keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(self.place / name))
        config = self.place / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.place / 'host'}\n"
            f"AuthorizedKeysFile {self.place / 'identity.pub'}\nStrictModes no\nPidFile none\n"
            f"PasswordAuthentication no\nUseDNS no\nPrintMotd no\nLogLevel ERROR\n"
            f"MaxStartups 1000\nCiphers {CIPHER}\nSubsystem sftp internal-sftp\n"
        )
        argv = [self._sshd, "-D", "-e", "-f", str(config)]
        self.serve(*self._with_privsep(argv)).wait_for_port(self.port)

    def _with_privsep(self, argv: list[str]) -> list[str]:
        """Return the command, with its own /run if /run/sshd is missing: root's sshd needs it."""
        if os.getuid() or PRIVSEP.is_dir():
            return argv
        try:
            call(find("unshare"), "--mount", "true")
        except Unavailable:
            raise Unavailable(f"sshd needs {PRIVSEP}, which is missing") from None
        script = f"mount -t tmpfs none /run && mkdir -m 755 {PRIVSEP} && exec {shlex.join(argv)}"
        return [find("unshare"), "--mount", "sh", "-c", script]

    def _options(self) -> list[str]:
        known = f"UserKnownHostsFile={self.place / 'known_hosts'}"
        return [
            *("-F", "none", "-i", str(self._identity), "-o", "IdentitiesOnly=yes"),
            *("-o", known, "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes"),
            *("-o", f"Ciphers={CIPHER}", "-o", "LogLevel=ERROR"),
        ]

    def _shell(self, *command: str) -> list[str]:
        return [self._ssh, *self._options(), "-p", str(self.port), "127.0.0.1", *command]

    def versions(self) -> list[str]:
        return [version_line(self._ssh, "-V")]

    def cat(self, name: str) -> Command:
        return Command(self._shell("cat", str(self.stored(name))))

    def session(self) -> dict[str, Any]:
        return {
            "kind": "command",
            "login": self._shell("true"),
            "idle": self._shell("echo ready; exec cat"),
        }


class Sftp(_Sshd):
    """OpenSSH's own client."""

    name = "sftp"

    def check_programs(self) -> None:
        super().check_programs()
        self._sftp = find("sftp")

    def _batch(self, line: str) -> Command:
        batch = self.place / f"batch-{abs(hash(line)):x}"
        batch.write_text(line + "\n")
        options = [*self._options(), "-P", str(self.port), "-q", "-b", str(batch)]
        return Command([self._sftp, *options, "127.0.0.1"])

    def put_file(self, source: Path, name: str) -> Command:
        return self._batch(f"put -p {source} {self.stored(name)}")

    def get_file(self, name: str, target: Path) -> Command:
        return self._batch(f"get -p {self.stored(name)} {target}")

    def put_tree(self, source: Path, name: str) -> Command:
        return self._batch(f"put -r -p {source} {self.stored(name)}")

    def get_tree(self, name: str, target: Path) -> Command:
        return self._batch(f"get -r -p {self.stored(name)} {target}")


class RsyncSsh(_Sshd):
    """rsync over ssh, the usual way to encrypt it."""

    name = "rsync over ssh"

    def check_programs(self) -> None:
        super().check_programs()
        self._rsync = find("rsync")

    def _copy(self, source: str, target: str) -> Command:
        shell = shlex.join([self._ssh, *self._options(), "-p", str(self.port)])
        return Command([self._rsync, KEEP, "-e", shell, source, target])

    def _remote(self, name: str) -> str:
        return f"127.0.0.1:{self.stored(name)}"

    def put_file(self, source: Path, name: str) -> Command:
        return self._copy(str(source), self._remote(name))

    def get_file(self, name: str, target: Path) -> Command:
        return self._copy(self._remote(name), str(target))

    def put_tree(self, source: Path, name: str) -> Command:
        return self._copy(f"{source}/", f"{self._remote(name)}/")

    def get_tree(self, name: str, target: Path) -> Command:
        return self._copy(f"{self._remote(name)}/", f"{target}/")

    sync_up = put_tree
    sync_down = get_tree


class Rclone(_Sshd):
    """rclone with its sftp backend, eight transfers at a time, without a remote checksum."""

    name = "rclone (sftp) ×8"

    def check_programs(self) -> None:
        super().check_programs()
        self._rclone = find("rclone")

    def versions(self) -> list[str]:
        return [version_line(self._rclone, "version")]

    def _copy(self, verb: str, source: str, target: str) -> Command:
        options = [
            *("--config", os.devnull, "--transfers", "8", "--checkers", "8"),
            *("--sftp-host", "127.0.0.1", "--sftp-port", str(self.port), "--sftp-user", user()),
            *("--sftp-key-file", str(self._identity), "--sftp-disable-hashcheck", "--quiet"),
        ]
        return Command([self._rclone, verb, source, target, *options], {"HOME": str(self.place)})

    def _remote(self, name: str) -> str:
        return f":sftp:{self.stored(name)}"

    def put_file(self, source: Path, name: str) -> Command:
        return self._copy("copyto", str(source), self._remote(name))

    def get_file(self, name: str, target: Path) -> Command:
        return self._copy("copyto", self._remote(name), str(target))

    def put_tree(self, source: Path, name: str) -> Command:
        return self._copy("copy", str(source), self._remote(name))

    def get_tree(self, name: str, target: Path) -> Command:
        return self._copy("copy", self._remote(name), str(target))

    sync_up = put_tree
    sync_down = get_tree
