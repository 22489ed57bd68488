"""The README's example prints what the README shows."""

from __future__ import annotations

import doctest
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_example_prints_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(README), module_relative=False)
    assert outcome.attempted >= 10
    assert outcome.failed == 0
