"""The files and trees to transfer, the same in every run, and checking the results.

Lives here: making them, comparing them, and their directory.
Lives elsewhere: transferring them (peers/), the measurements (suite.py).
"""

from __future__ import annotations

import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from benchmarks.measure import Failed
from benchmarks.processes import Unavailable

CHUNK = 1024 * 1024
MTIME = 1_600_000_000
"""Mtime of everything made here, so that programs that preserve times have one to preserve."""
GiB = 1024**3


@dataclass(frozen=True)
class Scale:
    """The amounts to measure with."""

    size: int = GiB
    files: int = 10_000
    directories: int = 1_000
    sync_files: int = 100_000
    delayed_files: int = 1_000
    pieces_size: int = 128 * 1024**2
    sessions: int = 200
    login_seconds: float = 2.0
    rounds: int = 5
    tries: int = 100
    crowd: int = 10_000
    fetch_size: int = 256 * 1024**2
    files_each: int = 2_000
    beside_seconds: float = 5.0
    memory_files: tuple[int, ...] = (100_000, 1_000_000)

    @property
    def stored(self) -> int:
        """An upper bound of the bytes in the data directory at any one time."""
        # a large file: the source, what ours stores twice (TLS and plain), the result
        # small files: a page or two and an inode each, for the source and every peer
        # of 8 clients: what ours stores with 1 worker and with more, and the results
        # empty files: an inode, a name and an attribute each, for the source and the result
        return (
            4 * self.size
            + self.files * 12_000 * 12
            + self.sync_files * 6_000 * 5
            + self.files_each * 12_000 * 8 * 3
            + max(self.memory_files, default=0) * 2_000 * 2
        )


_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes of a size as a user writes it: 1GiB, 64M, 4096. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size")
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


QUICK = Scale(
    *(32 * 1024**2, 500, 50, 2_000, 100, 16 * 1024**2, 20, 0.5, 3, 10),
    crowd=150,
    fetch_size=8 * 1024**2,
    files_each=100,
    beside_seconds=0.5,
    memory_files=(200, 2_000),
)


def large_file(path: Path, size: int) -> Path:
    """Make a file whose bytes don't compress and don't repeat."""
    stream = blake3(b"large file")
    with open(path, "wb") as file:
        for offset in range(0, size, CHUNK):
            file.write(stream.digest(length=min(CHUNK, size - offset), seek=offset))
    os.utime(path, (MTIME, MTIME))
    return path


def small_tree(path: Path, files: int, directories: int, largest: int = 8_000) -> Path:
    """Make ``files`` files of 100 to ``largest`` bytes, spread evenly over ``directories``."""
    chance = random.Random(f"{files} {directories} {largest}")
    path.mkdir()
    for number in range(directories):
        (path / f"d{number:05}").mkdir()
    for number in range(files):
        below = path / f"d{number % directories:05}" / f"f{number // directories:05}.bin"
        below.write_bytes(chance.randbytes(chance.randint(100, largest)))
        os.utime(below, (MTIME, MTIME))
    return path


def empty_tree(path: Path, files: int, each: int = 1_000) -> Path:
    """Make ``files`` empty files, ``each`` of them in a directory. This is quick."""
    path.mkdir()
    for first in range(0, files, each):
        directory = path / f"d{first // each:05}"
        directory.mkdir()
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number in range(min(each, files - first)):
                os.mknod(f"f{number:05}", 0o644, dir_fd=held)
        finally:
            os.close(held)
    return path


def count_files(tree: Path) -> int:
    """Return the number of files in a tree, using little memory. Raises OSError."""
    count = 0
    with os.scandir(tree) as entries:
        for entry in entries:
            count += count_files(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else 1
    return count


def names(tree: Path) -> list[str]:
    """Return all files of a tree, relative and sorted."""
    found = []
    for directory, _, files in os.walk(tree):
        found += [os.path.relpath(os.path.join(directory, name), tree) for name in files]
    return sorted(found)


def digest(path: Path) -> str:
    """Return the digest of a file's bytes, or of all names and bytes of a tree."""
    hasher = blake3()
    if path.is_dir():
        for name in names(path):
            data = (path / name).read_bytes()
            hasher.update(f"{name}\0{len(data)}\0".encode() + data)
    else:
        buffer = bytearray(CHUNK)
        with open(path, "rb") as file:
            while count := file.readinto(buffer):
                hasher.update(memoryview(buffer)[:count])
    return hasher.hexdigest()


@dataclass(frozen=True)
class Source:
    """A file or tree to transfer, and the digest that every result must have."""

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> Source:
        return cls(path, digest(path))

    def check(self, result: Path) -> None:
        """Compare a result with this source. Raises Failed."""
        if not result.exists():
            raise Failed(f"nothing arrived as {result.name}")
        if digest(result) != self.digest:
            raise Failed("what arrived differs from what was sent")


def remove(path: Path) -> None:
    """Remove a file or tree, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link(source: Path, target: Path) -> None:
    """Make a file or tree appear at another path, without copying its bytes."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


# the directory of the data -------------------------------------------------------------------


def parse_file_system(mounts: str, path: Path) -> str:
    """Return the type of the file system that contains ``path`` (absolute), from /proc/mounts."""
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        point, fs_type = line.split()[1:3]
        parts = Path(point.replace("\\040", " "))
        if path.is_relative_to(parts) and len(parts.parts) >= best:
            best, kind = len(parts.parts), fs_type
    return kind


def file_system(path: Path) -> str:
    """Return the type of the file system that contains ``path``."""
    try:
        return parse_file_system(Path("/proc/mounts").read_text(), path.resolve())
    except OSError:
        return "unknown"


def default_directory() -> Path:
    """Return /dev/shm if it is a tmpfs, else the directory for temporary files."""
    shm = Path("/dev/shm")
    if file_system(shm) == "tmpfs" and os.access(shm, os.W_OK):
        return shm
    return Path(os.environ.get("TMPDIR", "/tmp"))


def warm(directory: Path, size: int) -> None:
    """Write and remove a file as large as everything that will be stored.

    On a virtual machine the first use of memory is many times slower than later ones.

    Raises:
        Unavailable: There is not enough free space.
    """
    free = shutil.disk_usage(directory).free
    available = _memory_available() if file_system(directory) == "tmpfs" else free
    if size > min(free, available):
        raise Unavailable(
            f"{directory}: {size / GiB:.1f} GiB are needed, {min(free, available) / GiB:.1f} are "
            "free: use --size, --sync-files or --dir"
        )
    path = directory / "warm"
    chunk = os.urandom(CHUNK)
    with open(path, "wb", buffering=0) as file:
        for _ in range(size // CHUNK + 1):
            file.write(chunk)
    path.unlink()


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
