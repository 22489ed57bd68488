"""The study of what layers do over a corpus, on a few texts."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from experiments.corpus_study.figure import kinds_figure
from experiments.corpus_study.markdown import tables_page
from experiments.corpus_study.show import measure_demo, measure_stories
from experiments.corpus_study.texts import HELD_OUT, held_out_texts, write_stories
from tests.conftest import STORIES


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measure_demo(tmp_path_factory.mktemp("study"), limit=12)


def test_the_shipped_texts_are_those_on_which_the_model_is_scored():
    shipped = pd.read_parquet(HELD_OUT)
    few = held_out_texts(share=0.02)
    assert list(shipped.columns) == list(few.columns) == ["text", "family", "group"]
    assert set(few["family"]) <= set(shipped["family"])
    assert len(shipped) == 9383 and shipped["text"].str.len().gt(0).all()


def test_a_story_ends_where_the_model_ends_it(toy_folder, tmp_path):
    path = write_stories(
        toy_folder("llama"), tmp_path / "s.jsonl", n_stories=20, n_tokens=12, seed=1
    )
    stories = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(stories) > 1 and max(map(len, stories)) <= 13
    begins = {story[0] for story in stories}
    assert len(begins) == 1  # with the token that begins a text, which never comes again
    assert all(not begins & set(story[1:]) for story in stories)
    again = write_stories(
        toy_folder("llama"), tmp_path / "t.jsonl", n_stories=20, n_tokens=12, seed=1
    )
    assert again.read_text() == path.read_text()


def test_every_number_of_the_page_is_one_of_the_summary(found):
    page = tables_page({"demo": found})
    of_layers = found.credits.query("lens == 'ig_lens' and grouping == 'all'")
    for row in of_layers.to_dict("records"):
        interval = f"[{row['mean_low']:+.4f}, {row['mean_high']:+.4f}]"
        assert f"| {row['segment']} | {row['mean']:+.4f} {interval} |" in page
    assert "### By family" in page and "### By kind of token" in page
    best = found.credits.query("lens == 'heads'").nlargest(30, "mean")["segment"].tolist()
    head = next(name for name in best if ".H" in name)
    assert f"| {head} |" in page


def test_the_figure_has_a_cell_for_every_kind_and_layer(found):
    figure = kinds_figure({"demo": found})
    assert [trace.z.shape for trace in figure.data] == [found.to_frame(by="kind").shape] * 3


@pytest.mark.usefixtures("stories")
def test_stories_are_measured_as_they_were_written(tmp_path):
    summary = measure_stories(tmp_path, STORIES, limit=2)
    lines = (tmp_path / "corpora" / "stories.jsonl").read_text().splitlines()
    assert summary.facts["targets"] == sum(len(json.loads(line)) - 1 for line in lines)
