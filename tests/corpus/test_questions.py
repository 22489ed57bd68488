"""Questions to a corpus: its rows as tables, in SQL and as frames, and what cannot be asked."""

from __future__ import annotations

import json
import shutil
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from iglens_tl import IGLens
from iglens_tl.corpus import Corpus, Measurement, run_corpus
from tests.support.corpora import TEXTS, rows_of


@pytest.fixture
def corpus(measured):
    with Corpus.open(measured) as opened:
        yield opened


def test_every_row_comes_back_in_every_form(corpus, measured):
    expected = pd.DataFrame(rows_of(measured))
    order = "SELECT * FROM targets ORDER BY text, position"
    frame = corpus.to_pandas(order)
    assert frame.columns.tolist() == expected.columns.tolist()
    assert len(corpus.to_pandas()) == corpus.n_targets == len(expected)
    for name in expected.columns:
        assert frame[name].map(_plain).tolist() == expected[name].map(_plain).tolist()
    polars = corpus.to_polars(order)
    assert polars["credits"].to_list() == expected["credits"].tolist()
    lazy = corpus.scan().sort("text", "position").select("token_id").collect()
    assert lazy["token_id"].to_list() == expected["token_id"].tolist()
    assert corpus.to_polars().height == corpus.n_targets


def test_segments_name_the_entries_of_every_list(corpus, measured):
    rows = pd.DataFrame(rows_of(measured))
    means = corpus.to_pandas(
        'SELECT s.segment, avg(t."by head"[s.number]) AS mean FROM targets t, segments s '
        "WHERE s.lens = 'by head' GROUP BY ALL"
    ).set_index("segment")["mean"]
    labels = json.loads((measured / "manifest.json").read_text())["lenses"]["by head"]["segments"]
    assert sorted(means.index) == sorted(labels)
    for place, label in enumerate(labels):
        expected = rows["by head"].map(lambda entries, k=place: entries[k]).mean()
        assert means[label] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    heads = corpus.to_pandas("SELECT layer, head FROM segments WHERE segment = 'L1.H0'")
    assert heads.to_numpy().tolist() == [[1, 0]]


def test_rejected_texts_are_a_table_too(corpus):
    assert corpus.to_pandas("SELECT text, reason FROM rejected").to_numpy().tolist() == [
        [3, "it is empty"]
    ]


def test_a_part_without_a_single_row_takes_no_other_with_it(toy, tmp_path):
    from iglens_tl.corpus import Columns, open_source

    path = tmp_path / "texts.jsonl"
    lines = ["", "", TEXTS[0], TEXTS[1]]
    path.write_text("".join(f"{json.dumps({'text': line})}\n" for line in lines))
    source = open_source(path, columns=Columns())
    run_corpus(source, toy, tmp_path / "out", _credits(), texts_per_part=2)
    with Corpus.open(tmp_path / "out") as corpus:
        assert set(corpus.to_pandas()["text"]) == {2, 3}
        assert len(corpus.summary(by=[]).onsets) > 0


def test_a_run_that_is_not_complete_can_be_asked(measured, tmp_path):
    folder = shutil.copytree(measured, tmp_path / "copy")
    (folder / "parts" / "part-000001.parquet").unlink()
    with Corpus.open(folder) as corpus:
        assert corpus.n_targets == len(corpus.to_pandas()) < len(rows_of(measured))
        assert "9 of 13 texts" in repr(corpus)


def test_a_query_keeps_to_its_memory_and_threads(measured):
    with Corpus.open(measured, memory_limit="300MB", threads=1) as corpus:
        settings = corpus.to_pandas(
            "SELECT current_setting('memory_limit') AS memory, "
            "current_setting('threads') AS threads"
        )
    assert settings["threads"].tolist() == [1]
    assert settings["memory"].str.startswith("286").all()  # MiB


def test_what_is_no_corpus_is_refused_in_one_sentence(measured, tmp_path):
    with pytest.raises(ValueError, match="holds no corpus: it has no manifest"):
        Corpus.open(tmp_path)
    folder = shutil.copytree(measured, tmp_path / "copy")
    part = folder / "parts" / "part-000002.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ValueError, match="part-000002.parquet' is damaged or of another run; give"):
        Corpus.open(folder)
    for path in (folder / "parts").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="holds no row yet"):
        Corpus.open(folder)
    with pytest.raises(ValueError, match="memory_limit must be a size such as '1GB', got 'much'"):
        Corpus.open(measured, memory_limit="much")
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        Corpus.open(measured, threads=0)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT nothing FROM targets", 'column "nothing" not found'),
        ("SELEC 1", "syntax error"),
        ("SELECT CAST(token AS INTEGER) FROM targets", "Could not convert"),
    ],
)
def test_a_query_that_cannot_be_answered_is_told_in_one_sentence(corpus, query, message):
    with pytest.raises(ValueError, match=f"DuckDB cannot answer the query: .*{message}") as told:
        corpus.to_pandas(query)
    assert "\n" not in str(told.value)


def test_without_polars_its_frames_are_refused(corpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    for ask in (corpus.to_polars, corpus.scan):
        with pytest.raises(
            ValueError, match=r"pip install 'iglens_tl\[polars\]', or take to_pandas"
        ):
            ask()


def test_a_column_that_the_corpus_has_itself_is_not_carried_along(toy, tmp_path):
    from iglens_tl.corpus import Columns, open_source

    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": TEXTS[0], "kind": "x"}) + "\n")
    source = open_source(path, columns=Columns(text="text", keep=("kind",)))
    with pytest.raises(ValueError, match="the column 'kind' cannot be carried along"):
        run_corpus(source, toy, tmp_path / "out", _credits())


def test_parts_are_read_by_other_programs_as_they_are(measured):
    table = pq.read_table(measured / "parts" / "part-000000.parquet")
    assert table.schema.field("credits").type.list_size == len(table["credits"][0].as_py())


def _credits():
    return Measurement(lenses={"ig_lens": IGLens(top_k=0)})


def _plain(entry):
    if hasattr(entry, "tolist"):
        return entry.tolist()
    return None if entry is None or entry is pd.NA or entry != entry else entry
