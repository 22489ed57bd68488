"""Examples of a corpus: the most extreme targets of a part of the model, in their texts."""

from __future__ import annotations

import pandas as pd
import pytest

from iglens_tl.corpus import Corpus
from tests.support.corpora import rows_of


@pytest.fixture(scope="module")
def rows(measured):
    return pd.DataFrame(rows_of(measured))


@pytest.fixture
def corpus(measured):
    with Corpus.open(measured) as opened:
        yield opened


def best(rows, column, place, by, key, number):
    """Return text and position of the most extreme target of each key, as pandas finds them."""
    frame = rows.assign(credit=rows[column].map(lambda entries: entries[place]))
    frame = frame.sort_values(
        ["credit", "text", "position"], ascending=[by == "smallest", True, True], kind="stable"
    )
    frame = frame.drop_duplicates(key).head(number)
    return list(zip(frame["text"], frame["position"], strict=True)), frame["credit"].tolist()


@pytest.mark.parametrize("by", ["largest", "smallest"])
@pytest.mark.parametrize("distinct", ["text", "token", "target"])
def test_the_most_extreme_targets_come_first(corpus, rows, by, distinct):
    found = corpus.examples(layer=1, by=by, distinct=distinct, number=6)
    place = corpus.lenses["ig_lens"]["segments"].index("L1")
    key = {"text": "text", "token": "token_id", "target": ["text", "position"]}[distinct]
    expected, credits = best(rows, "credits", place, by, key, 6)
    assert [item.credit for item in found] == pytest.approx(credits, rel=1e-6)
    assert [(item.text, item.position) for item in found] == expected
    assert len(found) == 6 and found.unit == "probability" and found.segment == "L1"


def test_a_head_is_found_in_the_lens_that_has_it(corpus, rows):
    found = corpus.examples(layer=1, head=0, number=3)
    place = corpus.lenses["by head"]["segments"].index("L1.H0")
    expected, _ = best(rows, "by head", place, "largest", "text", 3)
    assert [(item.text, item.position) for item in found] == expected
    assert found.segment == "L1.H0"
    levels = corpus.examples("L1", lens="logit_lens", number=1)
    place = corpus.lenses["logit_lens"]["segments"].index("L1")
    assert levels.items[0].credit == rows["logit_lens"].map(lambda entries: entries[place]).max()


def test_the_context_is_the_text_around_the_target(corpus, rows):
    place = corpus.lenses["ig_lens"]["segments"].index("L0")
    for item in corpus.examples("L0", number=5, before=2, after=1):
        own = rows[rows["text"] == item.text]
        near = own[own["position"].between(item.position - 2, item.position + 1)]
        credits = near["credits"].map(lambda entries: entries[place])
        assert item.context == tuple(zip(near["token"], credits, strict=True))
        assert item.token == own.set_index("position")["token"][item.position]
        assert item.row["rank"] == own.set_index("position")["rank"][item.position]
        assert "credits" not in item.row and "by head" not in item.row
    frame = corpus.examples("L0", number=5, before=2, after=1).to_frame()
    assert (frame["before"] + frame["token"] + frame["after"]).str.len().gt(0).all()
    assert {"credit", "final", "genre"} <= set(frame.columns)


def test_a_condition_chooses_the_targets(corpus, rows):
    found = corpus.examples("embed", where="rank > 5 AND genre IS NOT NULL", number=50)
    allowed = rows[(rows["rank"] > 5) & rows["genre"].notna()]
    assert 0 < len(found) == allowed["text"].nunique()
    assert {item.text for item in found} == set(allowed["text"])
    none = corpus.examples("embed", where="rank < 0")
    assert len(none) == 0 and none.to_frame().empty and "largest credits" in none._repr_html_()


def test_a_notebook_shows_every_token(corpus):
    found = corpus.examples("L1", number=2)
    shown = found._repr_html_()
    assert "<script" not in shown and f"[{found.items[0].token.strip()}]" in shown.replace("␣", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either a segment, such as 'L3', or the number of a layer"),
        ({"segment": "L1", "layer": 1}, "give either a segment"),
        ({"segment": "L1", "head": 1}, "a head belongs to a layer"),
        ({"layer": 77}, "no lens of the corpus has a segment 'L77': ig_lens has embed, L0, L1 to"),
        ({"layer": 1, "by": "most"}, "unknown by 'most'; choose one of largest, smallest"),
        ({"layer": 1, "distinct": "row"}, "unknown distinct 'row'"),
        ({"layer": 1, "lens": "tuned"}, "unknown lens 'tuned'; choose one of ig_lens, logit_lens"),
        ({"layer": 1, "number": 0}, "number must be at least 1, got 0"),
        ({"layer": 1, "where": "rang > 1"}, "DuckDB cannot answer the query: .*rang"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(corpus, arguments, message):
    with pytest.raises(ValueError, match=message):
        corpus.examples(**arguments)
