"""Every example of a docstring, the README or the documentation does what it shows."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import iglens_tl
from iglens_tl.cli.app import app
from iglens_tl.lenses import LENSES
from tests.support.family_table import family_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGE = Path(iglens_tl.__file__).parent
# By their files: walking over packages would pass by a folder without `__init__.py`.
WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.fixture(scope="module")
def load_model_once():
    """Return `load_model`, which loads the same model a single time."""
    return functools.cache(iglens_tl.load_model)


@pytest.fixture(autouse=True)
def in_a_folder_with_cached_models(tmp_path, monkeypatch, load_model_once):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(iglens_tl, "load_model", load_model_once)


def examples_of_docstrings(path: Path) -> int:
    """Return how many examples stand in the docstrings of a file, found without importing it."""
    with_docstrings = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, with_docstrings)]
    return sum(len(doctest.DocTestParser().get_examples(text)) for text in texts)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_run(name):
    module = importlib.import_module(name)
    written = examples_of_docstrings(Path(module.__file__))
    outcome = doctest.testmod(module)
    assert outcome.failed == 0
    assert outcome.attempted == written, "an example that doctest does not find is never run"


def test_most_of_the_public_functions_have_an_example():
    assert len(WITH_EXAMPLES) >= 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_documents_print_what_they_show(document):
    runner = doctest.DocTestRunner(checker=_WithoutSignsOfZero())
    text = document.read_text("utf-8")
    runner.run(doctest.DocTestParser().get_doctest(text, {}, document.name, str(document), 0))
    assert runner.summarize().failed == 0


class _WithoutSignsOfZero(doctest.OutputChecker):
    """Takes -0.0 for 0.0, because rounding decides on which side of zero an exact sum ends."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        want, got = (re.sub(r"-(?=0\.?0*(?![.\d]))", " ", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


def test_every_block_of_python_in_a_document_is_an_example():
    for document in DOCUMENTS:
        blocks = re.findall(r"^```python\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
        for block in blocks:
            assert block.startswith(">>> "), (
                f"{document.name} shows code that no test runs:\n{block}"
            )


def commands() -> dict[str, list[str]]:
    """Return the lines that call `iglens`, by the first document in which they stand."""
    found: dict[str, str] = {}
    for document in DOCUMENTS:
        for line in document.read_text("utf-8").splitlines():
            if re.match(r"(iglens|echo .* \| iglens) ", line):
                found.setdefault(line, document.name)
    by_document: dict[str, list[str]] = {}
    for line, name in found.items():
        by_document.setdefault(name, []).append(line)
    return by_document


@pytest.fixture
def place(tmp_path, toy_folder) -> Path:
    """Return a folder with the files that the documents take to be there."""
    folder = tmp_path / "commands"
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "model").symlink_to(toy_folder("llama"))
    text = " ".join(f"w{number}" for number in range(90))
    (folder / "texts.txt").write_text(f"{text}\n" * 4)
    prompts = [f"The capital of {country} is" for country in ("Vietnam", "France", "Peru")]
    (folder / "prompts.txt").write_text("\n".join(prompts))
    (folder / "text.txt").write_text("w1 w2 w3 w4 w5")
    (folder / "texts.jsonl").write_text('{"text": "The river froze."}\n"It rained."\n')
    (folder / "data").mkdir()
    written = {"body": ["It rained."], "year": [1990], "author": ["Anna"]}
    pd.DataFrame(written).to_parquet(folder / "data" / "a.parquet")
    return folder


@pytest.mark.parametrize("document", commands())
def test_the_commands_of_a_document_run_one_after_the_other(document, place, monkeypatch):
    monkeypatch.chdir(place)
    for line in commands()[document]:
        words = shlex.split(line, comments=True)
        given, to_file = None, "" if ">" not in words else words[words.index(">") + 1]
        if "|" in words:
            given, words = words[1], words[words.index("|") + 1 :]
        if "<" in words:
            given = Path(words[words.index("<") + 1]).read_text()
        arguments = list(itertools.takewhile(lambda word: word not in "<>", words[1:]))
        outcome = CliRunner().invoke(app, arguments, input=given)
        assert outcome.exit_code == 0, f"{line}\n{outcome.output}\n{outcome.stderr}"
        assert outcome.stdout or not to_file, line
        for option in {"--html", "--out"} & set(words):
            assert (place / words[words.index(option) + 1]).exists(), line


def test_documents_name_targets_that_the_makefile_has():
    has = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
        named = set(re.findall(r"^make ([a-z0-9-]+)", "".join(blocks), re.M))
        assert named <= has


def test_the_table_of_lenses_says_what_the_lenses_say_of_themselves():
    rows = re.findall(r"^\| `\w+` \(\w+\) \|.*$", (ROOT / "README.md").read_text("utf-8"), re.M)
    facts = ("measures", "units", "sums_to", "cost")
    assert rows == [
        f"| `{name}` ({lens.__name__}) | {' | '.join(getattr(lens, fact) for fact in facts)} |"
        for name, lens in LENSES.items()
    ]


def test_the_table_of_families_is_that_of_the_tests():
    assert family_table() in (ROOT / "docs" / "models.md").read_text("utf-8")


def test_the_readme_counts_the_families_that_are_tested():
    classes = re.findall(r"^\| `(\w+)` \|", family_table(), re.M)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"The tests cover {len(set(classes))} classes" in readme


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text("utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"
