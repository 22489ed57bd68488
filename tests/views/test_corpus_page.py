"""The page of a corpus, as a reader sees it: every number, light and dark, without network."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from iglens_tl import Components, IGLens, LogitLens
from iglens_tl.corpus import Columns, Corpus, Measurement, open_source, run_corpus
from iglens_tl.views.corpus import NUMBERS, number_text
from tests.support.browser import chromium, needs_chromium, watch
from tests.support.corpora import TEXTS
from tests.support.results import HOSTILE


@pytest.fixture(scope="module")
def pages(toy, tmp_path_factory):
    """Return the summary of a small corpus, its examples and its page."""
    root = tmp_path_factory.mktemp("pages")
    path = root / "texts.jsonl"
    lines = [{"text": text, "genre": HOSTILE if len(text) % 2 else "a"} for text in TEXTS]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    lenses = {
        "ig_lens": IGLens(top_k=0),
        "logit_lens": LogitLens(top_k=0),
        HOSTILE: Components(by="head"),
    }
    source = open_source(path, columns=Columns(text="text", keep=("genre",)))
    run_corpus(source, toy, root / "corpus", Measurement(lenses=lenses))
    with Corpus.open(root / "corpus") as corpus:
        summary = corpus.summary(n_resamples=50)
        examples = [corpus.examples("L1", by=by, number=3) for by in ("largest", "smallest")]
    return summary, examples, summary.write_html(root / "page.html", examples=examples)


@needs_chromium
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 420)])
def test_a_reader_sees_every_number_without_network(pages, scheme, width):
    summary, examples, path = pages
    with chromium() as browser:
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        seen = watch(page)
        page.goto(f"file://{path}")
        layers = page.locator("table.layers tbody tr").all_inner_texts()
        shown = {}
        for number in NUMBERS:
            page.click(f"label[for=number-{number}]")
            grid = page.locator(f"section[aria-label='by kind'] .of-{number}")
            hidden = [other for other in NUMBERS if other != number]
            assert grid.is_visible()
            assert not any(page.locator(f".of-{other}").first.is_visible() for other in hidden)
            shown[number] = [
                row.split("\t")[2:] for row in grid.locator("tbody tr").all_inner_texts()
            ]
        framed = page.locator(".is-target").all_inner_texts()
        text = page.inner_text("body")
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        ink, paper = page.evaluate(
            "() => [getComputedStyle(document.body).color,"
            " getComputedStyle(document.body).backgroundColor]"
        )
    assert seen == {"requests": [f"file://{path}"], "messages": []}
    assert len(layers) == len(summary.to_frame().columns)
    for number in NUMBERS:
        table = summary.to_frame(number, by="kind").to_numpy()
        expected = [
            [number_text(v, abs(table).max(), signed=number in ("mean", "median")) for v in row]
            for row in table
        ]
        assert shown[number] == expected
    assert [token.strip() for token in framed] == [
        item.token.strip() for found in examples for item in found
    ]
    assert HOSTILE in text
    assert overflow <= 0
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (bright[0] < bright[1]) == (scheme == "light")


@needs_chromium
def test_bars_are_as_long_as_their_numbers(pages):
    summary, _, path = pages
    with chromium() as browser:
        page = browser.new_page()
        page.goto(f"file://{path}")
        found = page.eval_on_selector_all(
            "table.layers tbody tr td:nth-of-type(3) rect",
            "bars => bars.map(bar => bar.getBoundingClientRect().width)",
        )
    shares = summary.to_frame("share").to_numpy()[0]
    np.testing.assert_allclose(np.array(found) / sum(found), shares, atol=0.02)


def test_numbers_have_the_digits_of_the_largest_beside_them():
    assert number_text(0.12345, 0.5) == "0.123"
    assert number_text(-0.0123, 0.05, signed=True) == "-0.0123"
    assert number_text(12.3, 100.0) == "12"
    assert number_text(3e-8, 1e-6, signed=True) == "+3.0e-08"
    assert number_text(float("nan"), 1.0) == "–"


def test_a_page_that_cannot_be_written_says_so(pages, tmp_path):
    summary, _, _ = pages
    with pytest.raises(ValueError, match="cannot write"):
        summary.write_html(tmp_path / "nowhere" / "page.html")
