"""docs/python.md: its examples run, and its tables name what there is."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import re
import tempfile
from pathlib import Path

import pytest

from ftpclient import AsyncClient, Client

TEXT = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
ONLY_CLIENT = {
    "connection",
    "connection_apart",
    "connection_beside",
    "credential",
    "fetch_range",
    "holds_password",
    "interrupt",
    "log_in",
    "look_up",
    "new_connection",
    "pace",
    "settle_interrupt",
}
"""What only the commands of ftp need."""


@pytest.fixture
def own_logging():
    """The examples set it up."""
    root, ours = logging.getLogger(), logging.getLogger("ftpclient")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


def close_file_systems() -> None:
    """fsspec keeps them to the end of the program."""
    from ftpclient.fsspec import FtpFileSystem

    for one in FtpFileSystem._cache.values():
        one.close()
    FtpFileSystem.clear_instance_cache()


def test_the_examples_run(start_server, tmp_path, monkeypatch, capsys, caplog, own_logging):
    port = start_server(plaintext=False).server_address[1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "report.pdf").write_bytes(b"%PDF" * 1000)
    for number in range(3):
        path = tmp_path / "site" / f"{number}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"<p>" * (number + 1))
    extras = {"fsspec": importlib.util.find_spec("fsspec")}
    for code in EXAMPLES:
        if any(f"import {name}\n" in code and not there for name, there in extras.items()):
            continue  # what isn't installed
        text = code.replace("files.example.net", f"127.0.0.1:{port}")
        exec(compile(text, "docs/python.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "b'report.pdf' 4000" in said
    assert "/nowhere" in said
    assert "3 stored, 0 of them unchanged" in said
    assert "missing.txt" in said
    assert r"b'a,1\r\n'" in said
    assert "['inside.txt']" in said
    assert "logged in as alice" in caplog.text
    if extras["fsspec"]:
        assert "['/tables/data.csv']" in said
        close_file_systems()
    for name in ("mirror", "in-a-hurry"):
        assert (tmp_path / name / "site" / "2.html").read_bytes() == b"<p>" * 3
    assert (tmp_path / "copies" / "report.pdf").read_bytes() == b"%PDF" * 1000


def verbs(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_verbs():
    assert verbs(Client) - verbs(AsyncClient) <= ONLY_CLIENT | {"open"}  # a file object blocks
    assert verbs(AsyncClient) - verbs(Client) <= {"address", "cwd", "user"}


def test_both_clients_take_the_same_arguments():
    for name in sorted(verbs(Client) & verbs(AsyncClient)):
        ours, theirs = (inspect.getattr_static(kind, name) for kind in (AsyncClient, Client))
        if not (callable(ours) and callable(theirs)) or name in ("put_stream", "get_stream"):
            continue
        assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name


def test_every_verb_is_in_the_table():
    methods = TEXT.partition("## The methods")[2].partition("\n## ")[0]
    for name in re.findall(r"^\| (.*?) \|", methods, re.M):
        for verb in re.findall(r"`(\w+)", name):
            assert verb == "with" or hasattr(Client, verb) or verb == "cwd", verb
