"""The direction of imports, as DESIGN describes it: nothing below imports anything above."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import iglens_tl

PACKAGE = Path(iglens_tl.__file__).parent
# A part may import only parts that stand before it.
LAYERS = [
    "files",
    "readout",
    "models",
    "prompts",
    "tuning",
    "results",
    "views",
    "lens_result",
    "lens_comparison",
    "lenses",
    "causal",
    "cli",
]
OWNERS = {"transformer_lens": "models", "plotly": "views", "jinja2": "views", "typer": "cli"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return every module that a file imports, also inside functions and for typing."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_below_it(path):
    part = part_of(path)
    if part == "__init__":
        pytest.skip("the package re-exports everything lazily")
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "iglens_tl" and rest:
            assert LAYERS.index(rest[0]) <= LAYERS.index(part), f"{path} imports {name}"
        if top in OWNERS:
            assert OWNERS[top] == part, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_grows_beyond_one_concept(path):
    assert len(path.read_text().splitlines()) <= 350


def test_every_part_has_its_place_in_the_layers():
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts == set(LAYERS)


def test_public_names_exist_and_unknown_ones_do_not():
    for name in iglens_tl.__all__:
        assert getattr(iglens_tl, name) is not None
        assert name in dir(iglens_tl)
    with pytest.raises(AttributeError, match="has no attribute 'ig_lenz'"):
        _ = iglens_tl.ig_lenz


@pytest.mark.parametrize(
    "module",
    [
        "models.loading",
        "lenses.ig_lens",
        "lens_result",
        "results.parts",
        "causal.layer_effects",
        "causal.activation_patching",
        "causal.agreement",
        "models.reinitialized",
    ],
)
def test_the_examples_of_docstrings_run(module):
    outcome = doctest.testmod(importlib.import_module(f"iglens_tl.{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
