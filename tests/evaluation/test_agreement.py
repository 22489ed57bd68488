"""Agreement of credits with effects: pairs, averages with intervals, nulls, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl import IGLens, LayerEffects, compare, components, ig_lens, trace_prompt
from iglens_tl.evaluation import agreement, agreement_by_item
from iglens_tl.evaluation.metrics import metrics
from iglens_tl.interventions import layer_effects, skip_curves
from iglens_tl.results import Target, Text
from iglens_tl.results.statistics import average
from iglens_tl.views.figures import agreement_figure
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_far_from
from tests.support.results import make_result

PROMPTS = [IDS[: length + 3] for length in range(1, 8)]


def make_pair(credits, effects, *, prompts=None, **fields):
    """Return a result with the given credits and one of separate effects, one target per prompt."""
    values = [np.array(side, dtype=float) for side in (credits, effects)]
    n_targets = len(values[0])
    prompts = list(range(n_targets)) if prompts is None else prompts
    targets = tuple(Target(prompt, row, 7, " t") for row, prompt in enumerate(prompts))
    texts = tuple(Text((1, prompt), ("<s>", "x")) for prompt in range(max(prompts) + 1))
    first, second = (
        replace(
            make_result(of_side, tokens=(" t",) * n_targets, with_top=False),
            segments=tuple(f"L{layer}" for layer in range(of_side.shape[1])),
            targets=targets,
            texts=texts,
            **fields,
        )
        for of_side in values
    )
    return first, replace(second, lens="layer_effects", kind="effect")


@pytest.fixture(scope="module")
def random_pair():
    credits = np.random.default_rng(0).normal(size=(30, 6))
    noise = np.random.default_rng(1).normal(size=(30, 6))
    return make_pair(credits, credits + noise)


def test_items_have_the_metrics_of_their_changes(random_pair):
    credits, effects = random_pair
    table = agreement_by_item(credits, effects)
    assert table.columns[:6].tolist() == [
        "credits",
        "effects",
        "prompt",
        "position",
        "token_id",
        "token",
    ]
    assert table["prompt"].tolist() == list(range(30))
    for metric in metrics([1, 3, 5]):
        expected = metric.measure(credits.values, effects.values)
        np.testing.assert_allclose(table[metric.name].to_numpy(float), expected, atol=1e-15)


def test_averages_are_means_of_the_items_inside_their_intervals(random_pair):
    table = agreement(*random_pair).set_index("metric")
    items = agreement_by_item(*random_pair)
    assert list(table.columns) == ["credits", "effects", "mean", "low", "high", "items", "note"]
    for metric, row in table.iterrows():
        assert row["mean"] == pytest.approx(items[metric].mean(), abs=1e-9)
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["items"] == items[metric].notna().sum()
    assert (table["note"] != "").tolist() == (table["items"] < 30).tolist()


def test_every_credits_meets_every_effects(random_pair):
    credits, effects = random_pair
    table = agreement({"a": credits, "b": credits}, {"x": effects, "y": effects, "z": effects})
    pairs = table[["credits", "effects"]].drop_duplicates().itertuples(index=False, name=None)
    assert list(pairs) == [(c, e) for c in "ab" for e in "xyz"]
    assert len(table) == 2 * 3 * len(metrics([1, 3, 5]))


def test_a_comparison_brings_its_lenses_and_levels_count_by_their_differences(toy):
    comparison = compare(toy, PROMPTS, targets=[17], lenses=["logit_lens", "ig_lens"])
    effects = layer_effects(toy, PROMPTS, targets=[17])
    means = agreement(comparison, effects, overlaps=[1]).set_index(["credits", "metric"])["mean"]
    levels, credits = means["logit_lens"].to_numpy(float), means["ig_lens"].to_numpy(float)
    np.testing.assert_allclose(levels, credits, atol=1e-6)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_effects_of_early_exit_are_the_credits_themselves(toy_model, name, backend):
    model = toy_model(name, backend)
    credits = ig_lens(model, PROMPTS[-1], targets=[17, 42])
    exits = layer_effects(model, PROMPTS[-1], targets=[17, 42], intervention="early_exit")
    means = agreement(credits, exits, overlaps=[1]).set_index("metric")["mean"]
    assert means["spearman"] == means["top_1_overlap"] == means["sign_agreement"] == 1
    assert means["routing_gap"] == pytest.approx(0, abs=1e-4)
    assert means["calibration_slope"] == pytest.approx(1, abs=1e-4)


def test_segments_of_no_block_are_left_out():
    credits, effects = make_pair([[1, 2, 3]], [[1, 2, 3]])
    values = np.array([[9.0, 1, 2, 3, -9]])
    more = replace(
        credits,
        segments=("embed", "L0", "L1", "L2", "norm_bias"),
        values=values,
        levels=values.cumsum(1),
    )
    both = replace(effects, segments=("embed", "L0", "L1"))
    assert agreement_by_item(more, effects)["routing_gap"].tolist() == [0]
    assert agreement_by_item(more, both)["routing_gap"].tolist() == [(1 + 1) / (2 + 3)]


def test_a_level_that_begins_after_a_layer_says_nothing_of_it():
    credits, effects = make_pair([[9, 1, 3]], [[-5, 2, 3]])
    levels = replace(credits, values=credits.levels, kind="level")
    assert levels.kind == "level"
    assert_close_to(agreement_by_item(levels, effects)["routing_gap"], 1 / 5)


def test_intervals_draw_prompts_with_all_their_targets():
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(20, 6))
    credits = effects + rng.normal(size=(20, 6))
    ten_times = [side.repeat(10, axis=0) for side in (credits, effects)]
    once = agreement(*make_pair(credits, effects))
    same_prompts = agreement(*make_pair(*ten_times, prompts=np.repeat(range(20), 10).tolist()))
    own_prompts = agreement(*make_pair(*ten_times))
    for name in ("mean", "low", "high"):
        assert_close_to(once[name].to_numpy(float), same_prompts[name].to_numpy(float))
    narrower = (own_prompts["high"] - own_prompts["low"]) / (once["high"] - once["low"])
    assert narrower.between(0.25, 0.4).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=2, max_size=25))
def test_intervals_are_quantiles_of_means_of_drawn_prompts(items):
    numbers, prompts = (np.array(column) for column in zip(*items, strict=True))
    found = average(numbers, prompts, reason="", n_resamples=50, seed=3)
    assert found["mean"] == pytest.approx(numbers.mean(), abs=1e-9)
    names = np.unique(prompts)
    if len(names) < 2:
        assert found["low"] is found["high"] is None
        return
    chance = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(3).multinomial(len(names), chance, size=50)
    means = []
    for times in drawn:
        sample = [
            numbers[prompts == n] for n, k in zip(names, times, strict=True) for _ in range(k)
        ]
        means.append(np.concatenate(sample).mean())
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=1e-12)


def test_intervals_of_many_prompts_are_those_of_the_normal_distribution():
    numbers = np.random.default_rng(0).normal(size=500)
    found = average(numbers, np.arange(500), reason="", n_resamples=4000)
    expected = scipy.stats.norm.interval(0.95, numbers.mean(), scipy.stats.sem(numbers))
    width = expected[1] - expected[0]
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=0.05 * width)


def test_what_is_missing_is_said_in_words_and_never_printed_as_nan():
    credits, effects = make_pair([[1, 2, 3], [1, 1, 1]], [[1, 3, 2], [1, 2, 3]], prompts=[0, 0])
    table = agreement(credits, effects).set_index("metric")
    spearman = table.loc["spearman"]
    assert spearman["mean"] == pytest.approx(0.5)
    assert pd.isna(spearman["low"]) and pd.isna(spearman["high"])
    assert spearman["items"] == 1
    assert spearman["note"] == (
        "undefined for 1 of 2 items (all credits or all effects equal); one prompt: no interval"
    )
    nothing = table.loc["top_3_overlap"]
    assert nothing["mean"] is pd.NA and nothing["items"] == 0
    assert nothing["note"] == "undefined for 2 of 2 items (not more than 3 segments)"
    assert "nan" not in table.to_string().lower()
    assert "nan" not in agreement_by_item(credits, effects).to_string().lower()


def test_few_prompts_are_pointed_out():
    effects = np.random.default_rng(0).normal(size=(3, 4))
    table = agreement(*make_pair(effects, effects))
    assert set(table.loc[table["items"] > 0, "note"]) == {"only 3 prompts: the interval is rough"}


def test_other_units_leave_only_what_has_none(random_pair):
    credits, effects = random_pair
    other = agreement(replace(credits, unit="nats"), effects).set_index("metric")
    same = agreement(credits, effects).set_index("metric")
    scaled = ["routing_gap", "calibration_slope"]
    for name in scaled:
        assert other.loc[name, "mean"] is pd.NA
        reason = "credits in nats, effects in probability"
        assert other.loc[name, "note"] == f"undefined for 30 of 30 items ({reason})"
    assert_close_to(other.drop(index=scaled), same.drop(index=scaled))


def test_shuffled_layers_agree_by_chance_only():
    effects = np.random.default_rng(0).normal(size=(100, 8))
    pair = make_pair(effects, effects)
    table = agreement(*pair, nulls=True)
    assert list(dict.fromkeys(table["credits"])) == ["ig_lens", "ig_lens, layers shuffled"]
    means = table.set_index(["credits", "metric"])["mean"]
    null = means["ig_lens, layers shuffled"]
    for name in ("spearman", "kendall", "pearson"):
        assert null[name] == pytest.approx(0, abs=0.03)
    for k in (1, 3, 5):
        assert null[f"top_{k}_overlap"] == pytest.approx(k / 8, abs=0.03)
    plain = agreement(*pair)
    assert_close_to(table.iloc[: len(plain)], plain)
    assert_close_to(table, agreement(*pair, nulls=True))
    other = agreement(*pair, nulls=True, seed=1)
    assert_far_from(table["mean"].astype(float), other["mean"].astype(float))


def test_a_model_adds_its_skip_curves(toy):
    credits = {
        name: ig_lens(toy, PROMPTS, targets=[17], path=path)
        for name, path in (("forward", "hidden_states"), ("reverse", "reverse"))
    }
    effects = layer_effects(toy, PROMPTS, targets=[17])
    table = agreement(credits, effects, model=toy, nulls=True, seed=2)
    items = agreement_by_item(credits, effects, model=toy, nulls=True, seed=2)
    curves = skip_curves(toy, credits, seed=2)
    assert list(dict.fromkeys(table["effects"])) == ["layer_effects", "skip curves"]
    rows = table[table["effects"] == "skip curves"].set_index(["credits", "metric"])
    for shown, order in (
        ("forward", "forward"),
        ("reverse", "reverse"),
        ("forward, layers shuffled", "random"),
    ):
        expected = curves.areas_of(order)
        for metric, numbers in expected.items():
            mean = np.nanmean(numbers)
            assert_close_to(rows.loc[(shown, metric), "mean"], mean, dtype=torch.float32, size=1)
            chosen = items[(items["credits"] == shown) & (items["effects"] == "skip curves")]
            found = chosen[metric].to_numpy(dtype=float, na_value=np.nan)
            assert_close_to(found, numbers, dtype=torch.float32, size=1)
    assert len(items) == 2 * 2 * 2 * len(PROMPTS)


def test_credits_and_effects_of_components_are_compared_too(toy):
    credits = components(toy, IDS, targets=[17, 42], by="head")
    effects = layer_effects(toy, IDS, targets=[17, 42], by="head")
    table = agreement(credits, effects).set_index("metric")
    assert table.loc["spearman", "items"] == 2
    with pytest.raises(ValueError, match=r"on 0 segments of blocks.*has embed, L0, L1, L2"):
        agreement(ig_lens(toy, IDS, targets=[17, 42]), effects)


def test_one_common_segment_is_too_few():
    credits, effects = make_pair([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match=r"on 1 segments of blocks, and an order needs two: .*L7"):
        agreement(credits, replace(effects, segments=("L0", "L7")))


def test_different_targets_are_refused_with_the_first_difference(random_pair):
    credits, effects = random_pair

    def moved(**changes):
        targets = list(effects.targets)
        targets[4] = replace(targets[4], **changes)
        return replace(effects, targets=tuple(targets))

    with pytest.raises(ValueError, match=r"target 4 is ' t' at position 4 of .* but 'x' at pos"):
        agreement(credits, moved(token="x"))
    with pytest.raises(ValueError, match=r"but ' t' at position 9 of prompt 4"):
        agreement(credits, moved(position=9))
    texts = (*effects.texts[:7], Text((1, 2, 3), ("a", "b", "c")), *effects.texts[8:])
    with pytest.raises(ValueError, match="target 7 is after another text in effects 'layer_eff"):
        agreement(credits, replace(effects, texts=texts))
    fewer = make_pair([[1, 2]], [[1, 2]])[1]
    with pytest.raises(ValueError, match=r"credits 'ig_lens' has 30 targets, but .* has 1; meas"):
        agreement(credits, fewer)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overlaps": 3}, TypeError, "overlaps must be a list of numbers of segments, got 3"),
        ({"overlaps": [0]}, ValueError, "overlaps must be at least 1, got 0"),
        ({"overlaps": [1.5]}, TypeError, "overlaps must be an integer, got 1.5"),
        ({"n_resamples": 0}, ValueError, "n_resamples must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(random_pair, options, error, message):
    with pytest.raises(error, match=message):
        agreement(*random_pair, **options)


@pytest.mark.parametrize("given", [None, [], [3], {"a": 3}, {1: None}, {}])
def test_other_things_than_results_are_named(random_pair, given):
    credits, effects = random_pair
    with pytest.raises((TypeError, ValueError), match="^credits (must|is empty)"):
        agreement(given, effects)
    with pytest.raises((TypeError, ValueError), match="^effects (must|is empty)"):
        agreement(credits, given)


def test_the_figure_has_a_panel_for_each_effects_and_a_dot_for_each_credits(random_pair):
    credits, effects = random_pair
    other = replace(credits, unit="nats")
    table = agreement({"<a>": credits, "other": other}, {"x": effects, "y": effects}, nulls=True)
    figure = agreement_figure(table, metric="routing_gap", nulls=["other"])
    assert len(figure.data) == 4 * 2
    assert list(figure.layout.yaxis.ticktext) == [
        "&lt;a&gt;",
        "&lt;a&gt;, layers shuffled",
        "other",
        "other, layers shuffled",
    ]
    row = table.set_index(["credits", "effects", "metric"]).loc[("<a>", "x", "routing_gap")]
    dot = figure.data[0]
    assert dot.x[0] == pytest.approx(row["mean"], abs=1e-9)
    assert dot.x[0] + dot.error_x.array[0] == pytest.approx(row["high"], abs=1e-9)
    assert dot.x[0] - dot.error_x.arrayminus[0] == pytest.approx(row["low"], abs=1e-9)
    colors = [trace.marker.color for trace in figure.data[:4]]
    assert colors[0] != colors[1] == colors[2] == colors[3]
    undefined = [note for note in figure.layout.annotations if note.text == "undefined"]
    assert len(undefined) == 4 and "credits in nats" in undefined[0].hovertext
    with pytest.raises(ValueError, match="has no metric 'rho'; it has spearman, kendall"):
        agreement_figure(table, metric="rho")


def test_lenses_are_measured_on_a_trace(toy):
    trace = trace_prompt(toy, [IDS, IDS[::-1]], targets=[17])
    credits = [IGLens(), IGLens(path="reverse")]
    exits = {"exits": LayerEffects(intervention="early_exit")}
    table = agreement(credits, exits, trace=trace).set_index(["credits", "effects", "metric"])
    assert table.loc[("ig_lens", "exits", "spearman"), "mean"] == pytest.approx(1, abs=1e-9)
    names = {credits for credits, _, _ in table.index}
    assert names == {"ig_lens", "ig_lens(path='reverse')"}
    by_item = agreement_by_item(credits, exits, trace=trace)
    assert len(by_item) == 4
    with pytest.raises(TypeError, match="credits must be a LensResult"):
        agreement(credits, exits)
