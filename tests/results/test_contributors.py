"""The largest contributors and coarser credits: both add up to what the components add up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iglens_tl import direct_logit_attribution
from iglens_tl.results.contributors import OTHERS, largest
from iglens_tl.results.segments import parse_segment
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.results import make_component_result, make_result


@pytest.fixture
def result():
    return make_component_result()


@pytest.mark.parametrize("top", [1, 3, 1000])
def test_credits_and_shares_add_up_to_those_of_all_components(result, top):
    frame = result.contributors(top=top)
    by_target = frame.groupby("position", sort=False)
    np.testing.assert_allclose(by_target["credit"].sum(), result.sums, rtol=0, atol=1e-15)
    np.testing.assert_allclose(by_target["share"].sum(), 1, rtol=0, atol=1e-12)
    assert (by_target["count"].sum() == len(result.segments)).all()
    assert (by_target.size() == min(top + 1, len(result.segments))).all()


def test_components_stand_by_size_with_what_their_labels_say(result):
    frame = result.contributors(top=5, target=1)
    named = frame[frame["segment"] != OTHERS]
    sizes = np.sort(np.abs(result.values[1]))[::-1]
    assert_identical(named["credit"].abs(), sizes[:5])
    assert_close_to(named["share"], sizes[:5] / sizes.sum())
    assert named["rank"].tolist() == [1, 2, 3, 4, 5]
    for _, line in named.iterrows():
        segment = parse_segment(line["segment"])
        place = result.segments.index(line["segment"])
        assert_identical(line["credit"], result.values[1, place])
        assert line["part"] == segment.part
        for name in ("layer", "head", "source", "neuron", "direction"):
            number = getattr(segment, name)
            assert pd.isna(line[name]) if number is None else line[name] == number


def test_a_source_is_named_by_the_token_that_was_read(result):
    frame = result.contributors(top=len(result.segments), target=2)
    sources = frame[frame["part"] == "source"]
    tokens = result.texts[0].tokens
    assert sources["source_token"].tolist() == [tokens[position] for position in sources["source"]]
    assert frame.loc[frame["part"] != "source", "source_token"].isna().all()


def test_a_source_beyond_the_end_of_its_text_has_no_token(result):
    # In a batch, a longer text has positions that this one does not have.
    short = replace(result, texts=(replace(result.texts[0], ids=(0,), tokens=("<s>",)),))
    frame = short.contributors(top=1000, target=0)
    beyond = frame[frame["source"] > 0]
    assert len(beyond)
    assert beyond["source_token"].isna().all()


def test_without_others_there_is_no_row_for_them(result):
    assert OTHERS not in set(result.contributors(top=len(result.segments))["segment"])


def test_credits_of_zero_have_shares_of_zero():
    frame = make_result(np.zeros((1, 3)), tokens=("a",)).contributors(top=2)
    assert frame["share"].tolist() == [0, 0, 0]
    assert frame["segment"].tolist() == ["embed", "L0", OTHERS]


@given(st.lists(st.integers(-3, 3), max_size=8), st.integers(1, 9) | st.none())
def test_the_largest_and_the_others_are_all(credits, top):
    numbers = np.array(credits, dtype=float)
    named, others = largest(numbers, top)
    assert sorted([*named, *others]) == list(range(len(credits)))
    assert list(others) == sorted(others)
    expected = sorted(range(len(credits)), key=lambda i: (-abs(credits[i]), i))[:top]
    assert list(named) == expected


def test_layers_sum_their_components_and_keep_the_level_of_their_end(result):
    layers = result.by_layer()
    assert layers.segments == ("embed", "L0", "L1", "norm_bias")
    assert type(layers) is type(result)
    expected = np.zeros_like(layers.values)
    for place, label in enumerate(result.segments):
        coarse = layers.segments.index(parse_segment(label).layer_label)
        expected[:, coarse] += result.values[:, place]
        assert (layers.ranks[:, coarse] >= 1).all()
        if place + 1 == len(result.segments) or (
            parse_segment(result.segments[place + 1]).layer_label != layers.segments[coarse]
        ):
            assert_identical(layers.levels[:, coarse], result.levels[:, place])
            assert_identical(layers.ranks[:, coarse], result.ranks[:, place])
            assert_identical(layers.top.ids[:, coarse], result.top.ids[:, place])
            entropies = result.statistics["entropy"][:, place]
            assert_identical(layers.statistics["entropy"][:, coarse], entropies)
    np.testing.assert_allclose(layers.values, expected, rtol=0, atol=1e-15)
    np.testing.assert_allclose(layers.segment_error, 0, atol=1e-14)
    np.testing.assert_allclose(layers.completeness_error, result.completeness_error, atol=1e-15)


def test_heads_sum_their_sources_and_leave_everything_else(result):
    heads = result.by_head()
    assert heads.segments[:5] == ("embed", "pos_embed", "L0.H0", "L0.H1", "L0.attn_bias")
    place = heads.segments.index("L1.H1")
    sources = [i for i, label in enumerate(result.segments) if label.startswith("L1.H1<")]
    np.testing.assert_allclose(heads.values[:, place], result.values[:, sources].sum(1), atol=1e-15)
    for label in ("embed", "L1.mlp", "norm_bias"):
        column = result.values[:, result.segments.index(label)]
        assert_identical(heads.values[:, heads.segments.index(label)], column)
    for layers in (heads.by_layer(), result.by_layer()):
        np.testing.assert_allclose(layers.values, result.by_layer().values, atol=1e-15)


def test_the_heads_of_a_model_sum_to_its_layers(toy_model):
    model = toy_model("gpt2", dtype="float64")
    text, answer = "w17 w42 w5", " w9 w30"
    heads = direct_logit_attribution(model, text, answer=answer, by="head").by_layer()
    layers = direct_logit_attribution(model, text, answer=answer)
    assert heads.segments == layers.segments
    np.testing.assert_allclose(heads.values, layers.values, atol=1e-10)


def test_coarser_results_are_saved_and_loaded(result, tmp_path):
    layers = result.by_layer()
    loaded = type(layers).load(layers.save(tmp_path / "layers.json"))
    assert_identical(loaded.values, layers.values)
    assert loaded.segments == layers.segments


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.contributors(top=0), "top is the number of components to name, at least 1"),
        (lambda r: r.contributors(target=9), "there is no target 9; rows go from 0 to 3"),
        (lambda r: r.contributors(target="x"), "no target with token 'x'"),
        (lambda r: replace(r, kind="level").contributors(), "is not additive"),
        (lambda r: replace(r, kind="level").by_layer(), "is not additive"),
        (
            lambda r: r.by_head().by_head(),
            'no source segments; use components(…, by="head_source")',
        ),
        (lambda r: make_result().by_head(), "no source segments"),
        (
            lambda r: replace(r, segments=("L0.x", *r.segments[1:])).by_layer(),
            "'L0.x' names no segment",
        ),
        (
            lambda r: replace(r, segments=("L1.H0", *r.segments[1:])).by_layer(),
            "the segments of L1 do not stand side by side",
        ),
    ],
)
def test_bad_input_is_named(result, call, message):
    with pytest.raises(ValueError) as caught:
        call(result)
    assert message in str(caught.value)
