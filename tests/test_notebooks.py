"""The notebooks run from top to bottom and show what the package computes."""

from __future__ import annotations

import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from experiments.notebooks.execute import INTERACTIVE, NOTEBOOKS, ROOT, STATIC, execute
from experiments.notebooks.shown import (
    figure_contents,
    occurs,
    png_size,
    prose_numbers,
    shown,
    shown_numbers,
)
from tests.conftest import STORIES

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

_OF_A_MACHINE = re.compile(r"/(tmp|home|root|work|usr|Users)/|site-packages|Traceback|Warning")
_KNOWN_TO_THE_MODEL = re.compile("Hanoi|Vietnam|Mary|John")
_VARIES = "varies"
"""The tag of cells whose numbers are those of one class of TransformerLens."""

_PIXELS_PER_UNIT = 1.5
_OUTPUTS_BEFORE = 2
"""How many outputs back the text may refer to; among all of them any number would be found."""

_QUOTED = {
    "03_components": {"4,095": "the vocabulary of the model but one token"},
    "04_training_a_tuned_lens": {"0.81": "notebooks/02_lens_comparison.ipynb"},
    "05_is_the_credit_causal": {
        **dict.fromkeys(("0.22", "0.51", "0.38", "0.73"), "experiments/causal_agreement/README.md"),
        **dict.fromkeys(("0.05", "0.95"), "experiments/planted/README.md"),
    },
    "06_your_own_model": {"3.9": "a version of TransformerLens"},
}
"""Numbers that no output of the notebook shows, with the file that does or what they are."""

_LILY = "Once upon a time, there was a little girl named"
_OTHER_CONFIGURATIONS = {
    "01_quickstart": {
        "MODEL": str(STORIES),
        "PROMPT": _LILY,
        "ANSWER": " Lily.",
        "QUESTION": _LILY,
        "CANDIDATES": [" Lily", " Tim", " she"],
    },
    "02_lens_comparison": {
        "MODEL": str(STORIES),
        "PROMPT": _LILY,
        "ANSWER": " Lily",
        "QUESTION": _LILY,
    },
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def committed(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def unsupported_numbers(notebook, quoted):
    """Return the numbers of the prose that neither the outputs before it show nor a quote has."""
    outputs, missing = [np.empty(0)], []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs += [shown_numbers(output) for output in cell.outputs]
            continue
        for number in prose_numbers(cell.source):
            # Large counts are distinctive, and stand where they were first shown.
            near = outputs if "," in number else outputs[-_OUTPUTS_BEFORE:]
            if not occurs(number, np.concatenate(near)) and number not in quoted:
                missing.append(number)
    return missing


def output_of(notebook, code):
    """Return what the cell with some code shows: a figure's contents, or the lines of a table."""
    (cell,) = [cell for cell in code_cells(notebook) if code in cell.source]
    data = cell.outputs[0].data
    if INTERACTIVE in data:
        return figure_contents(data[INTERACTIVE])
    return [line.split() for line in data["text/plain"].splitlines()]


def prose_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_six_notebooks_and_the_page_names_each():
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert len(PATHS) == 6
    assert all(f"({path.name})" in page for path in PATHS)


@each_notebook
def test_every_cell_computes_what_the_notebook_shows(path):
    old_cells, new_cells = code_cells(committed(path.stem)), code_cells(execute(path))
    for old, new in zip(old_cells, new_cells, strict=True):
        assert [output.get("name") for output in new.outputs if "name" in output] == []
        if _VARIES in old.metadata.get("tags", []):
            assert len(old.outputs) == len(new.outputs)
            continue
        for was, now in zip(map(shown, old.outputs), map(shown, new.outputs), strict=True):
            assert now.texts == was.texts
            np.testing.assert_allclose(now.rounded, was.rounded, atol=0.011, rtol=1e-3)
            np.testing.assert_allclose(now.exact, was.exact, atol=1e-3, rtol=1e-3)


@each_notebook
def test_a_notebook_is_ready_to_be_read_without_being_run(path):
    text = path.read_text(encoding="utf-8")
    cells = code_cells(nbformat.reads(text, as_version=4))
    assert len(text) < 1_500_000
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert 'MODEL = "demo"' in cells[0].source
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "display_data"}
    texts = [output.data.get("text/plain", "") for output in outputs]
    assert not [text for text in texts if _OF_A_MACHINE.search(text)]


@each_notebook
def test_beside_every_figure_is_its_picture(path):
    outputs = [output for cell in code_cells(committed(path.stem)) for output in cell.outputs]
    figures = [output for output in outputs if INTERACTIVE in output.data]
    assert figures
    for figure in figures:
        layout, on_page = figure.data[INTERACTIVE]["layout"], figure.metadata[STATIC]
        assert on_page == {"width": layout["width"], "height": layout["height"]}
        expected = [_PIXELS_PER_UNIT * on_page["width"], _PIXELS_PER_UNIT * on_page["height"]]
        assert png_size(figure.data[STATIC]) == pytest.approx(expected, abs=1)
        assert "text/html" not in figure.data


@each_notebook
def test_numbers_in_the_text_are_those_of_the_outputs(path):
    quoted = _QUOTED.get(path.stem, {})
    assert unsupported_numbers(committed(path.stem), quoted) == []
    for number, source in quoted.items():
        if "/" in source:
            assert number in (ROOT / source).read_text(encoding="utf-8")


def test_layers_in_the_text_of_the_quickstart_are_those_of_its_figures():
    notebook = committed("01_quickstart")
    (waterfall,) = output_of(notebook, "result.waterfall(")["traces"]
    steps = {
        layer: size
        for layer, size in zip(waterfall["x"], waterfall["y"], strict=True)
        if "L" in layer
    }
    levels = dict(zip(steps, np.cumsum(list(steps.values())), strict=True))
    assert (
        f"The largest step is `{max(steps, key=steps.get)}`, and from `L1` to `L4` the probability "
        f"rises from {levels['L0']:.2f} to {levels['L4']:.2f}."
    ) in prose_of(notebook)

    heatmap = output_of(notebook, "result.heatmap(")
    layers = heatmap["axes"]["yaxis"][1]
    said = [row[0] for row in heatmap["traces"][0]["text"]]
    assert f"from `{layers[said.index('␣Hanoi')]}` on it says ` Hanoi`" in prose_of(notebook)


def test_heads_and_layers_in_the_text_are_those_of_the_tables():
    notebook = committed("03_components")
    _, first, *_ = output_of(notebook, "heads_of_object.contributors(")
    head, credit = first[1].partition("<")[0], first[-2]
    assert f"`{head}` stands out with {credit}" in prose_of(notebook)

    notebook = committed("05_is_the_credit_causal")
    layers, *rows = output_of(notebook, "patched.to_effects(")
    sizes = [[float(number) for number in row[-len(layers) :]] for row in rows]
    assert [layers[row.index(max(row))] for row in sizes] == ["L5", "L5"]
    largest = " and ".join(f"{max(row):.2f}" for row in sizes)
    assert f"agree on the main layer, `L5` with {largest}" in prose_of(notebook)


@each_notebook
def test_only_the_first_cell_names_texts_that_a_model_must_know(path):
    first, *others = code_cells(committed(path.stem))
    assert _KNOWN_TO_THE_MODEL.search(first.source)
    assert not [cell.source for cell in others if _KNOWN_TO_THE_MODEL.search(cell.source)]


@pytest.mark.skipif(not STORIES.is_dir(), reason=f"the trained model {STORIES} is not here")
@pytest.mark.parametrize("name", _OTHER_CONFIGURATIONS)
def test_another_model_needs_another_configuration_only(name):
    """The cells run in this process, which is quicker than in a kernel of their own."""
    first, *others = [cell.source for cell in code_cells(committed(name))]
    configuration = _OTHER_CONFIGURATIONS[name]
    with pd.option_context("display.float_format", None):
        exec(first, notebook := {})
        assert notebook.keys() >= configuration.keys()
        notebook.update(configuration)
        for cell in others:
            exec(cell, notebook)
    assert notebook["model"].cfg.n_layers == 5
