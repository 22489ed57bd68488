"""The page and the figures of a validation: every number of the table, words where none is."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from iglens_tl.results import Provenance
from iglens_tl.views.figures import agreement_figure
from iglens_tl.views.html import write_page
from iglens_tl.views.validation import table_blocks, validation_page
from tests.support.browser import chromium, needs_chromium, watch
from tests.support.results import HOSTILE

NULLS = (", layers shuffled",)
COLUMNS = ["credits", "effects", "metric", "mean", "low", "high", "items", "note"]


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        [credits, effects, metric, mean, mean and mean - 0.1, mean and mean + 0.1, 12, note]
        for credits in ("ig_lens", "ig_lens, layers shuffled")
        for effects in ("skip", "early_exit")
        for metric, mean, note in (("spearman", 0.5, ""), ("routing_gap", None, "no unit"))
    ]
    curves = ["ig_lens", "skip curves", "area_between", 0.25, 0.2, 0.3, 12, ""]
    return pd.DataFrame([*rows, curves], columns=COLUMNS)


def test_every_mean_stands_in_a_block_of_its_metrics(table):
    first, second = table_blocks(table, NULLS)
    assert list(first["metrics"]) == ["spearman", "routing_gap"]
    assert list(first["rows"]) == ["skip", "early_exit"]
    assert list(second["metrics"]) == ["area_between"]
    credits, null = first["rows"]["skip"]
    assert (credits["name"], credits["is_null"], credits["targets"]) == ("ig_lens", False, 12)
    assert (null["name"], null["is_null"]) == ("layers shuffled", True)
    assert credits["cells"] == [
        {"mean": "0.50", "interval": "[0.40, 0.60]", "note": ""},
        {"mean": "undefined", "interval": "", "note": "no unit"},
    ]


def test_panels_of_one_metric_share_their_axis(table):
    layout = agreement_figure(table, nulls=["ig_lens, layers shuffled"]).layout
    assert (layout.xaxis.matches, layout.xaxis2.matches) == (None, "x")
    assert layout.yaxis.ticktext == ("ig_lens", "ig_lens, layers shuffled")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_sees_the_table_and_the_figures_without_network(table, tmp_path, scheme):
    hostile = table.replace({"credits": {"ig_lens": HOSTILE}})
    figures = [agreement_figure(hostile), agreement_figure(table)]
    provenance = Provenance(model={"name": HOSTILE}, notes=("mind <this>",), created="2026-11-21")
    page_file = write_page(
        validation_page(hostile, figures, provenance, nulls=NULLS), tmp_path / "page.html"
    )
    with chromium() as browser:
        page = browser.new_page(color_scheme=scheme)
        seen = watch(page)
        page.goto(f"file://{page_file}")
        page.wait_for_selector("[data-figure='1'] .scatterlayer .point")
        text = page.inner_text("body")
        rows = page.locator("table.numbers tbody tr").all_inner_texts()
        ink, paper = page.evaluate(
            "() => [getComputedStyle(document.body).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
    assert seen == {"requests": [f"file://{page_file}"], "messages": []}
    assert HOSTILE in text and "mind <this>" in text
    assert [re.split(r"\s+", row)[-1] for row in rows if "[" in row] == ["12"] * 5
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (bright[0] < bright[1]) == (scheme == "light")
