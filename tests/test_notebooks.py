"""The notebooks run from top to bottom and show what the package computes."""

from __future__ import annotations

import re

import nbformat
import pytest

from experiments.notebooks.execute import INTERACTIVE, NOTEBOOKS, STATIC, execute

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

_NUMBER = re.compile(r"-?\d+\.\d+")
_OF_A_MACHINE = re.compile(r"/(tmp|home|root|work|usr|Users)/|site-packages|Traceback|Warning")
_VARIES = "varies"
"""The tag of cells whose numbers are those of one class of TransformerLens."""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell):
    """Return the outputs of a cell as (type, texts and numbers) without what figures hold."""
    described = []
    for output in cell.outputs:
        data = output.get("data", {})
        if INTERACTIVE in data:
            described.append(("figure", "", []))
            continue
        text = data.get("text/plain", output.get("text", ""))
        numbers = [float(number) for number in _NUMBER.findall(text)]
        described.append((output.output_type, " ".join(_NUMBER.sub("#", text).split()), numbers))
    return described


def test_there_are_six_notebooks_and_the_page_names_each():
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert len(PATHS) == 6
    assert all(f"({path.name})" in page for path in PATHS)


@each_notebook
def test_every_cell_computes_what_the_notebook_shows(path):
    committed, executed = nbformat.read(path, as_version=4), execute(path)
    for old, new in zip(code_cells(committed), code_cells(executed), strict=True):
        assert [output.get("name") for output in new.outputs if "name" in output] == []
        if _VARIES in old.metadata.get("tags", []):
            assert len(old.outputs) == len(new.outputs)
            continue
        for was, now in zip(shown(old), shown(new), strict=True):
            assert now[:2] == was[:2]
            assert now[2] == pytest.approx(was[2], abs=0.011, rel=1e-3)


@each_notebook
def test_a_notebook_is_ready_to_be_read_without_being_run(path):
    text = path.read_text(encoding="utf-8")
    cells = code_cells(nbformat.reads(text, as_version=4))
    assert len(text) < 1_500_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert 'MODEL = "demo"' in cells[0].source
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}
    figures = [output.data for output in outputs if INTERACTIVE in output.data]
    assert figures
    assert all(STATIC in figure and "text/html" not in figure for figure in figures)
    texts = [output.data.get("text/plain", "") for output in outputs]
    assert not [text for text in texts if _OF_A_MACHINE.search(text)]
