"""Modules that stay unloaded until something of them is used, in a fresh interpreter each."""

from __future__ import annotations

import subprocess
import sys


def said(*lines: str) -> list[str]:
    """What a program of these lines prints."""
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


USE = (
    "import sys",
    "from ftpwire.unloaded import unloaded",
    "with unloaded({'colorsys': {'ONE_SIXTH': 'given'}, 'email.charset': {}}):",
    "    import colorsys as taken",
    "    from email import charset as child",
)


def test_an_importer_gets_what_is_loaded_when_it_is_used():
    lines = said(
        *USE,
        "print('colorsys' in sys.modules, taken.ONE_SIXTH)",
        "print(taken.rgb_to_hsv(1, 0, 0), 'colorsys' in sys.modules)",
        "print('email.charset' in sys.modules, child.QP, 'email.charset' in sys.modules)",
    )
    assert lines == ["False given", "(0.0, 1.0, 1) True", "False 1 True"]


def test_everybody_else_imports_the_module_itself():
    lines = said(
        *USE, "import colorsys", "print(type(colorsys), colorsys is taken, colorsys.ONE_SIXTH < 1)"
    )
    assert lines == ["<class 'module'> False True"]


def test_what_is_loaded_already_stays_as_it_is():
    assert said("import colorsys", *USE, "print(colorsys is taken)") == ["True"]


def test_a_name_that_the_module_lacks():
    assert said(*USE, "print(hasattr(taken, 'nothing of this name'))") == ["False"]


def test_a_module_that_was_loaded_meanwhile_stays():
    lines = said(
        "import sys",
        "from ftpwire.unloaded import unloaded",
        "with unloaded({'colorsys': {}}):",
        "    import colorsys as taken",
        "    del sys.modules['colorsys']",
        "    import colorsys",
        "print(sys.modules['colorsys'] is colorsys, colorsys is taken)",
    )
    assert lines == ["True False"]
