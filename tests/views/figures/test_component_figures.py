"""Figures of components as plotly data: what is summed where, scales, escaping and bad input."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from iglens_tl import write_html
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.figures import comparison_figure
from iglens_tl.views.figures.comparison import merge_segments
from tests.support.closeness import assert_close_to
from tests.support.results import HOSTILE, make_component_result, make_result

TARGET = 2


@pytest.fixture
def result():
    return make_component_result()


def cells(figure) -> dict[tuple[str, str], float | None]:
    """Return the map's numbers by the labels of row and column."""
    trace = figure.data[0]
    return {
        (row, column.replace("<br>", " ")): value
        for row, line in zip(figure.layout.yaxis.ticktext, trace.z, strict=True)
        for column, value in zip(figure.layout.xaxis.ticktext, line, strict=True)
    }


def test_the_head_map_has_heads_to_the_right_and_layers_upwards(result):
    figure = result.head_heatmap(TARGET)
    assert figure.layout.yaxis.ticktext == ("embed", "L0", "L1", "norm_bias")
    columns = [label.replace("<br>", " ") for label in figure.layout.xaxis.ticktext]
    assert columns == ["H0", "H1", "attention bias", "MLP", "all"]
    found = cells(figure)
    credits = dict(zip(result.segments, result.values[TARGET], strict=True))
    heads = dict(zip(result.by_head().segments, result.by_head().values[TARGET], strict=True))
    layers = dict(zip(result.by_layer().segments, result.by_layer().values[TARGET], strict=True))
    assert_close_to(found["L1", "H0"], heads["L1.H0"])
    assert found["L0", "MLP"] == credits["L0.mlp"]
    assert found["L0", "attention bias"] == credits["L0.attn_bias"]
    assert found["embed", "H0"] is None and found["norm_bias", "MLP"] is None
    for layer, credit in layers.items():
        assert_close_to(found[layer, "all"], credit)
    total = sum(value for (_, column), value in found.items() if column == "all")
    assert_close_to(total, result.sums[TARGET])


def test_the_head_map_of_heads_is_that_of_their_sources(result):
    of_sources, of_heads = cells(result.head_heatmap(0)), cells(result.by_head().head_heatmap(0))
    assert of_sources.keys() == of_heads.keys()
    for place, value in of_heads.items():
        if value is not None:
            assert_close_to(of_sources[place], value)


def test_neurons_stand_in_the_column_of_their_mlp():
    parts = ("embed", "L0.H0", "L0.mlp.n7", "L0.mlp.rest", "L0.mlp_bias")
    credits = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    result = replace(make_result(credits, tokens=("a",)), segments=parts)
    assert cells(result.head_heatmap(0))["L0", "MLP"] == 12


def test_maps_are_white_at_zero_and_symmetric(result):
    for figure in (result.head_heatmap(0), result.source_heatmap(0)):
        axis = figure.layout.coloraxis
        largest = max(abs(value) for value in cells(figure).values() if value is not None)
        assert axis.cmax == -axis.cmin == largest
        assert axis.colorscale[1] == (0.5, "#ffffff")


def test_the_source_map_has_the_tokens_up_to_the_position_that_is_read_out(result):
    figure = result.source_heatmap(TARGET)
    assert figure.layout.xaxis.ticktext == ("&lt;s&gt;", "␣Hanoi", ".")
    assert figure.layout.yaxis.ticktext == ("L0", "L1", "all")
    credits = dict(zip(result.segments, result.values[TARGET], strict=True))
    for position in range(3):
        by_layer = [
            sum(credits[f"L{layer}.H{head}<pos {position}"] for head in range(2))
            for layer in range(2)
        ]
        column = [line[position] for line in figure.data[0].z]
        assert_close_to(column, [*by_layer, sum(by_layer)])


def test_the_source_map_by_head_names_the_largest_heads_and_sums_the_others(result):
    every = result.source_heatmap(TARGET, by="head")
    assert every.layout.yaxis.ticktext == ("L0.H0", "L0.H1", "L1.H0", "L1.H1", "all")
    some = result.source_heatmap(TARGET, by="head", top=2)
    labels = some.layout.yaxis.ticktext
    assert labels[-2:] == ("other heads", "all")
    size = {
        label: np.abs(line).sum()
        for label, line in zip(every.layout.yaxis.ticktext, every.data[0].z, strict=True)
    }
    named = sorted(sorted(size.keys() - {"all"}, key=lambda label: -size[label])[:2])
    assert list(labels[:2]) == named
    assert_close_to(some.data[0].z[-1], every.data[0].z[-1])
    assert_close_to(np.sum(some.data[0].z[:-1], axis=0), some.data[0].z[-1])


def test_the_hover_of_a_cell_says_what_was_summed(result):
    text = result.head_heatmap(TARGET).data[0].hovertext[2][1]
    places = [i for i, label in enumerate(result.segments) if label.startswith("L1.H1<")]
    assert "<b>L1, H1</b> · components" in text
    assert f"{result.values[TARGET, places].sum():+.6f} probability, the sum of 4:" in text
    assert "L1.H1&lt;pos 1 ␣Hanoi" in text
    text = result.source_heatmap(TARGET).data[0].hovertext[2][1]
    assert "<b>all, ␣Hanoi at position 1</b>" in text


def test_a_waterfall_of_the_largest_has_one_bar_for_the_others(result):
    figure = result.waterfall(TARGET, top=3)
    trace = figure.data[0]
    credits = result.values[TARGET]
    named = sorted(np.argsort(-np.abs(credits))[:3])
    assert list(trace.y[1:4]) == [credits[place] for place in named]
    assert trace.x[4] == f"{len(credits) - 3} others"
    assert_close_to(sum(trace.y[1:5]), credits.sum())
    assert_close_to(sum(trace.y[:-1]), result.final[TARGET])
    for label, place in zip(trace.x[1:4], named, strict=True):
        assert label.startswith(result.segments[place].replace("<", "&lt;"))
    assert "others" not in str(result.waterfall(TARGET).data[0].x)


def flows(figure) -> list[tuple[str, bool, float, float]]:
    """Return the label, sign, width and left end of every flow of a Sankey diagram."""
    found = []
    for trace in figure.data:
        label, _, effect = trace.text.rpartition("<br>")
        if effect.startswith(("raises by ", "lowers by ")):
            name = label.rsplit(" ", 1)[0]
            width = trace.y[-1] - trace.y[0]
            found.append((name, effect.startswith("raises"), width, trace.x[0]))
    return found


def test_flows_are_as_wide_as_their_credits(result):
    figure = result.sankey(TARGET, top=4)
    credits = dict(zip(result.segments, result.values[TARGET], strict=True))
    named = {name: (up, width) for name, up, width, _ in flows(figure)}
    largest = sorted(credits, key=lambda label: -abs(credits[label]))[:4]
    scale = named[_shown(result, largest[0])][1] / abs(credits[largest[0]])
    for label in largest:
        up, width = named[_shown(result, label)]
        assert up == (credits[label] > 0)
        assert_close_to(width, scale * abs(credits[label]))
    into_layers = min(x for *_, x in flows(figure))
    positive, negative = (
        sum(c for c in result.values[TARGET] * sign if c > 0) * scale for sign in (1, -1)
    )
    for wanted, total in ((True, positive), (False, negative)):
        final = [w for _, up, w, x in flows(figure) if up == wanted and x > into_layers]
        assert_close_to(sum(final), total)


def _shown(result, label: str) -> str:
    """Return a label as figures show it, with the token of a source."""
    source = parse_segment(label).source
    shown = label.replace("<", "&lt;")
    return shown if source is None else f"{shown} {('&lt;s&gt;', '␣Hanoi', '.', '⏎')[source]}"


def test_layers_follow_one_another_upwards_and_nothing_overlaps(result):
    figure = result.sankey(TARGET, top=6)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1] == 0
    nodes = figure.layout.annotations
    middle = [node for node in nodes if 300 < node.x < 600]
    assert [node.text.split()[0] for node in sorted(middle, key=lambda node: -node.y)] == [
        *("baseline", "embed", "L0", "L1", "norm_bias")
    ]
    boxes = [trace for trace in figure.data if len(trace.x) == 4]
    assert len(boxes) == len(nodes)
    for left in {box.x[0] for box in boxes}:
        column = sorted((box.y[0], box.y[-1]) for box in boxes if box.x[0] == left)
        assert column[0][0] >= 0 and column[-1][1] <= figure.layout.yaxis.range[0]
        assert all(below[0] - above[1] > 10 for above, below in pairwise(column))


def test_the_others_of_a_layer_flow_together_and_the_sum_is_said(result):
    figure = result.sankey(TARGET, top=1)
    labels = [node.text for node in figure.layout.annotations]
    others = [label for label in labels if "others" in label]
    # The largest is one of the embedding's two parts; the only other one needs no "others".
    assert result.contributors(top=1, target=TARGET)["part"][0] in ("embed", "pos_embed")
    assert [label.split(":")[0] for label in others] == ["L1", "L0"]
    layers = dict(zip(result.by_layer().segments, result.by_layer().values[TARGET], strict=True))
    for layer in ("embed", "L0", "L1", "norm_bias"):
        assert f"{layer} {layers[layer]:+.4f}" in labels
    assert f"final {result.final[TARGET]:.4f}" in labels
    credits = result.values[TARGET]
    said = figure.layout.title.subtitle.text
    assert f"+ {credits[credits > 0].sum():.4f} raised" in said
    assert f"− {-credits[credits < 0].sum():.4f} lowered" in said


def test_a_layer_without_components_flows_by_itself():
    figure = make_result(np.array([[0.3, -0.1, 0.2]]), tokens=("a",)).sankey(0)
    labels = [node.text.split()[0] for node in figure.layout.annotations]
    assert labels == ["final", "L1", "L0", "embed", "baseline"]


def test_tokens_and_labels_are_escaped_everywhere():
    result = make_component_result(tokens=(HOSTILE, "<b>x</b>", "$y$", "\n"))
    figures = [
        result.head_heatmap(1),
        result.source_heatmap(3),
        result.source_heatmap(3, by="head"),
        result.waterfall(1),
        result.sankey(1),
        result.heatmap(),
    ]
    for figure in figures:
        text = str(figure.to_plotly_json())
        assert not re.search("<(?!b>|/b>|br>)[a-z/]", text)
        assert "<b>x" not in text
        assert "$y$" not in text
        assert "<pos" not in text


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda r: make_result().head_heatmap(0), "no head segments; use components(…, by="),
        (lambda r: r.by_head().source_heatmap(0), "no source segments; use components(…, by="),
        (lambda r: r.source_heatmap(0, by="token"), 'by must be "layer" or "head", got \'token\''),
        (lambda r: r.source_heatmap(0, by="head", top=0), "at least 1, got 0"),
        (lambda r: r.waterfall(0, top=0), "at least 1, got 0"),
        (lambda r: r.sankey(0, top=0), "at least 1, got 0"),
        (lambda r: r.head_heatmap(7), "there is no target 7"),
        (lambda r: r.source_heatmap("x"), "no target with token 'x'"),
        (
            lambda r: replace(r, values=0 * r.values).sankey(1),
            "no segment of target 1 has",
        ),
        (lambda r: r.sankey("x"), "no target with token 'x'"),
        (lambda r: replace(r, kind="level").head_heatmap(0), "is not additive"),
        (lambda r: replace(r, kind="level").source_heatmap(0), "is not additive"),
        (lambda r: replace(r, kind="level").sankey(0), "is not additive"),
    ],
)
def test_bad_input_is_named(result, draw, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw(result)


def test_a_comparison_keeps_the_order_of_components(result):
    assert merge_segments([result, result.by_layer()])[:3] == ["embed", "pos_embed", "L0.H0<pos 0"]
    assert merge_segments([result]) == list(result.segments)
    figure = comparison_figure([result, result.by_layer()])
    assert "<pos" not in str(figure.to_plotly_json())


def test_several_figures_share_one_page_and_one_script(result, tmp_path):
    page = write_html([result.waterfall(0), result.head_heatmap(0)], tmp_path / "a.html")
    text = page.read_text()
    assert text.count("data-figure=") == 2
    assert text.count("plotly.js v") == 1
    single = write_html(result.waterfall(0), tmp_path / "b.html").read_text()
    assert abs(len(text) - len(single)) < 100_000
    with pytest.raises(ValueError, match="no figure to write"):
        write_html([], tmp_path / "c.html")
