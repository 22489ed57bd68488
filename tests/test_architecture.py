"""The direction of imports, as DESIGN describes it: nothing below imports anything above.

Views are the exception: what can be drawn imports them in the method that draws it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import iglens_tl

PACKAGE = Path(iglens_tl.__file__).parent
# A part may import only parts that stand before it.
LAYERS = [
    "arguments",
    "files",
    "readout",
    "models",
    "prompts",
    "tuning",
    "results",
    "trace",
    "views",
    "lenses",
    "interventions",
    "resume",
    "evaluation",
    "corpus",
    "cli",
]
OWNERS = {"transformer_lens": "models", "plotly": "views", "jinja2": "views", "typer": "cli"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, *, later: bool = True) -> set[str]:
    """Return every module that a file imports.

    Args:
        path: The file.
        later: Whether those count that are imported inside functions or for typing only.
    """
    names = set()
    nodes = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if later or not (isinstance(node, ast.FunctionDef) or is_for_typing(node)):
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def is_for_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_stands_below_it(path):
    part = part_of(path)
    if part == "__init__":
        pytest.skip("the package re-exports everything lazily")
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "iglens_tl" and rest and rest[0] != "views":
            assert LAYERS.index(rest[0]) <= LAYERS.index(part), f"{path} imports {name}"
        if top in OWNERS:
            assert OWNERS[top] == part, f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_views_are_imported_when_something_is_drawn(path):
    if part_of(path) in ("views", "cli"):
        pytest.skip("views import one another, and the command line stands above them")
    needed = imports_of(path, later=False)
    assert not [name for name in needed if name.startswith("iglens_tl.views")]


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_measuring_needs_no_library_that_draws_or_writes():
    # A module that is None cannot be imported. Pandas imports pyarrow where it can.
    run_python(
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['plotly', 'jinja2', 'pyarrow']))\n"
        "from iglens_tl import ig_lens\n"
        "import iglens_tl.results, iglens_tl.results.lens, iglens_tl.results.comparison\n"
        "import iglens_tl.lenses, iglens_tl.evaluation\n"
        "assert not [name for name in sys.modules if name.startswith('iglens_tl.views')]"
    )


def test_the_package_imports_nothing_until_a_name_is_used():
    run_python(
        "import sys, iglens_tl\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'pandas', 'numpy', 'plotly'}\n"
        "assert not heavy & set(sys.modules)"
    )


def test_lenses_import_transformer_lens_with_the_first_model():
    run_python(
        "import sys\n"
        "from iglens_tl import ig_lens\n"
        "assert 'transformer_lens' not in sys.modules and 'transformers' not in sys.modules"
    )


def test_every_part_has_its_place_in_the_layers():
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts == set(LAYERS)
