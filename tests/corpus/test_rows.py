"""Rows of a corpus: what they hold, and which texts have none."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from iglens_tl import Components, IGLens, LogitLens, components, ig_lens, logit_lens
from iglens_tl.corpus import Columns, Measurement, open_source, run_corpus
from iglens_tl.models import adapt
from tests.support.closeness import assert_close_to
from tests.support.corpora import TEXTS, column, credits_of, rows_of, run_folder


def test_rows_hold_what_the_lenses_say_of_each_text(toy, source, tmp_path):
    lenses = {
        "ig_lens": IGLens(top_k=0),
        "logit_lens": LogitLens(value="logprob", top_k=0),
        "components": Components(by="head"),
    }
    done = run_corpus(source, toy, tmp_path / "out", Measurement(lenses=lenses), texts_per_part=5)
    rows = rows_of(tmp_path / "out")
    assert done.is_complete and done.targets == len(rows) and not done.rejected
    for number, text in enumerate(TEXTS):
        own = [row for row in rows if row["text"] == number]
        result = ig_lens(toy, text)
        model = logit_lens(toy, text, value="logprob")
        targets = result.targets
        assert [row["position"] for row in own] == [target.position for target in targets]
        assert [row["token_id"] for row in own] == [target.token_id for target in targets]
        assert [row["token"] for row in own] == [target.token for target in targets]
        assert [row["rank"] for row in own] == model.ranks[:, -1].tolist()
        for name, expected in (
            ("credits", result.values),
            ("final", result.final),
            ("baseline", result.baseline),
            ("logit_lens", model.values),
            ("logprob", model.final),
            ("entropy", model.statistics["entropy"][:, -1]),
            ("components", components(toy, text, by="head").values),
        ):
            assert_close_to(column(own, name), expected, dtype=torch.float32)
    assert abs(column(rows, "error")).max() < 1e-6
    lenses = json.loads((tmp_path / "out" / "manifest.json").read_text())["lenses"]
    of_heads = components(toy, TEXTS[0], by="head")
    described = {"kind": "credit", "unit": "probability", "segments": list(of_heads.segments)}
    assert lenses["components"] == described
    assert lenses["logit_lens"]["kind"] == "level"
    onset = np.array(ig_lens(toy, TEXTS[3]).onset())
    own = [row for row in rows if row["text"] == 3]
    assert [lenses["ig_lens"]["segments"][row["onset"]] for row in own] == onset.tolist()


def test_long_texts_are_cut_so_that_every_token_is_measured_once(toy, source, tmp_path):
    whole = rows_of(run_folder(source, toy, tmp_path / "whole", credits_of()))
    cut = rows_of(run_folder(source, toy, tmp_path / "cut", credits_of(max_length=5, overlap=2)))
    named = [(row["text"], row["position"], row["token_id"]) for row in cut]
    assert named == [(row["text"], row["position"], row["token_id"]) for row in whole]
    assert max(row["window"] for row in cut) > 0
    first = [row["window"] == 0 for row in cut]
    levels = [column(rows, "final")[first] for rows in (cut, whole)]
    assert_close_to(*levels, dtype=torch.float32)
    # A later window is read as a text of its own, which begins with the text's first token.
    adapter = adapt(toy)
    longest = max(range(len(TEXTS)), key=lambda number: len(TEXTS[number]))
    ids = adapter.model.to_tokens(TEXTS[longest])[0].tolist()
    later = [row for row in cut if row["text"] == longest and row["window"] == 1]
    start = later[0]["position"] - 1
    alone = ig_lens(toy, [*ids[:1], *ids[start : start + 4]]).values[-len(later) :]
    assert_close_to(column(later, "credits"), alone, dtype=torch.float32)


def test_texts_that_cannot_be_measured_are_listed_with_the_reason(toy, tmp_path):
    lines = [
        {"text": "w1 w2 w3"},
        {"text": ""},
        {"text": [1, 5, 9000]},
        {"text": 7},
        {"text": [5]},
        {"other": "w1"},
        {"text": "w1 " * 30},
        {"text": [1, 5, 9]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = open_source(path, columns=Columns())
    done = run_corpus(source, toy, tmp_path / "out", credits_of(max_length=12, long="reject"))
    assert (done.texts, done.rejected, done.is_complete) == (8, 6, True)
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert [row["text"] for row in rejected] == [1, 2, 3, 4, 5, 6]
    assert rejected[0]["where"] == "a.jsonl, line 2"
    for row, reason in zip(
        rejected,
        ("it is empty", "token id 9000", "got int", "single token", "is empty", "more than 12"),
        strict=True,
    ):
        assert reason in row["reason"]
    assert {row["text"] for row in rows_of(tmp_path / "out")} == {0, 7}


def test_a_text_that_overflows_takes_no_other_with_it(toy_model, source, tmp_path):
    model = toy_model("llama", "bridge")
    ids = [adapt(model).model.to_tokens(text)[0].tolist() for text in TEXTS]

    def break_one(states, hook):
        # As a text does whose activations overflow: its own rows alone.
        rows = states.clone()
        for row in range(len(rows)):
            if seen[0][row, : len(ids[4])].tolist() == ids[4]:
                rows[row] = float("nan")
        return rows

    seen = []
    remember = model.embed.register_forward_pre_hook(
        lambda module, inputs: seen.__setitem__(slice(None), [inputs[0]])
    )
    try:
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", break_one)]):
            done = run_corpus(source, model, tmp_path / "out", credits_of())
    finally:
        remember.remove()
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert done.rejected == 1 and rejected[0]["text"] == 4 and "NaN" in rejected[0]["reason"]
    rows = rows_of(tmp_path / "out")
    assert {row["text"] for row in rows} == set(range(len(TEXTS))) - {4}
    own = column([row for row in rows if row["text"] == 3], "credits")
    assert_close_to(own, ig_lens(model, TEXTS[3]).values, dtype=torch.float32)


def test_columns_are_carried_along(toy, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("body,year,who\nw1 w2,1990,x\nw3 w4 w5,1991,\n")
    source = open_source(path, columns=Columns(text="body", keep=("who", "year")))
    rows = rows_of(run_folder(source, toy, tmp_path / "out", credits_of()))
    assert {(row["text"], row["who"], row["year"]) for row in rows} == {
        (0, "x", "1990"),
        (1, "", "1991"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lenses": {"logit_lens": LogitLens()}}, "first lens of a corpus has to be additive"),
        ({"lenses": {"ig_lens": IGLens(), "text": LogitLens()}}, "cannot be called 'text'"),
        ({"long": "cut"}, "unknown long 'cut'; choose one of split, truncate, reject"),
        ({"max_length": 1}, "max_length must be an integer of at least 2, got 1"),
        ({"overlap": True}, "overlap must be an integer of at least 1, got True"),
    ],
)
def test_measurements_that_do_not_exist_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Measurement(**{"lenses": {"ig_lens": IGLens()}, **options})


def test_options_that_do_not_fit_the_model_are_errors_before_a_text_is_read(toy, source, tmp_path):
    for measurement, message in (
        (credits_of(max_length=10**6), "max_length is 1000000, but .* takes at most"),
        (credits_of(max_length=6, overlap=5), "an overlap of 5 leaves windows of 6 tokens no"),
    ):
        with pytest.raises(ValueError, match=message):
            run_corpus(source, toy, tmp_path / "out", measurement)
    by_source = Measurement(
        lenses={"ig_lens": IGLens(), "components": Components(by="head_source")}
    )
    with pytest.raises(ValueError, match="'components' has other segments for every text"):
        run_corpus(source, toy, tmp_path / "out", by_source)
    with pytest.raises(ValueError, match="texts_per_part must be at least 1, got 0"):
        run_corpus(source, toy, tmp_path / "out", credits_of(), texts_per_part=0)
