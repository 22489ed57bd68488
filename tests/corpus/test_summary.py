"""The summary of a corpus against pandas, and its intervals against resampling row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.corpus import Corpus, resampling
from iglens_tl.corpus import summary as module
from iglens_tl.corpus.resampling import draw, medians, ratios
from tests.support.corpora import rows_of

N_RESAMPLES = 200


@pytest.fixture(scope="module")
def rows(measured):
    frame = pd.DataFrame(rows_of(measured))
    frame["all"] = "all"
    counts = frame["token_id"].map(frame["token_id"].value_counts()) * 1e6 / len(frame)
    edges = [-np.inf, 10, 100, 1000, 10_000, np.inf]
    names = ["below 10", "10 to 100", "100 to 1,000", "1,000 to 10,000", "10,000 and more"]
    frame["frequency"] = pd.cut(counts, edges, right=False, labels=names).astype(str)
    frame["probability"] = pd.cut(
        np.exp(frame["logprob"].astype(float)),
        [-np.inf, 0.01, 0.1, 0.5, 0.9, 0.99, np.inf],
        right=False,
        labels=[
            "below 0.01",
            "0.01 to 0.1",
            "0.1 to 0.5",
            "0.5 to 0.9",
            "0.9 to 0.99",
            "0.99 and more",
        ],
    ).astype(str)
    frame["surprise"] = pd.cut(
        -frame["logprob"].astype(float) / np.log(2),
        [-np.inf, 0.1, 1, 3, 6, 10, np.inf],
        right=False,
        labels=["below 0.1", "0.1 to 1", "1 to 3", "3 to 6", "6 to 10", "10 and more"],
    ).astype(str)
    ranges = {0: "0", 1: "1", 2: "2 to 3", 3: "2 to 3"}
    position = frame["position"].map(lambda number: ranges.get(number, "4 to 7"))
    position[frame["position"] > 7] = "8 to 15"
    frame["position_group"] = position
    frame["genre"] = frame["genre"].fillna("other")
    return frame


@pytest.fixture(scope="module")
def found(measured):
    with Corpus.open(measured) as corpus:
        return corpus.summary(n_resamples=N_RESAMPLES, seed=3)


GROUPINGS = ["all", "kind", "frequency", "position", "probability", "surprise", "genre"]


@pytest.mark.parametrize("by", GROUPINGS)
def test_every_number_of_every_group_is_what_pandas_finds(found, rows, by):
    groups = rows["position_group" if by == "position" else by]
    of_credits = found.credits[
        (found.credits["lens"] == "ig_lens") & (found.credits["grouping"] == by)
    ].set_index(["group", "segment"])
    onsets = found.onsets[found.onsets["grouping"] == by].set_index(["group", "segment"])
    assert set(of_credits.index.get_level_values(0)) == set(groups)
    segments = list(dict.fromkeys(of_credits.index.get_level_values(1)))
    for group, of_group in rows.groupby(groups):
        credits = np.array(of_group["credits"].tolist(), dtype=float)
        expected = {
            "targets": np.full(len(segments), len(of_group)),
            "mean": credits.mean(0),
            "median": np.median(credits, 0),
            "share": abs(credits).sum(0) / abs(credits).sum(),
            "negative": (credits < 0).mean(0),
            "destroyed": np.where(credits < 0, -credits, 0).mean(0),
        }
        for name, numbers in expected.items():
            actual = of_credits.loc[group].loc[segments, name].to_numpy()
            np.testing.assert_allclose(actual, numbers, rtol=1e-5, atol=1e-9)
        shares = [(of_group["onset"] == place).mean() for place in range(len(segments))]
        actual = onsets.loc[group].loc[segments, "share"].to_numpy()
        np.testing.assert_allclose(actual, shares, atol=1e-12)


def test_further_lenses_have_their_numbers_over_all_targets(found, rows):
    by_lens = dict(list(found.credits.groupby("lens", sort=False)))
    assert list(by_lens) == ["ig_lens", "logit_lens", "by head"]
    levels = np.array(rows["logit_lens"].tolist(), dtype=float)
    np.testing.assert_allclose(by_lens["logit_lens"]["mean"], levels.mean(0), rtol=1e-5, atol=1e-9)
    assert by_lens["logit_lens"]["share"].isna().all()
    credits = np.array(rows["by head"].tolist(), dtype=float)
    np.testing.assert_allclose(by_lens["by head"]["mean"], credits.mean(0), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(by_lens["by head"]["share"].sum(), 1, atol=1e-9)


def test_a_wide_lens_is_summed_in_several_queries(measured, found, monkeypatch):
    monkeypatch.setattr(module, "_SEGMENTS_AT_ONCE", 2)
    with Corpus.open(measured) as corpus:
        again = corpus.summary(n_resamples=N_RESAMPLES, seed=3)
    pd.testing.assert_frame_equal(again.credits, found.credits, rtol=1e-6, atol=1e-9)
    pd.testing.assert_frame_equal(again.onsets, found.onsets, rtol=1e-6, atol=1e-9)


def test_errors_have_the_quantiles_of_their_sizes(found, rows):
    for row in found.errors.to_dict("records"):
        column = "error" if row["lens"] == "ig_lens" else "by head_error"
        sizes = rows[column].abs()
        quantiles = [row[str(q)] for q in (0.5, 0.9, 0.99, 0.999)]
        np.testing.assert_allclose(
            quantiles, sizes.quantile([0.5, 0.9, 0.99, 0.999]), rtol=1e-5, atol=1e-12
        )
        assert row["largest"] == pytest.approx(sizes.max(), rel=1e-6)
    assert found.errors["lens"].tolist() == ["ig_lens", "by head"]


def test_intervals_are_those_of_texts_drawn_again_and_again(found, rows):
    texts = sorted(set(rows["text"]))
    drawn = draw(len(texts), N_RESAMPLES, 3)
    assert drawn.sum(1).tolist() == [len(texts)] * N_RESAMPLES
    means, shares = [], []
    for weights in drawn:
        sample = np.repeat(
            np.array(rows["credits"].tolist(), dtype=float),
            rows["text"].map(dict(zip(texts, weights, strict=True))).astype(int),
            axis=0,
        )
        means.append(sample.mean(0))
        shares.append(abs(sample).sum(0) / abs(sample).sum())
    of_all = found.credits.query("lens == 'ig_lens' and grouping == 'all'")
    for name, samples in (("mean", means), ("share", shares)):
        for place, end in enumerate(("low", "high")):
            expected = np.quantile(samples, (0.025, 0.975)[place], axis=0)
            np.testing.assert_allclose(of_all[f"{name}_{end}"], expected, rtol=1e-5, atol=1e-9)
    assert (of_all["median_low"] <= of_all["median"]).all()
    assert (of_all["median"] <= of_all["median_high"]).all()


def test_a_group_of_a_single_text_has_no_interval(found):
    one = found.credits["group"] == "of one text"
    ends = found.credits.filter(regex="_(low|high)$")
    assert ends[one].isna().all(axis=None)
    several = (found.credits["grouping"] == "genre") & ~one
    assert ends[several].notna().all(axis=None)


def test_many_texts_are_drawn_in_groups_that_leave_the_numbers_as_they_are(
    measured, found, monkeypatch
):
    for each in (module, resampling):
        monkeypatch.setattr(each, "UNITS", 4)
    monkeypatch.setattr(module._Units, "expression", "text % 4")
    with Corpus.open(measured) as corpus:
        grouped = corpus.summary(n_resamples=N_RESAMPLES)
    for name in ("mean", "median", "share", "negative", "destroyed"):
        np.testing.assert_allclose(
            grouped.credits[name], found.credits[name], rtol=1e-6, atol=1e-12
        )
    wide = grouped.credits.query("lens == 'ig_lens' and grouping == 'all'")
    assert (wide["mean_low"] <= wide["mean"]).all() and (wide["mean"] <= wide["mean_high"]).all()


def test_medians_of_too_many_targets_are_of_whole_texts_at_random(measured, rows, monkeypatch):
    monkeypatch.setattr(module, "_MOST_NUMBERS", 700)
    with Corpus.open(measured) as corpus:
        sampled = corpus.summary(by=[], n_resamples=20)
    sizes = rows.groupby("text").size().to_numpy()
    reachable = {0}
    for size in sizes:
        reachable |= {total + size for total in reachable}
    assert 0 < sampled.median_targets < len(rows) and sampled.median_targets in reachable
    assert sampled.credits["targets"].eq(len(rows)).all()


def test_a_table_has_a_row_for_each_group(found):
    table = found.to_frame("share", by="kind")
    assert (
        table.columns.tolist()
        == found.credits.query("lens == 'ig_lens'")["segment"].unique().tolist()
    )
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(found.to_frame("onset").sum(axis=1), 1, atol=1e-9)
    assert found.to_frame(lens="by head").shape[0] == 1
    with pytest.raises(
        ValueError, match="there is no number 'credit'; choose onset, targets, mean"
    ):
        found.to_frame("credit")
    with pytest.raises(ValueError, match="lens 'by head' is not divided by 'kind'"):
        found.to_frame(by="kind", lens="by head")


def test_a_grouping_that_is_none_is_refused(measured):
    with (
        Corpus.open(measured) as corpus,
        pytest.raises(ValueError, match="divided by 'year'; choose kind, .*, surprise, genre"),
    ):
        corpus.summary(by=["kind", "year"])


def test_a_notebook_shows_the_numbers_and_no_markup_of_a_group(found):
    shown = found._repr_html_()
    assert "<script" not in shown and "mean credit by kind of token" in shown
    assert "&lt;" in shown  # the name of a group is hostile


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.one_of(
                st.just(0.0), st.floats(-1, 1, allow_subnormal=False), st.sampled_from([-0.5, 0.5])
            ),
        ),
        min_size=1,
        max_size=300,
    ),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_median_and_its_interval_stand_where_half_of_the_targets_are_below(pairs, seed):
    units, values = (np.array(part) for part in zip(*pairs, strict=True))
    _, units = np.unique(units, return_inverse=True)
    drawn = draw(int(units.max()) + 1, 50, seed)
    middle, low, high = medians(values, units, drawn)
    assert middle == np.median(values)
    if len(set(units)) == 1:
        assert np.isnan([low, high]).all()
        return
    samples = [np.repeat(values, weights[units].astype(int)) for weights in drawn]
    lower = [np.quantile(each, 0.5, method="lower") for each in samples if len(each)]
    higher = [np.quantile(each, 0.5, method="higher") for each in samples if len(each)]
    # Bins of up to 300 values hold no more than a fifteenth of them away from the middle.
    gap = 1e-12 + _spread(values)
    assert np.quantile(lower, 0.025) - gap <= low <= np.quantile(higher, 0.025) + gap
    assert np.quantile(lower, 0.975) - gap <= high <= np.quantile(higher, 0.975) + gap


def _spread(values):
    """Return the largest distance of values that are a fifteenth of all ranks apart."""
    ranked = np.sort(values)
    step = max(1, -(-len(ranked) // 15))
    return float((ranked[step:] - ranked[:-step]).max()) if len(ranked) > step else 2.0


def test_an_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        sizes = rng.integers(1, 9, size=40)
        levels = rng.normal(size=40)
        sums = (levels * sizes)[:, None, None]
        _, ends = ratios(sums, sizes[:, None].astype(float), draw(40, 300, int(rng.integers(1e6))))
        hits += bool(ends[0, 0, 0] <= 0 <= ends[1, 0, 0])
    assert 0.87 <= hits / 200 <= 0.99
