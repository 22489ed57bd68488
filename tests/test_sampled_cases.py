"""`--cases N` runs a sample of the cases of every test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import spread


@pytest.mark.parametrize(
    ("n_cases", "n", "chosen"),
    [(7, 1, [0]), (7, 3, [0, 3, 6]), (2, 3, [0, 1]), (1, 1, [0]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_cases_are_chosen_from_the_first_to_the_last(n_cases, n, chosen):
    assert spread(list(range(n_cases)), n) == chosen


def test_every_test_keeps_a_case(pytester_run):
    left = pytester_run("--cases", "2")
    assert left == ["test_all[0]", "test_all[4]", "test_one"]
    assert pytester_run() == [*(f"test_all[{i}]" for i in range(5)), "test_one"]


@pytest.fixture
def pytester_run(tmp_path):
    """Return a function that collects a small file with this suite's option."""
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_addoption, pytest_collection_modifyitems\n"
    )
    (tmp_path / "test_small.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('i', range(5))\n"
        "def test_all(i): pass\n"
        "def test_one(): pass\n"
    )

    def collect(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]
        done = subprocess.run(
            [*command, "--rootdir", str(tmp_path), str(tmp_path), *options],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        return [line.rpartition("::")[2] for line in done.stdout.splitlines() if "::" in line]

    return collect
