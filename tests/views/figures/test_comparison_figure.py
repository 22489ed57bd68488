"""Small multiples as plotly data; the browser's view is tested beside the other figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iglens_tl.views.figures import comparison_figure
from iglens_tl.views.figures.comparison import merge_segments
from tests.support.closeness import assert_identical
from tests.support.results import make_result


@pytest.fixture
def results():
    levels = replace(make_result(seed=1, additive=False), lens="logit_lens")
    credits = make_result(seed=2)
    more = replace(make_result(seed=3), lens="more_credits")
    finer = replace(
        make_result(np.full((4, 5), 2.0), unit="logit"),
        lens="finer",
        segments=("embed", "L0.attn", "L0.mlp", "L1", "norm_bias"),
        ranks=None,
        top=None,
    )
    return [levels, credits, more, finer]


def test_every_lens_has_a_map_and_a_line(results):
    figure = comparison_figure(results, target=1)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(maps) == len(lines) == 4
    assert {line.name for line in lines} == {"logit_lens", "ig_lens", "more_credits", "finer"}
    by_name = {line.name: line for line in lines}
    assert_identical(by_name["ig_lens"].y, results[1].levels[1])


def test_lenses_of_one_kind_share_one_scale(results):
    figure = comparison_figure(results)
    axes = [trace.coloraxis for trace in figure.data if trace.type == "heatmap"]
    assert axes[1] == axes[2] != axes[0]
    assert len(set(axes)) == 3
    shared = figure.layout[axes[1]]
    limit = max(np.abs(results[1].values).max(), np.abs(results[2].values).max())
    assert shared.cmax == -shared.cmin == limit
    assert (figure.layout[axes[0]].cmin, figure.layout[axes[0]].cmax) == (0, 1)


def test_segments_of_all_lenses_stand_in_one_order(results):
    segments = merge_segments(results)
    assert segments == ["embed", "L0", "L0.attn", "L0.mlp", "L1", "L2", "norm_bias"]
    figure = comparison_figure(results)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    row = segments.index("L0.attn")
    assert set(maps[1].z[row]) == {None}
    assert set(maps[3].z[row]) == {2.0}


def test_maps_zoom_together(results):
    figure = comparison_figure(results)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    for trace in maps[1:]:
        assert figure.layout[trace.xaxis.replace("x", "xaxis")].matches == "x"
        assert figure.layout[trace.yaxis.replace("y", "yaxis")].matches == "y"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 3}, "has no target in prompt 3"),
        ({"target": 9}, "there is no target 9"),
        ({"target": " Paris"}, "no target with token ' Paris'"),
    ],
)
def test_bad_options_are_named(results, options, message):
    with pytest.raises(ValueError, match=message):
        comparison_figure(results, **options)
