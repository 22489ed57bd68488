"""What notebooks show: light tables of every kind of result, with nothing read as markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from iglens_tl import activation_patching, compare, path_sensitivity, skip_curves, validate
from iglens_tl.results import Provenance
from iglens_tl.views.notebook import comparison_table, patching_table, validation_table
from tests.support.results import HOSTILE, make_component_result, make_result


class Table(HTMLParser):
    """Collect tags, and rows of texts with their titles and colours."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.styles: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.titles.append(named.get("title", ""))
            self.styles.append(named.get("style", ""))

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip() and self.tags[-1] != "caption":
            self.rows[-1][-1] += data


def test_a_results_table_has_every_value_and_its_colour():
    result = make_result()
    table = Table(result._repr_html_())
    assert table.rows[0] == ["token", *result.segments, *result.to_frame().columns[4:]]
    assert table.rows[1][0] == "␣Hanoi"
    assert table.rows[1][1:5] == [f"{value:+.4f}" for value in result.values[0]]
    colours = [style for style in table.styles if "background:" in style]
    assert len(colours) == result.values.size
    signs = ["33,102,172" in style for style in colours]
    assert signs == list(result.values.reshape(-1) > 0)
    assert "id 1, read at position 0" in table.titles


def test_levels_have_colours_from_low_to_high():
    levels = np.array([[0.0, 0.5, 1.0, 0.25]])
    result = make_result(levels, tokens=("a",), additive=False)
    styles = [style for style in Table(result._repr_html_()).styles if "background:" in style]
    assert [style.split(",")[-1] for style in styles] == ["0.00)", "0.35)", "0.70)", "0.17)"]


def test_many_components_are_summed_by_layer_and_many_levels_have_no_numbers():
    result = make_component_result(n_layers=8, n_heads=4)
    assert len(result.segments) > 80
    table = Table(result._repr_html_())
    assert table.rows[0][1:11] == ["embed", *(f"L{layer}" for layer in range(8)), "norm_bias"]
    assert "contributors() names the largest" in result._repr_html_()
    wide = make_result(np.zeros((60, 200)), tokens=("a",) * 60, additive=False)
    page = wide._repr_html_()
    assert "+ 120" in page and "L43: 0.0000" in page
    assert len(page) < 1_000_000


@pytest.fixture(scope="module")
def shown(toy):
    text, other = "w17 w42 w5", "w17 w3 w5"
    validation = validate(toy, [text, other], interventions=["skip"], nulls=False)
    return {
        "comparison": compare(toy, text, answer=" w9 w30"),
        "patching": activation_patching(toy, text, other, answer=" w9", value="logprob"),
        "curves": skip_curves(toy, validation.credits["ig_lens"]),
        "validation": validation,
        "paths": path_sensitivity(toy, text, answer=" w9 w30", paths=["hidden_states", "reverse"]),
    }


def test_every_kind_of_result_has_a_figure_and_a_light_table(shown):
    for kind, result in {**shown, "lens": make_result()}.items():
        assert result.figure().data, kind
        page = result._repr_html_()
        assert len(page) < 100_000, kind
        assert {"div", "table"} <= set(Table(page).tags), kind
        assert not {"script", "style", "link", "img"} & set(Table(page).tags), kind


def test_the_tables_have_the_numbers_of_the_results(shown):
    paths = shown["paths"]
    rows = Table(paths._repr_html_()).rows
    frame = paths.to_frame()
    assert rows[1] == ["hidden_states", *(f"{v:+.4f}" for v in frame["hidden_states"].iloc[:4])]
    assert rows[3] == ["range", *(f"{v:.4f}" for v in frame["range"].iloc[:4])]
    patching = shown["patching"]
    rows = Table(patching._repr_html_()).rows
    assert [row[0] for row in rows[1:]] == ["L0", "L1", "L2"]
    assert rows[1][1:] == [f"{v:+.2f}" for v in patching.recovered[0]]
    curves = shown["curves"]
    page = Table(curves._repr_html_())
    assert [row[0] for row in page.rows[1:]] == list(curves.deletion)
    assert page.tags.count("polyline") == 2 * len(curves.deletion)
    validation = shown["validation"]
    rows = Table(validation._repr_html_()).rows
    spearman = validation.table.query("metric == 'spearman' and effects == 'skip'")["mean"].iloc[0]
    [first] = [row for row in rows if row[0] == "ig_lens"][:1]
    assert first[1].split()[0] == (f"{spearman:.2f}" if not pd.isna(spearman) else "undefined")


def test_no_token_name_or_note_is_read_as_markup(shown):
    provenance = Provenance(model={"name": HOSTILE})
    result = replace(make_result(tokens=(HOSTILE, "b")), provenance=provenance, lens=HOSTILE)
    patching = shown["patching"]
    tokens = (HOSTILE,) * len(patching.clean.tokens)
    hostile = replace(patching, clean=replace(patching.clean, tokens=tokens), provenance=provenance)
    table = shown["validation"].table.assign(credits=HOSTILE, note=HOSTILE)
    pages = [
        result._repr_html_(),
        comparison_table([result, result], {HOSTILE: HOSTILE}),
        patching_table(hostile),
        validation_table(table, provenance, ()),
    ]
    for page in pages:
        assert not {"img", "b", "script"} & set(Table(page).tags)
        assert "onerror" in page
