"""The labels of segments: the grammar of names for the parts of a model, written and read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# What a label says, by its form; every `{…}` is a number from 0, written without leading zeros.
_PARTS = {
    "embed": "embed",
    "pos_embed": "pos_embed",
    "embed.f{direction}": "direction",
    "embed.rest": "rest",
    "L{layer}": "layer",
    "L{layer}.attn": "attn",
    "L{layer}.H{head}": "head",
    "L{layer}.H{head}<pos {source}": "source",
    "L{layer}.attn_bias": "attn_bias",
    "L{layer}.mlp": "mlp",
    "L{layer}.mlp.n{neuron}": "neuron",
    "L{layer}.mlp_bias": "mlp_bias",
    "L{layer}.mlp.rest": "mlp_rest",
    "L{layer}.f{direction}": "direction",
    "L{layer}.rest": "rest",
    "norm_bias": "norm_bias",
    "unembed_bias": "unembed_bias",
}
_NUMBER = re.compile("[0-9]+")
_FIELD = re.compile(r"\{([a-z]+)\}")
_FORMS = {_FIELD.sub("#", form): form for form in _PARTS}
_READOUT_PARTS = ("norm_bias", "unembed_bias")


@dataclass(frozen=True)
class Segment:
    """The meaning of a segment's label.

    Attributes:
        label: The label, such as "L3.H5<pos 2".
        part: "embed", "pos_embed", "layer", "attn", "head", "source" (a head's reading from one
            position), "attn_bias", "mlp", "neuron", "mlp_bias", "mlp_rest", "direction" (of a
            dictionary), "rest", "norm_bias" or "unembed_bias".
        layer: The block's number; None for what no block does.
        head: The head's number in its layer, if it is a head's.
        source: The position that the head read, if the segment is one of a head's sources.
        neuron: The neuron's number in its MLP, if it is one.
        direction: The row of the dictionary, if it is a direction's.
    """

    label: str
    part: str
    layer: int | None = None
    head: int | None = None
    source: int | None = None
    neuron: int | None = None
    direction: int | None = None

    @property
    def layer_label(self) -> str:
        """The coarser segment that this one is a part of: "embed", "L3" or a bias of the readout.

        Token and positional embedding are both parts of "embed".
        """
        if self.layer is not None:
            return layer_label(self.layer)
        return self.label if self.part in _READOUT_PARTS else "embed"


# A result has thousands of labels, which every table and figure reads again.
@lru_cache(maxsize=2**16)
def parse_segment(label: str) -> Segment:
    """Read a segment's label.

    Raises:
        ValueError: For a label outside the grammar.
    """
    form = _FORMS.get(_NUMBER.sub("#", label))
    if form is not None and "#" not in label:
        numbers = dict(zip(_FIELD.findall(form), map(int, _NUMBER.findall(label)), strict=True))
        if form.format(**numbers) == label:
            return Segment(label, _PARTS[form], **numbers)
    forms = ", ".join(_FIELD.sub(r"<\1>", form) for form in _PARTS)
    raise ValueError(f"{label!r} names no segment; the forms are {forms}")


def layer_label(layer: int) -> str:
    """Return the label of a block, "L3"."""
    return f"L{layer}"


def attention_label(layer: int) -> str:
    """Return the label of a block's attention, "L3.attn"."""
    return f"L{layer}.attn"


def head_label(layer: int, head: int) -> str:
    """Return the label of an attention head, "L3.H5"."""
    return f"L{layer}.H{head}"


def source_label(layer: int, head: int, source: int) -> str:
    """Return the label of what a head read at one position, "L3.H5<pos 2"."""
    return f"L{layer}.H{head}<pos {source}"


def attention_bias_label(layer: int) -> str:
    """Return the label of an attention's output bias, "L3.attn_bias"."""
    return f"L{layer}.attn_bias"


def mlp_label(layer: int) -> str:
    """Return the label of a block's MLP, "L3.mlp"."""
    return f"L{layer}.mlp"


def neuron_label(layer: int, neuron: int) -> str:
    """Return the label of an MLP neuron, "L3.mlp.n117"."""
    return f"L{layer}.mlp.n{neuron}"


def mlp_bias_label(layer: int) -> str:
    """Return the label of an MLP's output bias, "L3.mlp_bias"."""
    return f"L{layer}.mlp_bias"


def mlp_rest_label(layer: int) -> str:
    """Return the label of an MLP's neurons that have no segment of their own, "L3.mlp.rest"."""
    return f"L{layer}.mlp.rest"


def direction_label(layer: int | None, direction: int) -> str:
    """Return the label of a dictionary's direction in a block or the embedding, "L3.f12"."""
    return f"{_stream_label(layer)}.f{direction}"


def rest_label(layer: int | None) -> str:
    """Return the label of what the directions leave of a block or the embedding, "L3.rest"."""
    return f"{_stream_label(layer)}.rest"


def _stream_label(layer: int | None) -> str:
    return "embed" if layer is None else layer_label(layer)
