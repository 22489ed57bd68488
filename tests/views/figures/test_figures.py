"""The figures' data: axes, scales, hover text and escaping."""

from __future__ import annotations

import numpy as np
import pytest

from iglens_tl.views.text import show_blanks, show_token
from tests.support.results import HOSTILE, make_result


def test_the_heatmap_has_tokens_to_the_right_and_segments_upwards():
    figure = make_result().heatmap()
    assert figure.layout.xaxis.ticktext == ("␣Hanoi", ".", "⏎", "␣")
    assert figure.layout.yaxis.ticktext == ("embed", "L0", "L1", "L2")
    assert figure.layout.yaxis.tickvals == (0, 1, 2, 3)
    assert np.shape(figure.data[0].z) == (4, 4)


def test_credits_use_a_symmetric_diverging_scale_and_probabilities_zero_to_one():
    result = make_result()
    credit = result.heatmap().layout.coloraxis
    assert credit.cmin == -credit.cmax == -np.abs(result.values).max()
    level = result.heatmap(show="level").layout.coloraxis
    assert (level.cmin, level.cmax) == (0.0, 1.0)
    logit = make_result(unit="logit").heatmap(show="level").layout.coloraxis
    assert logit.cmin is None


def test_a_cells_hover_says_where_what_and_how_much():
    result = make_result()
    text = result.heatmap().data[0].hovertext[2][1]
    for part in (
        "<b>.</b>  (id 2)",
        "read at position 1",
        "segment <b>L1</b>",
        f"credit {result.values[1, 2]:+.6f} probability",
        f"level after it {result.levels[1, 2]:.6f}",
        f"rank after it {result.ranks[1, 2]}",
        f"{result.top.probs[1, 2, 0]:.4f}",
    ):
        assert part in text


def test_a_result_without_ranks_and_top_tokens_still_has_figures():
    result = make_result(with_top=False)
    assert "rank" not in result.heatmap().data[0].hovertext[0][0]
    assert result.waterfall(0).data[0].measure[-1] == "total"


def test_the_waterfall_ends_at_the_final_value_with_the_rest_as_its_own_bar():
    result = make_result(error=0.25)
    bars = result.waterfall(0).data[0]
    assert bars.x == ("baseline", "embed", "L0", "L1", "L2", "unexplained", "final")
    assert bars.measure == ("absolute", *["relative"] * 5, "total")
    assert bars.y[-2] == pytest.approx(-0.25)
    assert sum(bars.y[:-1]) == pytest.approx(result.final[0], abs=1e-9)
    assert bars.y[-1] == pytest.approx(result.final[0], abs=1e-9)


def test_a_target_is_found_by_row_or_unique_token():
    result = make_result(tokens=("a", "b", "a"))
    assert result.waterfall("b").layout.title.text == result.waterfall(1).layout.title.text
    assert result.waterfall(-1).layout.title.text == result.waterfall(2).layout.title.text
    with pytest.raises(ValueError, match=r"2 targets \(rows \[0, 2\]\) with token 'a'"):
        result.waterfall("a")
    with pytest.raises(ValueError, match="no target with token 'z'; give a row number"):
        result.waterfall("z")
    with pytest.raises(ValueError, match="there is no target 3; rows go from 0 to 2"):
        result.waterfall(3)


def test_bad_figure_options_are_named():
    with pytest.raises(
        ValueError, match="show must be one of value, level, rank for this result, got 'credit'"
    ):
        make_result().heatmap(show="credit")
    with pytest.raises(ValueError, match="no target in prompt 3"):
        make_result().heatmap(prompt=3)
    with pytest.raises(ValueError, match="not additive"):
        make_result(additive=False).waterfall(0)


def test_tokens_are_escaped_everywhere():
    figure = make_result(tokens=(HOSTILE, "<b>x</b>")).heatmap().to_plotly_json()
    assert "<img" not in str(figure)
    assert "<b>x" not in str(figure)


def test_blanks_and_control_characters_are_visible():
    assert show_blanks(" a b\n") == "␣a b⏎"
    assert show_blanks("") == "∅"
    assert show_blanks("\x00\t\r") == "\\x00⇥␍"
    assert show_token("a & <b> $x$") == "a &amp; &lt;b&gt; &#36;x&#36;"
