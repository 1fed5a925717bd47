"""The servers that are measured, each with the client that it is usually used with.

There is one module per server: its set-up, and its command lines. ``FACTORIES`` has all of them;
suite.py decides which take part in what.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.base import Peer
from benchmarks.peers.iperf import Iperf
from benchmarks.peers.nginx import Nginx
from benchmarks.peers.openssh import Rclone, RsyncSsh, Sftp
from benchmarks.peers.ours import Ours
from benchmarks.peers.rsync import RsyncDaemon
from benchmarks.peers.vsftpd import Lftp, Vsftpd

FACTORIES: dict[str, Callable[[Path], Peer]] = {
    "ours-tls": lambda place: Ours(place, tls=True),
    "ours-plain": lambda place: Ours(place, tls=False),
    "ours-unix": lambda place: Ours(place, tls=False, unix=True),
    "ours-workers-1": lambda place: Ours(place, tls=True, workers="1"),
    "ours-workers-auto": lambda place: Ours(place, tls=True, workers="auto"),
    "rsync": RsyncDaemon,
    "rsync-ssh": RsyncSsh,
    "sftp": Sftp,
    "rclone": Rclone,
    "nginx-tls": lambda place: Nginx(place, tls=True),
    "nginx-plain": lambda place: Nginx(place, tls=False),
    "vsftpd-tls": lambda place: Vsftpd(place, tls=True),
    "vsftpd-plain": lambda place: Vsftpd(place, tls=False),
    "lftp-tls": lambda place: Lftp(place, tls=True),
    "lftp-plain": lambda place: Lftp(place, tls=False),
    "iperf3": Iperf,
}

FAMILIES = ("rsync", "sftp", "rclone", "nginx", "vsftpd", "lftp", "iperf3")
"""The values of --peers: each stands for all entries that begin with it."""

__all__ = ["FACTORIES", "FAMILIES", "Peer"]
