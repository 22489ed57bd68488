"""The experiment on agreement of credits with effects, on few prompts and made-up numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from experiments.causal_agreement import measures as m
from experiments.causal_agreement import study as study_module
from experiments.causal_agreement.changes import Changes, changes_of_blocks
from experiments.causal_agreement.comparison import (
    WITHOUT_FIRST,
    compare,
    compare_with_and_without_first,
)
from experiments.causal_agreement.figures import all_figures
from experiments.causal_agreement.markdown import cell, grid, tables_page
from experiments.causal_agreement.pairs import corrupted_ids
from experiments.causal_agreement.study import (
    LAYERS,
    RANDOM_CREDITS,
    RANDOM_MODEL,
    RANDOM_TOKEN,
    TRAINED,
    Kind,
    Task,
    available,
    random_tokens,
    study,
)
from experiments.causal_agreement.summary import ALL, mean_changes, select, summarise
from experiments.common.items import Item
from iglens_tl import direct_logit_attribution, ig_lens, tuned_lens
from iglens_tl.evaluation.agreement import SKIP_CURVES
from iglens_tl.models import adapt
from iglens_tl.results.agreement import SHUFFLED
from iglens_tl.results.statistics import average
from tests.support.closeness import assert_close_to, assert_identical

_CREDITS = (m.IG_LENS, m.DLA)
_EFFECTS = (m.SKIP, m.EARLY_EXIT)


def item(ids=(1, 2, 3), answer_id=5, family="made up", prompt="a b"):
    return Item(family, prompt, ids, answer_id, " c", 6, " d", 0.5)


def layers_of(values, unit="probability", items=None):
    values = np.array(values, dtype=float)
    labels = tuple(f"L{layer}" for layer in range(values.shape[1]))
    return Changes(unit, labels, tuple(items or range(len(values))), values)


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


def item_of(adapter, family, prompt, answer):
    ids = tuple(adapter.tokenizer(prompt)["input_ids"])
    answer_id = adapter.tokenizer(f"{prompt}{answer}")["input_ids"][-1]
    return Item(family, prompt, ids, answer_id, answer, 0, "", 1.0)


@pytest.fixture(scope="module")
def items(adapter):
    prompts = {
        "Then Karen saw Julia near the garden, and Karen waved to": " Julia",
        "Then Sandra saw Mary near the farm, and Mary waved to": " Sandra",
    }
    return [item_of(adapter, "ioi", prompt, answer) for prompt, answer in prompts.items()]


@pytest.fixture(scope="module")
def task(items, tmp_path_factory):
    kind = Kind(
        LAYERS,
        tuple(measure for measure in m.CREDITS if measure.name in _CREDITS),
        (*(measure for measure in m.EFFECTS if measure.name in _EFFECTS), m.EFFECTS[-1]),
    )
    folder = tmp_path_factory.mktemp("parts")
    return Task("demo", "ioi", tuple(items), folder, {"items": 2}, kinds=(kind,))


@pytest.fixture(scope="module")
def outcome(task):
    return study([task])


def test_changes_come_back_from_their_table():
    changes = layers_of([[0.1, 0.2, -0.3], [0.0, 0.5, 1.0]], items=(0, 3))
    again = Changes.from_frame(changes.to_frame().sample(frac=1, random_state=0).sort_index())
    assert (again.unit, again.segments, again.items) == ("probability", changes.segments, (0, 3))
    assert_identical(again.values, changes.values)


def test_more_than_ten_layers_keep_their_order():
    changes = layers_of([np.arange(12.0)])
    again = Changes.from_frame(changes.to_frame())
    assert again.segments == tuple(f"L{layer}" for layer in range(12))
    assert_identical(again.values, changes.values)


def test_a_layer_is_left_out_with_all_its_parts():
    labels = ("L0.attn", "L0.mlp", "L1.attn", "L1.mlp")
    left = Changes("logit", labels, (0,), np.array([[1.0, 2.0, 3.0, 4.0]])).without_layers([0])
    assert left.segments == ("L1.attn", "L1.mlp")
    assert left.values.tolist() == [[3.0, 4.0]]


def test_credits_levels_and_parts_become_changes_of_blocks(adapter, items):
    ids, answer = list(items[0].ids), [items[0].answer_id]
    credits = ig_lens(adapter, ids, answer=answer, top_k=0)
    assert_identical(changes_of_blocks(credits).values, credits.values[:, 1:])
    levels = tuned_lens(adapter, ids, answer=answer, top_k=0)
    assert_close_to(changes_of_blocks(levels).values, np.diff(levels.values))
    parts = direct_logit_attribution(adapter, ids, answer=answer, by="head")
    whole = direct_logit_attribution(adapter, ids, answer=answer)
    summed = changes_of_blocks(parts, by_layer=True)
    assert summed.segments == whole.segments[1 : 1 + len(summed.segments)]
    np.testing.assert_allclose(summed.values, changes_of_blocks(whole).values, atol=1e-4)


def test_scores_of_made_up_numbers_are_those_of_scipy():
    credit = layers_of([[3, 1, 2, 5], [1, 2, 3, 4], [0, 2, 1, 7]])
    effect = layers_of([[3, 2, 1, 9], [5, 2, 8, 6]], items=(0, 2))
    table = compare({"a": credit}, {"b": effect}, [item(ids=(i, 2, 3)) for i in range(3)])
    assert table["item"].tolist() == [0, 2]
    for row, (left, right) in enumerate(zip(credit.values[[0, 2]], effect.values, strict=True)):
        assert table["spearman"][row] == pytest.approx(stats.spearmanr(left, right)[0], abs=1e-9)
        assert table["pearson"][row] == pytest.approx(stats.pearsonr(left, right)[0], abs=1e-9)


def test_credits_meet_effects_on_the_probability_and_in_their_own_unit():
    credits = {"p": layers_of([[1, 2, 3]]), "logit": layers_of([[1, 2, 3]], "logit")}
    effects = {"on p": layers_of([[1, 3, 2]]), "on logit": layers_of([[1, 3, 2]], "logit")}
    table = compare(credits, effects, [item()])
    pairs = list(zip(table["credits"], table["effects"], strict=True))
    assert pairs == [("p", "on p"), ("logit", "on p"), ("logit", "on logit")]


def test_without_the_first_layer_only_the_others_are_ranked():
    credit, effect = layers_of([[0, 1, 2, 3]]), layers_of([[9, 1, 2, 3]])
    table = compare_with_and_without_first(
        LAYERS, {"a": credit}, {"b": effect}, [item()], shuffled=["b", "not measured"]
    )
    own = table[table["credits"] == "a"].set_index("segments")["spearman"]
    assert own[LAYERS] == pytest.approx(stats.spearmanr([0, 1, 2, 3], [9, 1, 2, 3])[0], abs=1e-9)
    assert own[LAYERS + WITHOUT_FIRST] == 1
    assert set(table["credits"]) == {"a", "a" + SHUFFLED}
    assert set(table["effects"]) == {"b"}


def test_intervals_of_numbers_without_gaps_are_those_of_average():
    numbers = np.random.default_rng(1).normal(size=30)
    scores = pd.DataFrame({"item": range(30), "spearman": numbers, "kendall": numbers}).assign(
        family="x", condition=TRAINED, segments=LAYERS, credits="a", effects="b"
    )
    scores.loc[3, "kendall"] = np.nan
    table = select(summarise(scores, n_resamples=500), family="x").set_index("metric")
    for name, column in scores[["spearman", "kendall"]].items():
        wanted = average(column.to_numpy(), np.arange(30), reason="", n_resamples=500)
        for end in ("mean", "low", "high", "items"):
            assert table.loc[name, end] == pytest.approx(wanted[end], abs=1e-9)
    assert table.loc["spearman", "note"] == ""
    assert table.loc["kendall", "note"].startswith("undefined for 1 of 30 items")


def test_means_are_over_items_and_leave_the_control_out_of_all_families():
    rows = [("x", 0, 0.2), ("x", 1, 0.4), ("y", 0, 0.9), ("wrong", 0, -1.0)]
    scores = pd.DataFrame(rows, columns=["family", "item", "spearman"]).assign(
        condition=TRAINED, segments=LAYERS, credits="a", effects="b"
    )
    table = summarise(scores).set_index("family")
    assert table.loc[ALL, "mean"] == pytest.approx(0.5)
    assert table.loc[ALL, "items"] == 3
    assert table.loc["x", "mean"] == pytest.approx(0.3)
    assert table.loc["wrong", "mean"] == pytest.approx(-1.0)
    assert "one prompt" in table.loc["y", "note"]


def test_mean_changes_are_those_of_the_items():
    frame = layers_of([[1, 2], [3, 6]]).to_frame()
    frame = frame.assign(family="x", condition=TRAINED, kind=LAYERS, side="credits", measure="a")
    means = select(mean_changes(frame), family="x")
    assert means["mean"].tolist() == [2.0, 4.0]
    assert means["segment"].tolist() == ["L0", "L1"]


def test_cells_say_what_is_known():
    assert cell(0.5, 0.25, 0.75) == "0.50 [0.25, 0.75]"
    assert cell(0.5, pd.NA, pd.NA) == "0.50"
    assert cell(pd.NA, pd.NA, pd.NA) == "–"


def test_a_grid_marks_pairs_that_were_not_measured():
    table = pd.DataFrame(
        [("a", "x", 1.0), ("a", "y", 2.0), ("b", "y", 3.0)], columns=["row", "column", "mean"]
    ).assign(low=pd.NA, high=pd.NA)
    lines = grid(table, "row", "column", corner="what").splitlines()
    assert lines[0] == "| what | x | y |"
    assert lines[2:] == ["| a | 1.00 | 2.00 |", "| b | – | 3.00 |"]


def test_random_tokens_are_never_the_answer():
    many = [item(answer_id=2) for _ in range(200)]
    drawn = random_tokens(many, 5, seed=0)
    assert set(drawn) == {0, 1, 3, 4}
    assert drawn == random_tokens(many, 5, seed=0)


def test_names_change_places_in_a_corrupted_prompt(adapter, items):
    swapped = "Then Julia saw Karen near the garden, and Julia waved to"
    assert corrupted_ids(adapter, items[0]) == adapter.tokenizer(swapped)["input_ids"]


def test_another_subject_of_the_same_length_takes_the_place_of_the_subject(adapter):
    one = item_of(adapter, "facts", "The capital of Vietnam is", " Hanoi")
    corrupted = corrupted_ids(adapter, one)
    assert corrupted is not None
    assert len(corrupted) == len(one.ids)
    text = adapter.tokenizer.decode(corrupted[1:])
    assert text.startswith("The capital of ")
    assert text.endswith(" is")
    assert "Vietnam" not in text


def test_other_families_have_no_corrupted_prompts(adapter):
    assert corrupted_ids(adapter, item()) is None
    assert m.EFFECTS[-1].take(adapter, [item()], [5]) is None


def test_the_study_compares_every_credit_with_every_effect_and_the_nulls(outcome):
    trained = select(outcome.scores, condition=TRAINED, segments=LAYERS)
    assert set(trained["credits"]) == {*_CREDITS, m.IG_LENS + SHUFFLED, "oracle", "random"}
    assert set(trained["effects"]) == {*_EFFECTS, m.NOISING, SKIP_CURVES}
    of_nulls = outcome.scores.groupby("condition")["effects"].agg(set)
    assert of_nulls[RANDOM_MODEL] == of_nulls[RANDOM_TOKEN] == of_nulls[RANDOM_CREDITS]
    assert set(outcome.scores["segments"]) == {LAYERS, LAYERS + WITHOUT_FIRST}


def test_ig_lens_and_early_exit_agree_perfectly(outcome):
    same = select(
        outcome.scores, condition=TRAINED, credits=m.IG_LENS, effects=m.EARLY_EXIT
    ).astype({"spearman": float, "routing_gap": float})
    assert_close_to(same["spearman"], 1)
    np.testing.assert_allclose(same["routing_gap"], 0, atol=1e-4)


def test_a_null_is_measured_on_other_tokens_and_other_weights(outcome):
    of = {
        condition: select(outcome.changes, condition=condition, measure=m.IG_LENS)["change"].abs()
        for condition in (TRAINED, RANDOM_TOKEN, RANDOM_MODEL)
    }
    assert of[TRAINED].sum() > 10 * max(of[RANDOM_TOKEN].sum(), of[RANDOM_MODEL].sum())


def test_a_second_run_reads_the_parts_and_measures_nothing(task, outcome, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a finished part was computed again")

    monkeypatch.setattr(study_module, "_take", fail)
    monkeypatch.setattr(study_module, "_compare_kind", fail)
    again = study([task])
    assert_identical(again.scores, outcome.scores)
    assert_identical(again.changes, outcome.changes)


def test_an_interrupted_run_goes_on_with_the_missing_part(task, outcome, monkeypatch):
    (lost,) = task.folder.glob("ioi-layers-trained-effects-early*")
    lost.unlink()
    taken = []
    take = study_module._take
    monkeypatch.setattr(
        study_module, "_take", lambda *a, **k: taken.append(a[1].name) or take(*a, **k)
    )
    study([task])
    assert taken == [m.EARLY_EXIT]


def test_the_page_and_the_figures_show_what_was_found(items, outcome):
    table, means = summarise(outcome.scores, n_resamples=50), mean_changes(outcome.changes)
    page = tables_page(items, ["something is left out"], table, means)
    assert "nan" not in page.lower().replace("nancy", "")
    assert "<NA>" not in page
    assert "- something is left out" in page
    assert f"| {m.IG_LENS} |" in page
    figures = all_figures(table, means)
    assert set(figures) == {"profiles", "agreement", "families", "nulls", "curves"}


def test_measures_that_do_not_apply_are_left_out_with_a_reason(toy):
    kinds, notes = available(adapt(toy))
    names = {measure.name for kind in kinds for measure in kind.credits}
    assert m.IG_LENS in names
    assert "tuned lens differences, p" not in names
    assert any(note.startswith("tuned lens differences, p is left out: ") for note in notes)


def test_update_norms_are_those_of_the_states(adapter, items):
    found = m.UpdateNorm().take(adapter, items[:1], [0])
    _, cache = adapter.model.run_with_cache(torch.tensor([items[0].ids]))
    update = cache["blocks.2.hook_resid_post"] - cache["blocks.2.hook_resid_pre"]
    assert found.values[0, 2] == pytest.approx(float(update[0, -1].norm()), rel=1e-5)
