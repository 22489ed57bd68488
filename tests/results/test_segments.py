"""The labels of segments: every label that is written is read back, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iglens_tl import direct_logit_attribution, ig_lens
from iglens_tl.results import segments
from iglens_tl.results.segments import Segment, parse_segment

NUMBER = st.integers(0, 10**6)


@given(NUMBER, NUMBER, NUMBER)
def test_every_written_label_is_read_back(layer, first, second):
    written = {
        segments.layer_label(layer): ("layer", {}),
        segments.attention_label(layer): ("attn", {}),
        segments.head_label(layer, first): ("head", {"head": first}),
        segments.source_label(layer, first, second): ("source", {"head": first, "source": second}),
        segments.attention_bias_label(layer): ("attn_bias", {}),
        segments.mlp_label(layer): ("mlp", {}),
        segments.neuron_label(layer, first): ("neuron", {"neuron": first}),
        segments.mlp_bias_label(layer): ("mlp_bias", {}),
        segments.mlp_rest_label(layer): ("mlp_rest", {}),
        segments.direction_label(layer, first): ("direction", {"direction": first}),
        segments.rest_label(layer): ("rest", {}),
    }
    assert len(written) == 11
    for label, (part, numbers) in written.items():
        segment = parse_segment(label)
        assert segment == Segment(label, part, layer=layer, **numbers)
        assert segment.layer_label == f"L{layer}"


@pytest.mark.parametrize(
    ("label", "part", "layer_label"),
    [
        ("embed", "embed", "embed"),
        ("pos_embed", "pos_embed", "embed"),
        ("embed.rest", "rest", "embed"),
        ("norm_bias", "norm_bias", "norm_bias"),
        ("unembed_bias", "unembed_bias", "unembed_bias"),
    ],
)
def test_what_no_block_does_has_no_layer(label, part, layer_label):
    assert parse_segment(label) == Segment(label, part)
    assert parse_segment(label).layer_label == layer_label


def test_the_embeddings_directions_and_rest_are_parts_of_the_embedding():
    assert segments.rest_label(None) == "embed.rest"
    direction = parse_segment(segments.direction_label(None, 12))
    assert direction == Segment("embed.f12", "direction", direction=12)
    assert direction.layer_label == "embed"


@given(st.text(alphabet="L0123456789.Hnfmlpatrsbed_< #{}\n٣", max_size=14))
def test_a_label_is_read_exactly_or_refused(label):
    try:
        assert parse_segment(label).label == label
    except ValueError as error:
        assert "names no segment" in str(error)


NO_LABELS = [
    *["", "L", "L-1", "L03", "l3", "L3 ", "embed\n", "٣", "L٣", "L#", "L{layer}", "L3.mlp."],
    *["L3.H", "L3.H05", "L3.H5<pos", "L3.H5<2", "L3.H5<pos 02", "L3.H#<pos 2", "L3.H5.attn"],
]


@pytest.mark.parametrize("label", NO_LABELS)
def test_other_labels_are_refused_with_the_forms(label):
    with pytest.raises(ValueError, match=r"names no segment; the forms are embed, .*L<layer>\.H"):
        parse_segment(label)


def test_the_labels_of_the_lenses_are_in_the_grammar(toy_model):
    model = toy_model("gpt2")
    text = "w17 w42 w5"
    for result in (
        ig_lens(model, text, by="sublayer"),
        direct_logit_attribution(model, text, by="head"),
    ):
        assert [parse_segment(label).label for label in result.segments] == list(result.segments)
