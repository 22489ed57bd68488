"""The prompts of the causal experiments, and the experiment on credit orders."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.common.items import FAMILIES, SMALLEST_P, TEXT, WRONG, draw_all, draw_items
from experiments.path_study import show
from experiments.path_study import study as study_module
from experiments.path_study.conditions import ORDERS, of_order
from experiments.path_study.measuring import DifferenceFromOther
from experiments.path_study.predictions import judge
from experiments.path_study.responses import centre_of_mass, coarse_gap, onset_layer
from experiments.path_study.study import Study, measure
from iglens_tl import LogitDifference, ig_lens
from iglens_tl.models import adapt
from iglens_tl.resume import Parts
from tests.support.closeness import assert_close_to


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


def _probs(adapter, ids):
    with torch.no_grad():
        return adapter.model(torch.tensor([ids]))[0, -1].double().softmax(-1)


@pytest.mark.parametrize("family", ["pronouns", TEXT, WRONG])
def test_items_have_one_token_answers_with_the_models_own_probability(adapter, family):
    items = draw_items(adapter, family, 3, seed=1)
    assert len(items) == 3
    for item in items:
        probs = _probs(adapter, item.ids)
        assert probs[item.answer_id].item() == pytest.approx(item.p, abs=1e-5)
        right = item.other_id if family == WRONG else item.answer_id
        assert probs[right] > SMALLEST_P
        assert item.answer_id != item.other_id
        assert adapter.tokenizer.decode([item.answer_id]).strip() == item.answer.strip()
        if family == TEXT:
            best, second = probs.topk(2).indices.tolist()
            assert (item.answer_id, item.other_id) == (best, second)
        if family == "pronouns":
            assert {item.answer, item.other} in (
                {" he", " she"},
                {" his", " her"},
                {" himself", " herself"},
            )


def test_items_depend_on_the_seed_alone(adapter):
    first, again, other = (draw_items(adapter, TEXT, 4, seed=seed) for seed in (1, 1, 2))
    texts, same, others = (
        [replace(item, p=0) for item in drawn] for drawn in (first, again, other)
    )
    assert texts == same
    assert texts != others
    p, p_again = ([item.p for item in drawn] for drawn in (first, again))
    assert_close_to(p_again, p, dtype=torch.float32)


def test_no_prompt_is_drawn_twice(adapter):
    families = ("pronouns", TEXT, WRONG)
    drawn = draw_all(adapter, 3, families=families, seed=1)
    assert not drawn.notes
    assert [item.family for item in drawn.items] == [name for name in families for _ in range(3)]
    assert len({item.ids for item in drawn.items}) == len(drawn.items)


def test_a_model_that_knows_no_family_has_the_texts(stories):
    drawn = draw_all(adapt(stories), 2, families=("greater_than", TEXT), seed=0)
    assert [item.family for item in drawn.items] == [TEXT, TEXT]
    (note,) = drawn.notes
    assert note.startswith("greater_than: ") and note.endswith("the family is left out")


def test_unknown_families_and_numbers_are_refused(adapter):
    with pytest.raises(ValueError, match="unknown family 'rhymes'; choose one of facts"):
        draw_items(adapter, "rhymes", 1, seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        draw_items(adapter, FAMILIES[0], 0, seed=0)


def test_too_few_items_of_every_family_are_told(stories):
    with pytest.raises(ValueError, match="too few items: greater_than: .* 0 of 1 items"):
        draw_all(adapt(stories), 1, families=("greater_than",))


def _study(credits, effects=None, curves=None):
    """Return a study of hand-made numbers; credits by condition, one row for each item."""
    n_items, n_layers = np.shape(next(iter(credits.values())))
    layers = [f"L{layer}" for layer in range(n_layers)]
    return Study(
        items=pd.DataFrame({"family": ["pronouns"] * (n_items - 1) + [WRONG]}),
        credits={c: pd.DataFrame(numbers, columns=layers) for c, numbers in credits.items()},
        effects={
            k: pd.DataFrame(numbers, columns=layers) for k, numbers in (effects or {}).items()
        },
        curves=pd.DataFrame(curves or []),
        costs=pd.DataFrame(),
    )


def _at(layer, *, n_items=13, n_layers=8):
    """Return credits that lie at one layer; the last item, a wrong answer, has it elsewhere."""
    credits = np.zeros((n_items, n_layers))
    credits[:, layer] = 1
    credits[:-1, 0] += np.linspace(0, 0.05, n_items - 1)
    credits[-1] = np.eye(n_layers)[n_layers - 1 - layer]
    return credits


def _verdicts(study):
    return {prediction.statement: prediction for prediction in judge(study)}


def _all_orders(**at):
    places = dict.fromkeys(ORDERS, 3) | {"reverse": 1, "leave_one_out": 1, "hidden_states": 6}
    credits = {of_order(order): _at(layer) for order, layer in (places | at).items()}
    return credits | {of_order("hidden_states", value="logprob"): _at(2)}


_EXACT = [
    {"curve": curve, "delta": 0.5, "integral": 0.5, "spread": 1e-16} for curve in ("chord", "arc")
]


def test_predictions_that_the_numbers_bear_out_are_held():
    credits = _all_orders()
    credits[of_order("straight")][:4, 7] = -0.3
    effects = {("early exit", "prob"): credits[of_order("hidden_states")]}
    predictions = judge(_study(credits, effects, _EXACT))
    assert [p.verdict for p in predictions] == ["held"] * len(predictions)
    assert all(p.criterion and p.found for p in predictions)


def test_predictions_that_the_numbers_contradict_have_failed():
    credits = _all_orders(hidden_states=2, reverse=5, leave_one_out=5)
    credits[of_order("hidden_states", value="logprob")] = _at(4)
    effects = {("early exit", "prob"): credits[of_order("hidden_states")] + 1e-3}
    curves = [_EXACT[0], {**_EXACT[1], "integral": 0.6, "spread": 0.1}]
    predictions = judge(_study(credits, effects, curves))
    assert [p.verdict for p in predictions] == ["failed"] * len(predictions)


def test_one_order_that_is_as_late_refutes_that_forward_is_latest():
    credits = _all_orders(shapley_skip=6)
    study = _study(credits, {("early exit", "prob"): credits[of_order("hidden_states")]}, _EXACT)
    found = _verdicts(study)["The forward order is the most late-biased"]
    assert found.verdict == "failed"
    assert "+0.00 [+0.00, +0.00] layers from shapley_skip" in found.found


def test_one_item_is_too_few_to_judge_means():
    credits = {c: numbers[-2:] for c, numbers in _all_orders().items()}
    study = _study(credits, {("early exit", "prob"): credits[of_order("hidden_states")]}, _EXACT)
    found = _verdicts(study)
    assert found["The late bias of p shrinks in log p"].verdict == "too few items"
    assert found["The forward order is early exit"].verdict == "held"


def test_places_in_depth_are_those_of_absolute_credit():
    credits = pd.DataFrame([[0, 1, -1, 0], [4, 0, 0, -4], [0, 0, 0, 0]], columns=list(_LABELS))
    assert_close_to(centre_of_mass(credits), [1.5, 1.5, np.nan])
    assert_close_to(onset_layer(credits), [1, 0, np.nan])
    coarse = pd.DataFrame([[1, -1], [5, -4], [0, 0]], columns=["L1", "L3"])
    assert onset_layer(coarse).tolist()[:2] == [1, 1]
    assert_close_to(coarse_gap(coarse, credits), [0, 1 / 9, np.nan])


_LABELS = ("L0", "L1", "L2", "L3")


def test_sublayers_are_summed_and_the_embedding_left_out():
    columns = ["embed", "L0.attn", "L0.mlp", "L1.attn", "L1.mlp"]
    table = pd.DataFrame([[9.0, 1.0, 2.0, 3.0, 4.0]], columns=columns)
    condition = of_order("sublayers")
    study = replace(_study({condition: np.zeros((1, 2))}), credits={condition: table})
    layers = study.layer_credits(condition)
    assert layers.columns.tolist() == ["L0", "L1"]
    assert layers.to_numpy().tolist() == [[3, 7]]


def test_the_difference_from_another_answer_is_a_logit_difference(adapter):
    items = draw_items(adapter, "pronouns", 2, seed=0)
    others = torch.zeros(adapter.readout.d_vocab, dtype=torch.long)
    others[items[0].answer_id] = items[0].other_id
    value = LogitDifference(items[0].answer_id, items[0].other_id)
    kinds = (DifferenceFromOther(others), value)
    every: list[dict[str, Any]] = [
        {},
        {"path": "straight"},
        {"estimator": "gradient"},
    ]
    for options in every:
        own, known = (
            ig_lens(
                adapter,
                list(items[0].ids),
                answer=[items[0].answer_id],
                value=kind,
                top_k=0,
                **options,
            )
            for kind in kinds
        )
        np.testing.assert_allclose(own.values, known.values, atol=2e-4)


def test_the_whole_study_runs_on_a_few_items_and_resumes(stories, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(show, "load_model", lambda name: stories)
    options = ["--items", "2", "--families", TEXT, "--no-pictures"]
    options += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    show.main(options)
    first = (tmp_path / "out" / "TABLES.md").read_text()
    assert not re.search(r"\bnan\b", first, re.IGNORECASE)
    assert "held: The forward order is early exit" in capsys.readouterr().out
    responses = pd.read_parquet(tmp_path / "out" / "responses.parquet")
    assert responses["mean"].notna().mean() > 0.9
    assert (tmp_path / "work" / "figures.html").stat().st_size > 0
    # What is finished is not computed again; what is missing is.
    monkeypatch.setattr(study_module, "credits_frame", _not_again)
    (missing,) = (tmp_path / "work" / "parts").glob("curves*.parquet")
    computed = mock.Mock(return_value=pd.read_parquet(missing))
    monkeypatch.setattr(study_module, "curves_frame", computed)
    missing.unlink()
    show.main(options)
    computed.assert_called_once()
    assert (tmp_path / "out" / "TABLES.md").read_text() == first


def _not_again(*arguments):
    raise AssertionError("a finished part is computed again")


def test_parts_of_another_run_are_refused(adapter, tmp_path):
    families = ["pronouns"]
    Parts(tmp_path, {"model": "another"})
    with pytest.raises(ValueError, match="holds parts of a run with other settings"):
        measure(adapter, tmp_path, number=1, seed=0, say=print, families=families)
