"""Validation of lenses on prompts: the same as its parts, resumed to the same, and what is said."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from iglens_tl import IGLens, TokenSet, Validation, ig_lens, validate
from iglens_tl.evaluation import agreement, agreement_by_item, runs
from iglens_tl.interventions import layer_effects, skip_curves
from iglens_tl.models import adapt, reinitialized
from iglens_tl.results import Text
from tests.support.cases import IDS
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.results import HOSTILE

PROMPTS = [IDS[: length + 3] for length in range(1, 6)]
ANSWERS = [[17], [42, 5], [88], [23], [9]]
REFERENCE = [[1, token, 30, token + 1, 12] for token in range(40, 60)]
OPTIONS = {"interventions": ["skip", "resample"], "reference": REFERENCE, "n_draws": 3}


def run(model, **options) -> Validation:
    return validate(model, PROMPTS, **{"answer": ANSWERS, **OPTIONS, **options})


def assert_same(first: Validation, second: Validation):
    # A correlation of three small numbers enlarges their rounding.
    assert_close_to(first.table, second.table, tolerance=1e-3)
    assert_close_to(first.by_item, second.by_item, tolerance=1e-3)
    assert_close_to(first.curves.to_frame(), second.curves.to_frame(), dtype=torch.float32)


@pytest.fixture(scope="module")
def found(toy) -> Validation:
    return run(toy, chunk_size=2)


def test_credits_effects_and_curves_are_those_of_their_functions(toy, found):
    credits = ig_lens(toy, PROMPTS, answer=ANSWERS)
    effects = layer_effects(toy, PROMPTS, answer=ANSWERS)
    assert found.credits["ig_lens"].targets == credits.targets
    assert found.effects["skip"].texts == effects.texts
    np.testing.assert_allclose(found.credits["ig_lens"].values, credits.values, atol=1e-6)
    np.testing.assert_allclose(found.effects["skip"].values, effects.values, atol=1e-6)
    curves = skip_curves(toy, found.credits)
    for order in curves.deletion:
        np.testing.assert_allclose(found.curves.deletion[order], curves.deletion[order], atol=1e-6)
    resampled = layer_effects(
        toy, PROMPTS, answer=ANSWERS, intervention="resample", reference=REFERENCE, n_draws=3
    )
    np.testing.assert_allclose(found.effects["resample"].values, resampled.values, atol=1e-6)
    for name, errors in resampled.statistics.items():
        np.testing.assert_allclose(found.effects["resample"].statistics[name], errors, atol=1e-6)


def test_tables_are_those_of_agreement(toy, found):
    keys = ["credits", "effects", "metric"]
    expected = agreement(found.credits, found.effects, model=toy, nulls=True).set_index(keys)
    own = found.table.set_index(keys)
    assert set(expected.index) < set(own.index)
    for column in ("mean", "low", "high"):
        left, right = own.loc[expected.index, column], expected[column]
        assert_identical(left.isna(), right.isna())
        np.testing.assert_allclose(left.dropna().astype(float), right.dropna(), atol=1e-4)
    assert_identical(own.loc[expected.index, "items"], expected["items"])
    items = agreement_by_item(found.credits, found.effects, model=toy, nulls=True)
    names = ["credits", "effects", "prompt", "position", "token_id"]
    left, right = found.by_item.set_index(names), items.set_index(names)
    left = left.loc[right.index, right.columns]
    assert_close_to(left, right, tolerance=1e-3)


def test_the_size_of_chunks_changes_nothing(toy, found):
    whole = run(toy, chunk_size=100)
    for name, result in whole.credits.items():
        assert_close_to(result.values, found.credits[name].values, dtype=torch.float32)
    left, right = (v.table[["mean", "low", "high"]].astype(float) for v in (whole, found))
    # A correlation of random weights may turn where two effects are equal but for rounding.
    assert (np.isclose(left, right, atol=1e-3, equal_nan=True)).mean() > 0.95


def test_random_weights_are_those_of_the_reinitialised_model(toy, found):
    before = ig_lens(toy, PROMPTS[:1], answer=[[17]]).values
    with reinitialized(toy, seed=0) as random:
        credits = ig_lens(random, PROMPTS, answer=ANSWERS)
        effects = layer_effects(random, PROMPTS, answer=ANSWERS)
    name = "ig_lens, random weights"
    expected = agreement({name: credits}, {"skip": effects})
    rows = found.table[(found.table["credits"] == name) & (found.table["effects"] == "skip")]
    np.testing.assert_allclose(
        rows["mean"].astype(float), expected["mean"].astype(float), atol=1e-4
    )
    assert_close_to(ig_lens(toy, PROMPTS[:1], answer=[[17]]).values, before, dtype=torch.float32)


def test_random_targets_are_credits_of_other_tokens_at_the_same_positions(toy):
    whole = [*PROMPTS[1], *ANSWERS[1]]
    found = validate(
        toy, PROMPTS[:2], answer=ANSWERS[:2], interventions=["skip"], lenses=["ig_lens"]
    )
    drawn = []
    for index, answer in enumerate(ANSWERS[:2]):
        rng = np.random.default_rng([0, index])
        for own in answer:
            token = int(rng.integers(adapt(toy).readout.d_vocab - 1))
            drawn.append(token + (token >= own))
    texts = [PROMPTS[0], PROMPTS[1], whole[:-1]]
    credits = ig_lens(toy, texts, targets=[[token] for token in drawn])
    effects = found.effects["skip"]
    expected = agreement(replace(credits, texts=effects.texts, targets=effects.targets), effects)
    rows = found.table[found.table["credits"] == "ig_lens, random target"]
    np.testing.assert_allclose(
        rows["mean"].dropna().astype(float), expected["mean"].dropna().astype(float), atol=1e-4
    )


def test_a_value_without_target_has_no_random_targets(toy):
    found = run(
        toy, value=TokenSet([17, 42]), lenses=["ig_lens"], interventions=["skip"], reference=None
    )
    assert "ig_lens, random target" not in set(found.table["credits"])
    assert "no random targets of ig_lens: the value has no target" in found.notes


def test_without_answers_the_models_own_next_token_is_measured(toy):
    found = validate(toy, PROMPTS[:2], interventions=["skip"], nulls=False)
    expected = ig_lens(toy, PROMPTS[:2], generate=1)
    assert found.credits["ig_lens"].targets == expected.targets
    assert not found.nulls
    assert set(found.table["credits"]) == {"ig_lens", "direct_logit_attribution"}


def test_the_same_lens_can_be_given_several_times_under_labels(toy):
    lenses = {
        "ig_lens": {},
        "from above": IGLens(path="reverse"),
        "of logits": IGLens(value="logit"),
        "direct": "direct_logit_attribution",
    }
    found = run(toy, lenses=lenses, nulls=False)
    assert list(found.credits) == list(lenses)
    reverse = ig_lens(toy, PROMPTS, answer=ANSWERS, path="reverse")
    np.testing.assert_allclose(found.credits["from above"].values, reverse.values, atol=1e-6)
    assert found.credits["of logits"].unit == "logit"
    assert found.provenance.options["lenses"]["from above"]["path"] == "reverse"


def test_components_are_added_up_by_layer(toy):
    found = run(toy, lenses={"ig_lens": IGLens(by="sublayer")}, nulls=False)
    whole = ig_lens(toy, PROMPTS, answer=ANSWERS)
    assert found.credits["ig_lens"].segments == whole.segments
    np.testing.assert_allclose(found.credits["ig_lens"].values, whole.values, atol=1e-6)


@pytest.mark.parametrize("interrupted_at", ["credits", "skip", "resample, random weights"])
def test_an_interrupted_run_goes_on_to_the_same_tables(toy, found, tmp_path, interrupted_at):
    begun = []

    def interrupt(done, total, what):
        begun.append(what)
        if begun.count(interrupted_at) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy, chunk_size=2, folder=tmp_path / "parts", report=interrupt)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").glob("*.parquet")}
    assert kept
    resumed = run(toy, chunk_size=2, folder=tmp_path / "parts")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_same(resumed, found)


def test_finished_parts_are_not_measured_again(toy, found, tmp_path, monkeypatch):
    run(toy, chunk_size=2, folder=tmp_path)
    for name in ("compare", "begin_trace", "skip_curves"):
        monkeypatch.setattr(runs, name, None)
    assert_same(run(toy, chunk_size=2, folder=tmp_path), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"other settings \(seed\)"),
        ({"answer": [[17]] * 5}, r"other settings \(answer\)"),
        ({"lenses": ["ig_lens"]}, r"other settings \(lenses\)"),
        ({"value": "logprob"}, r"other settings \(lenses, value\)"),
        ({"reference": REFERENCE[1:]}, r"other settings \(reference\)"),
    ],
)
def test_a_folder_of_other_settings_is_refused(toy, tmp_path, options, message):
    run(toy, folder=tmp_path, nulls=False)
    with pytest.raises(ValueError, match=message):
        run(toy, folder=tmp_path, nulls=False, **options)


def test_a_folder_of_other_weights_is_refused(toy, tmp_path):
    run(toy, folder=tmp_path, nulls=False)
    with (
        reinitialized(toy) as random,
        pytest.raises(ValueError, match=r"other settings \(weights\)"),
    ):
        run(random, folder=tmp_path, nulls=False)


def test_steps_are_told_before_they_begin(toy):
    told = []
    run(toy, chunk_size=3, report=lambda *step: told.append(step))
    done, totals, what = zip(*told, strict=True)
    assert list(done) == list(range(totals[0]))
    assert len(set(totals)) == 1
    assert list(dict.fromkeys(what)) == [
        "credits",
        "skip",
        "resample",
        "skip curves",
        "random targets",
        "credits, random weights",
        "skip, random weights",
        "resample, random weights",
    ]


@pytest.mark.parametrize("n_prompts", [1, 2])
def test_too_few_prompts_are_said_in_words(toy, n_prompts):
    found = validate(toy, PROMPTS[:n_prompts], **OPTIONS, nulls=False)
    note = "one prompt: no interval" if n_prompts == 1 else "only 2 prompts: the interval is rough"
    measured = found.table[found.table["items"] > 0]
    assert measured["note"].str.contains(note).all()
    assert "nan" not in found.table.to_string().lower()
    assert ">nan" not in found.to_html().lower()


def test_repeated_prompts_count_again_and_are_pointed_out(toy):
    found = validate(toy, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], interventions=["skip"], nulls=False)
    assert "1 of 3 prompts repeat an earlier one and count again" in found.notes
    assert len(found.credits["ig_lens"].targets) == 3


def test_the_page_is_self_contained_and_escapes_what_it_shows(found, tmp_path):
    hostile = replace(
        found,
        table=found.table.replace({"credits": {"ig_lens": HOSTILE}}),
        credits={HOSTILE: found.credits["ig_lens"]},
        provenance=replace(
            found.provenance,
            model={"name": HOSTILE},
            options={HOSTILE: HOSTILE},
            notes=(HOSTILE,),
        ),
    )
    page = hostile.write_html(tmp_path / "page.html").read_text("utf-8")
    seen = {"src": [], "tags": []}

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen["tags"].append(tag)
            seen["src"] += [value for name, value in attributes if name in ("src", "href")]

    Reader().feed(page)
    assert seen["src"] == []
    assert not {"img", "b", "iframe"} & set(seen["tags"])
    assert "Plotly" in page


def test_figures_show_credits_nulls_and_effects(found):
    names = [trace.name for trace in found.layers_figure().data]
    assert names == ["ig_lens", "direct_logit_attribution", "skip", "resample"]
    means = found.credits["ig_lens"].values[:, 1:].mean(axis=0)
    assert_close_to(found.layers_figure().data[0].y, means)
    assert len(found.curves_figure().data) == 8
    panels = [note.text for note in found.figure().layout.annotations]
    assert panels[:2] == ["skip", "resample"]
    assert repr(found).startswith("Validation(ig_lens, direct_logit_attribution against skip")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lenses": ["magic"]}, ValueError, "unknown lens 'magic'"),
        ({"lenses": ["ig_lens", "ig_lens"]}, ValueError, "given twice"),
        ({"lenses": []}, ValueError, "lenses is empty"),
        ({"lenses": "ig_lens"}, TypeError, "a list of lenses or names"),
        ({"lenses": ["ig_lens:reverse"]}, ValueError, "unknown lens 'ig_lens:reverse'"),
        ({"lenses": {"ig_lens": {"path": "sideways"}}}, ValueError, "unknown path 'sideways'"),
        ({"interventions": ["bleach"]}, ValueError, "unknown intervention 'bleach'"),
        ({"interventions": []}, ValueError, "interventions is empty"),
        ({"interventions": "skip"}, TypeError, "list of names"),
        ({"interventions": ["resample", "resample"]}, ValueError, "given twice"),
        ({"interventions": ["skip"]}, ValueError, "reference texts are for mean and resample"),
        ({"scope": "first"}, ValueError, "unknown scope 'first'"),
        ({"value": "sequence_logprob"}, ValueError, "use logprob"),
        ({"answer": ANSWERS[1:]}, ValueError, "5 prompts but 4 entries of answer"),
        ({"generate": 1}, ValueError, "only one of answer and generate"),
        ({"answer": None, "generate": 0}, ValueError, "prompt 0: generate must be at least 1"),
        ({"n_draws": 1}, ValueError, "n_draws must be an integer of at least 2"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be"),
        ({"reference": []}, ValueError, "reference holds no text"),
        ({"names": ["a"]}, ValueError, "5 prompts but 1 names"),
    ],
)
def test_bad_options_are_refused(toy, options, error, message):
    with pytest.raises(error, match=message):
        run(toy, **options)


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], ValueError, "prompts is empty"),
        ("text", TypeError, "must be a list of prompts"),
        ([[1, 17], [1, 10**6]], ValueError, "prompt 1: token id 1000000"),
        ([[1, 17], [1] * 10**4], ValueError, "prompt 1: the prompt has 10000 tokens"),
        ([[1, 17], ["w1", "w2"]], TypeError, "prompt 1 is a batch"),
        ([[1, 17], ""], ValueError, "prompt 1: the prompt is empty"),
    ],
)
def test_bad_prompts_are_called_by_their_number(toy, prompts, error, message):
    with pytest.raises(error, match=message):
        validate(toy, prompts, interventions=["skip"])


def test_prompts_and_answers_may_come_from_anything_that_can_be_read_once(toy):
    options = {"interventions": ["skip"], "nulls": False}
    found = validate(toy, (ids for ids in PROMPTS), answer=iter(ANSWERS), **options)
    column = validate(toy, pd.Series(PROMPTS), answer=pd.Series(ANSWERS), **options)
    usual = run(toy, reference=None, **options)
    for other in (found, column):
        assert other.credits["ig_lens"].targets == usual.credits["ig_lens"].targets
        assert_close_to(other.table, usual.table, dtype=torch.float32)


def test_texts_of_prompts_stay_with_their_results(found):
    assert [text.ids for text in found.credits["ig_lens"].texts] == [
        (*prompt, *answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    assert isinstance(found.effects["skip"].texts[0], Text)
