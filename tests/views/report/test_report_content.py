"""What a report holds is what the lenses measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iglens_tl.results import Target, Text
from iglens_tl.results.onset import onset_index
from iglens_tl.views.report.arrays import ArrayPool
from iglens_tl.views.report.content import report_content
from iglens_tl.views.report.heads import N_HEADS, N_SOURCES
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.reports import TOKENS, decode, make_heads, make_lens, make_lenses
from tests.support.results import HOSTILE, make_result


def test_every_number_of_every_lens_and_value_is_there():
    results = make_lenses()
    content = report_content(results)
    by_name = {lens["name"]: lens for lens in content["lenses"]}
    assert list(by_name) == ["ig_lens", "logit_lens", "tuned_lens", "direct_logit_attribution"]
    for result in results:
        lens = by_name[result.lens]
        value = result.provenance.options.get("value", "logit")
        measure = lens["measures"][value]
        assert lens["segments"] == list(result.segments)
        assert (lens["kind"], measure["unit"]) == (result.kind, result.unit)
        for name in ("levels", "baseline", "final"):
            assert_close_to(decode(content, measure[name]), getattr(result, name), tolerance=1e-6)
        assert_identical(decode(content, measure["onsets"]), onset_index(result))
        if result.additive:
            assert_close_to(decode(content, measure["values"]), result.values, tolerance=1e-6)
        else:
            assert "values" not in measure, "the values of a level lens are its levels"
        for name, numbers in result.statistics.items():
            assert_close_to(decode(content, lens["statistics"][name]), numbers, tolerance=1e-6)


def test_ranks_and_most_probable_tokens_are_there_by_id():
    result = make_lens("logit_lens", "prob")
    content = report_content([result])
    [lens] = content["lenses"]
    assert_identical(decode(content, lens["ranks"]), result.ranks)
    assert_close_to(decode(content, lens["top"]["probs"]), result.top.probs, tolerance=1e-6)
    places = decode(content, lens["top"]["tokens"])
    ids = np.vectorize(lambda place: content["tokens"][place][0])(places)
    assert_identical(ids, result.top.ids)
    assert (1, HOSTILE, HOSTILE) in [tuple(entry) for entry in content["tokens"]]


def test_the_values_stand_in_the_order_asked_for():
    content = report_content([make_lenses()[-1], *make_lenses()])
    assert [value["name"] for value in content["values"]] == ["prob", "logprob", "logit"]
    assert content["values"][0]["label"] == "probability"
    dla = next(lens for lens in content["lenses"] if lens["name"] == "direct_logit_attribution")
    assert list(dla["measures"]) == ["logit"]


def test_equal_arrays_are_kept_once():
    pool = ArrayPool()
    numbers = np.random.default_rng(0).normal(size=(3, 4))
    assert pool.add(numbers) == pool.add(numbers.copy()) == pool.add(numbers.astype(np.float32))
    assert pool.add(numbers.T) != pool.add(numbers)
    assert pool.add(np.array([0, 65535])) != pool.add(np.array([0, 65536]))
    assert [entry["type"] for entry in pool.entries] == ["f4", "f4", "u2", "u4"]
    with pytest.raises(ValueError, match="at least 0, got -1"):
        pool.add(np.array([2, -1]))


def test_a_target_knows_its_place_in_the_text_and_a_candidate_has_none():
    result = make_result(tokens=("a", "b"))
    content = report_content([result])
    assert [target["place"] for target in content["targets"]] == [1, 2]
    other = replace(result, targets=(result.targets[0], Target(0, 1, 77, "other")))
    candidates = report_content([other])["targets"]
    assert [target["place"] for target in candidates] == [1, None]
    # Two ids may print alike, and a continuation may stand at the place of its first token.
    alike = replace(result, targets=(Target(0, 0, 9, "a"), Target(0, 1, 2, "b and more")))
    assert [t["place"] for t in report_content([alike])["targets"]] == [None, None]


def test_a_batch_gives_one_text():
    result = make_result(tokens=("a", "b", "c"))
    text = Text((5, 6), ("x", "y"))
    batch = replace(
        result,
        texts=(*result.texts, text),
        targets=(*result.targets[:2], Target(1, 0, 6, "y")),
    )
    content = report_content([batch], prompt=1)
    assert [content["tokens"][token][:2] for token in content["text"]] == [(5, "x"), (6, "y")]
    [lens] = content["lenses"]
    levels = decode(content, lens["measures"]["probability"]["levels"])
    assert_close_to(levels, result.levels[2:], tolerance=1e-6)


def test_the_largest_heads_with_their_sources_are_exact():
    heads = make_heads(n_layers=4, n_heads=5)
    content = report_content([make_lens("ig_lens", "prob")], heads=heads)
    held = content["heads"]
    summed = heads.by_head().to_frame()
    labels = [name for name in summed.columns if ".H" in name]
    for row in range(len(TOKENS)):
        expected = summed.iloc[row][labels].astype(float)
        largest = expected.abs().sort_values(ascending=False, kind="stable").index[:N_HEADS]
        names = [held["labels"][place] for place in decode(content, held["heads"])[row]]
        assert names == list(largest)
        credits = decode(content, held["credits"])[row]
        np.testing.assert_allclose(credits, expected[largest], rtol=1e-5, atol=1e-8)
        sources = decode(content, held["sources"])[row]
        of_source = decode(content, held["source_credits"])[row]
        assert sources.shape == (N_HEADS, min(N_SOURCES, len(TOKENS)))
        np.testing.assert_allclose(of_source.sum(1), credits, atol=1e-6)
        for place, name in enumerate(names):
            for source, credit in zip(sources[place], of_source[place], strict=True):
                column = heads.segments.index(f"{name}<pos {source}")
                size = float(np.abs(heads.values[row]).max())
                assert_close_to(credit, heads.values[row, column], tolerance=1e-6, size=size)


def test_the_parts_of_a_target_add_up_and_so_do_the_positions():
    heads = make_heads()
    content = report_content([make_lens("ig_lens", "prob")], heads=heads)
    held = content["heads"]
    sums = decode(content, held["parts"]["sums"])
    assert held["parts"]["names"] == ["embedding", "heads", "biases and rest", "MLPs"]
    np.testing.assert_allclose(sums.sum(1), heads.sums, atol=1e-6)
    together = decode(content, held["together"])
    np.testing.assert_allclose(together.sum(1), sums[:, 1], atol=1e-6)


def test_details_can_be_left_out():
    content = report_content(make_lenses(), with_top=False, with_statistics=False)
    for lens in content["lenses"]:
        assert "top" not in lens
        assert lens["statistics"] == {}


def test_values_of_different_tokens_stand_beside_each_other_under_their_tokens():
    pairs = ([" Hanoi", " Paris"], [" Hanoi", 7])
    results = [
        _with_options(make_lens("a", "logit"), value="logit_difference", value_tokens=pair)
        for pair in pairs
    ]
    content = report_content(results)
    labels = [value["label"] for value in content["values"]]
    assert labels == ["logit difference ␣Hanoi − ␣Paris", "logit difference ␣Hanoi − id 7"]
    assert len(content["lenses"][0]["measures"]) == 2


def _with_options(data, **options):
    provenance = replace(data.provenance, options={**data.provenance.options, **options})
    return replace(data, provenance=provenance)


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ([], {}, "there is no result to report"),
        ([make_lens("a", "prob")], {"prompt": 2}, "no target in prompt 2"),
        (
            [make_lens("a", "prob"), make_lens("b", "prob", tokens=("x", "y"))],
            {},
            "the results of b and a are for different texts or targets",
        ),
        (
            [make_lens("a", "prob"), make_lens("a", "logit", n_layers=5)],
            {},
            "the results of a have different segments",
        ),
        (
            [make_lens("a", "prob"), _with_options(make_lens("a", "prob"), estimator="gradient")],
            {},
            "a measured the probability twice, with .*gradient.*; write a page for each",
        ),
        (
            [make_lens("a", "prob")],
            {"heads": make_lens("components", "prob")},
            "has no source segments; use components",
        ),
        (
            [make_lens("a", "prob")],
            {"heads": make_heads(("x", "y"))},
            "the results of components and a are for different texts or targets",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(results, options, message):
    with pytest.raises(ValueError, match=message):
        report_content(results, **options)
