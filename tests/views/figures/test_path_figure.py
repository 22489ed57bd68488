"""The figure of one token's credits under several orders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iglens_tl.views.figures import path_sensitivity_figure
from tests.support.closeness import assert_close_to
from tests.support.results import HOSTILE, make_result


@pytest.fixture
def results():
    first, second = make_result(seed=1), make_result(seed=2)
    sublayers = replace(
        make_result(np.full((4, 7), 0.1)),
        segments=("embed", "L0.attn", "L0.mlp", "L1.attn", "L1.mlp", "L2.attn", "L2.mlp"),
    )
    return {"hidden_states": first, "reverse": second, "sublayers": sublayers}


def test_the_map_has_a_row_for_every_order_and_sums_sublayers(results):
    figure = path_sensitivity_figure(results, target=1)
    [cells] = [trace for trace in figure.data if trace.type == "heatmap"]
    assert_close_to(cells.z[0], results["hidden_states"].values[1])
    assert_close_to(cells.z[1], results["reverse"].values[1])
    assert_close_to(cells.z[2], [0.1, 0.2, 0.2, 0.2])
    assert figure.layout.yaxis.ticktext == ("hidden_states", "reverse", "sublayers")
    axis = figure.layout.coloraxis
    assert axis.cmax == -axis.cmin == np.abs(np.array(cells.z)).max()


def test_the_bars_span_the_range_of_every_layer_and_the_marks_stand_in_it(results):
    figure = path_sensitivity_figure(results)
    [bars] = [trace for trace in figure.data if trace.type == "bar"]
    [cells] = [trace for trace in figure.data if trace.type == "heatmap"]
    credits = np.array(cells.z)
    assert_close_to(bars.base, credits.min(0))
    assert_close_to(np.add(bars.base, bars.y), credits.max(0))
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert [mark.name for mark in marks] == list(results)
    for mark, line in zip(marks, credits, strict=True):
        assert_close_to(mark.y, line)
        assert [round(x) for x in mark.x] == [0, 1, 2, 3]


def test_tokens_are_escaped_and_unknown_targets_are_named(results):
    hostile = {HOSTILE: make_result(tokens=(HOSTILE, "b"))}
    assert "<img" not in str(path_sensitivity_figure(hostile).to_plotly_json())
    with pytest.raises(ValueError, match="no target with token 'x'"):
        path_sensitivity_figure(results, target="x")
