"""The wording check that runs with the linter (.ci/wording.py)."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wording():
    spec = importlib.util.spec_from_file_location("wording", ROOT / ".ci" / "wording.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def phrases(wording):
    return wording.Phrases(ROOT / ".ci" / "phrases.toml")


MODULE = '''"""Whether a module is good."""

SIZE = 3
"""What it takes."""


def end(told: int) -> str:
    """Return a text, which nobody
    reads.

    Args:
        told: Whether it is a name: `nobody` and ``told`` are code.
    """
    # A comment of two lines: whoever
    # reads it is told nothing
    return f"{told} is told to somebody" + "told"
'''


def test_docstrings_comments_and_messages_are_looked_at(wording, phrases, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    assert [(one.line, one.phrase) for one in wording.check(path, phrases)] == [
        (1, "Whether"),
        (1, "is good"),
        (4, "What"),
        (8, "nobody"),
        (12, "told"),
        (14, "whoever"),
        (15, "told"),
        (16, "somebody"),
        (16, "told"),
        (16, "told"),
    ]


PAGE = """# Title

A phrase over two lines: bytes a
second. `nobody` is code.

```
nobody
```

The end has no more of it, and no more than that.
"""


def test_pages_are_looked_at_but_for_code(wording, phrases, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    assert [(one.line, one.phrase) for one in wording.check(path, phrases)] == [
        (3, "bytes a second"),
        (10, "no more"),
    ]


def test_what_is_found_fails_the_run(wording, tmp_path, capsys):
    path = tmp_path / "page.md"
    path.write_text("Whoever reads this.\n")
    assert wording.main([str(path)]) == 1
    assert f"{path}:1: 'Whoever': write " in capsys.readouterr().out
    path.write_text("The reader of this.\n")
    assert wording.main([str(path)]) == 0


def test_the_tree_has_none(wording, capsys):
    """As the run of the linter has it."""
    assert wording.main([]) == 0, capsys.readouterr().out
