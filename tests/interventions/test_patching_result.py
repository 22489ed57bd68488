"""What activation patching returns: effects, tables and the map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens, write_html
from iglens_tl.results import Target, Text
from iglens_tl.results.agreement import pairwise_agreement
from iglens_tl.views.figures import patching_heatmap
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.patches import ANSWER, CLEAN, OTHER_END, patch
from tests.support.results import HOSTILE


@pytest.fixture(scope="module")
def denoised(toy):
    return patch(toy)


def test_effects_are_the_changes_of_the_curve_at_the_last_position(toy, denoised):
    effects = denoised.to_effects()
    assert effects.segments == ("L0", "L1", "L2")
    assert_close_to(effects.baseline[0], denoised.corrupted_value, dtype=torch.float32)
    assert_identical(effects.final[0], denoised.clean_value)
    assert_identical(effects.levels[0], denoised.values[:, -1])
    change = effects.final[0] - effects.baseline[0]
    assert effects.values.sum() == pytest.approx(change, abs=1e-12)
    assert abs(effects.completeness_error).max() < 1e-12
    assert effects.provenance.options["direction"] == "denoising"
    credits = ig_lens(toy, CLEAN, targets=[ANSWER])
    assert effects.targets == credits.targets
    assert effects.texts == credits.texts
    assert pairwise_agreement([credits, effects])["targets"].tolist() == [1]


def test_effects_begin_with_the_embedding_where_the_last_tokens_differ(toy):
    result = patch(toy, corrupted=OTHER_END)
    before = patch(toy, corrupted=OTHER_END, site="resid_pre")
    assert_close_to(result.embed_value, before.values[0, -1], dtype=torch.float32)
    # With the embedding of the only token that differs, everything is the clean run.
    assert_close_to(result.embed_value, result.clean_value, dtype=torch.float32)
    effects = result.to_effects()
    assert_identical(effects.baseline[0], result.embed_value)
    assert_close_to(effects.values, 0, dtype=torch.float32, size=abs(result.clean_value))


def test_effects_of_noising_are_what_is_lost(toy, denoised):
    result = patch(toy, direction="noising")
    effects = result.to_effects()
    size = abs(result.clean_value)
    assert_close_to(effects.baseline[0], 0, dtype=torch.float32, size=size)
    lost = denoised.clean_value - denoised.corrupted_value
    assert_close_to(effects.final[0], lost, dtype=torch.float32, size=size)
    assert_close_to(effects.levels[0], result.clean_value - result.values[:, -1])
    assert "lost" in effects.provenance.notes[-1]


def test_effects_of_other_sites_are_an_error(toy):
    result = patch(toy, site="attn_out")
    with pytest.raises(ValueError, match="attn_out was replaced.*site='resid_post'"):
        result.to_effects()


def test_tables_name_positions_by_both_prompts(denoised):
    wide, tidy = denoised.to_frame(), denoised.to_frame(tidy=True)
    assert wide.shape == (4, 3)
    assert [token.strip() for token in wide.index[1][1:]] == ["w17", "w70"]
    assert_identical(wide.loc[1, "L1"].item(), denoised.values[1, 1])
    assert len(tidy) == 12
    row = tidy[(tidy["layer"] == 1) & (tidy["position"] == 1)].iloc[0]
    assert_identical(row["value"], denoised.values[1, 1])
    assert_identical(row["recovered"], denoised.recovered[1, 1])
    assert row["clean_token"] != row["corrupted_token"]
    assert (row["site"], row["direction"], row["unit"]) == (
        "resid_post",
        "denoising",
        "nats",
    )


def test_results_are_immutable_and_say_what_they_hold(denoised):
    with pytest.raises(ValueError, match="read-only"):
        denoised.values[0, 0] = 1
    assert "denoising at resid_post" in repr(denoised)
    assert "3 layers × 4 positions in nats" in repr(denoised)
    assert denoised.provenance.options["site"] == "resid_post"
    assert denoised.target == Target(0, 3, ANSWER, denoised.target.token)


@pytest.mark.parametrize("show", ["recovered", "value"])
def test_the_map_has_a_cell_for_every_layer_and_position(denoised, show, tmp_path):
    figure = denoised.figure(show=show)
    numbers = denoised.recovered if show == "recovered" else denoised.values
    assert_identical(np.array(figure.data[0].z), numbers)
    labels = figure.layout.xaxis.ticktext
    assert [position for position, label in enumerate(labels) if "|" in label] == [1]
    scale = figure.layout.coloraxis
    if show == "recovered":
        assert scale.cmin == -scale.cmax
        assert scale.cmax >= 1
    else:
        assert scale.cmin is None
        chances = replace(denoised, unit="probability").figure(show="value").layout.coloraxis
        assert (chances.cmin, chances.cmax) == (0, 1)
    assert write_html(figure, tmp_path / "map.html").stat().st_size > 1000


def test_tokens_cannot_be_markup_in_the_map(denoised):
    text = replace(denoised.clean, tokens=(HOSTILE,) * 4)
    hostile = replace(denoised, clean=text, target=replace(denoised.target, token=HOSTILE))
    figure = patching_heatmap(hostile, title=HOSTILE)
    assert "<img" not in figure.to_json().replace("\\u003c", "<")


def test_an_unknown_map_is_an_error(denoised):
    with pytest.raises(ValueError, match="show must be one of recovered, value, got 'rank'"):
        denoised.figure(show="rank")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "up"}, "unknown direction 'up'; choose one of denoising, noising"),
        ({"clean": Text((1,), ("a",))}, r"the prompts and the values have \[1, 4\] positions"),
        ({"clean_value": 0.5, "corrupted_value": 0.5}, "about the same value"),
    ],
)
def test_parts_that_do_not_fit_one_another_are_errors(denoised, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(denoised, **changes)
