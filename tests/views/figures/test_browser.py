"""The written HTML in headless Chromium, as a reader sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from iglens_tl import write_html
from iglens_tl.views.figures import comparison_figure
from tests.support.browser import chromium, needs_chromium, watch
from tests.support.results import HOSTILE, make_result

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 1300, "height": 800})


def open_figure(page: Page, figure: Any, path: Any) -> dict[str, list[str]]:
    """Open a figure and return the requests and the messages that it caused."""
    seen = watch(page)
    url = f"file://{write_html(figure, path)}"
    page.goto(url)
    page.wait_for_selector(".xtick text")
    assert seen["requests"].pop(0) == url
    return seen


def hover_cell(page: Page, column: int, row: int) -> str:
    """Move the mouse over a cell and return the hover text."""
    x, y = page.evaluate(
        """([column, row]) => {
            const figure = document.querySelector('.js-plotly-plot')._fullLayout;
            const box = document.querySelector('.nsewdrag').getBoundingClientRect();
            return [box.x + figure.xaxis.c2p(column), box.y + figure.yaxis.c2p(row)];
        }""",
        [column, row],
    )
    page.mouse.move(x + 2, y + 2)
    page.mouse.move(x, y)
    page.wait_for_selector(".hoverlayer .hovertext")
    return page.text_content(".hoverlayer") or ""


def test_axes_hover_and_no_request_beyond_the_file(page, tmp_path):
    result = make_result(tokens=(" Hanoi", HOSTILE, "\n", "$x^2$"))
    seen = open_figure(page, result.heatmap(), tmp_path / "map.html")
    tokens = page.locator(".xtick text").all_text_contents()
    assert (tokens[0], tokens[2], tokens[3]) == ("␣Hanoi", "⏎", "$x^2$")
    labels = page.locator(".ytick text").all_text_contents()
    assert labels == ["embed", "L0", "L1", "L2"]
    heights = [box["y"] for box in (t.bounding_box() for t in page.locator(".ytick text").all())]
    assert heights == sorted(heights, reverse=True), "segments go upwards"
    text = hover_cell(page, 0, 2)
    assert "segment L1" in text
    assert f"{result.values[0, 2]:+.6f}" in text
    assert seen == {"requests": [], "messages": []}


def test_a_hostile_token_stays_text(page, tmp_path):
    figure = make_result(tokens=(HOSTILE, "b")).heatmap(title=HOSTILE)
    seen = open_figure(page, figure, tmp_path / "hostile.html")
    assert page.locator("img[src='x']").count() == 0
    assert HOSTILE in page.text_content(".gtitle")
    assert HOSTILE in hover_cell(page, 0, 1)
    assert HOSTILE[:10] in page.locator(".xtick text").all_text_contents()[0]
    assert seen == {"requests": [], "messages": []}


def test_the_waterfall_opens_without_network_or_complaint(page, tmp_path):
    figure = make_result(tokens=(HOSTILE, "b"), error=0.1).waterfall(0)
    seen = open_figure(page, figure, tmp_path / "waterfall.html")
    labels = page.locator(".xtick text").all_text_contents()
    assert labels[0] == "baseline"
    assert labels[-2:] == ["unexplained", "final"]
    assert seen == {"requests": [], "messages": []}


def test_a_large_map_is_drawn(page, tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 33))
    figure = make_result(values, tokens=tuple(f" t{i}" for i in range(200))).heatmap()
    seen = open_figure(page, figure, tmp_path / "large.html")
    assert page.locator(".ytick text").count() == 33
    assert seen == {"requests": [], "messages": []}


def test_a_comparison_is_drawn_with_hover_and_without_network(page, tmp_path):
    results = [
        replace(make_result(tokens=(" Hanoi", HOSTILE)), lens="ig_lens"),
        replace(make_result(tokens=(" Hanoi", HOSTILE), additive=False), lens="logit_lens"),
        replace(make_result(tokens=(" Hanoi", HOSTILE), unit="logit"), lens="attribution"),
    ]
    figure = comparison_figure(results, target=0)
    seen = open_figure(page, figure, tmp_path / "comparison.html")
    titles = page.locator(".infolayer .annotation-text").all_text_contents()
    assert titles[:3] == [
        "ig_lens: probability credit",
        "logit_lens: probability level",
        "attribution: logit credit",
    ]
    assert page.locator(".heatmaplayer image").count() == 3
    assert page.locator(".scatterlayer .trace").count() == 3
    assert page.locator(".infolayer .colorbar, .infolayer [class^='cb']").count() >= 3
    # The bars of three scales stand beside the maps, and take nothing of their width.
    layout = figure.layout
    columns = [page.locator(f".{name} .nsewdrag").first.bounding_box() for name in ("xy", "x2y2")]
    drawn = columns[1]["x"] + columns[1]["width"] - columns[0]["x"]
    assert drawn == pytest.approx(layout.width - layout.margin.l - layout.margin.r, abs=1)
    legend = page.locator(".infolayer .legend").first.bounding_box()
    axes = [label.bounding_box() for label in page.locator(".xtick text").all()]
    assert legend["y"] >= max(label["y"] + label["height"] for label in axes) - 1
    text = hover_cell(page, 0, 2)
    assert "segment L1" in text
    assert f"{results[0].values[0, 2]:+.6f}" in text
    assert page.locator("img[src='x']").count() == 0
    assert seen == {"requests": [], "messages": []}
