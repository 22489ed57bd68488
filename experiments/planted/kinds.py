"""The mechanisms that are planted, and what lenses should say of them.

The expectations follow from the construction and from what each lens computes; they were written
before the lenses were run on the models, but for those of "flow" on cooler and head and of
resampling on backup, which were corrected after that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a mechanism is, and what each group of lenses is expected to say of it.

    Attributes:
        meaning: What is planted.
        ig_lens: What IG-Lens, and the differences of the logit lens, credit.
        direct: What direct logit attribution credits.
        flow: What conductance and layer integrated gradients show.
        causal: What skipping single layers shows.
    """

    meaning: str
    ig_lens: str
    direct: str
    flow: str
    causal: str


KINDS = {
    "writer": Kind(
        "one MLP writes the answer",
        ig_lens="all of it to the writer",
        direct="all of it to the writer",
        flow="the last token names the country, so all flows there from the start; only the view "
        "of sublayers finds the writer",
        causal="the writer",
    ),
    "head": Kind(
        "one head copies the answer from an earlier token",
        ig_lens="all of it to the head (by head) and its layer",
        direct="all of it to the head",
        flow="the head, which brings the answer to the last token, in both views",
        causal="the head",
    ),
    "cooperation": Kind(
        "two MLPs write half of the answer each, and neither half is enough",
        ig_lens="p: nearly all to the second, without which p is low; logit: half each; Shapley "
        "orders: half each",
        direct="half each",
        flow="view of sublayers: half each",
        causal="each of them is all: both have the same effect",
    ),
    "sharpener": Kind(
        "an MLP writes the answer, already first; a later one amplifies what is there",
        ig_lens="p: the writer up to where p was then, the rest to the sharpener",
        direct="both, as the sharpener writes in the answer's direction too",
        flow="view of sublayers: both",
        causal="the writer most, as without it nothing is amplified; the sharpener a little",
    ),
    "cooler": Kind(
        "an MLP writes the answer; a later one only lowers the temperature through the norm",
        ig_lens="p: the writer up to where p was then, the rest to the cooler; logit: mostly to "
        "the cooler, which scales all logits",
        direct="the writer alone: the cooler writes nothing that is read",
        flow="view of sublayers: the writer, nearly alone",
        causal="the writer most, the cooler a little",
    ),
    "router": Kind(
        "an MLP writes an idea that cannot be read; a later MLP reads it and writes the answer",
        ig_lens="the reader alone; the router is not credited",
        direct="the reader alone",
        flow="view of sublayers: both",
        causal="both",
    ),
    "relay": Kind(
        "an MLP writes the idea at an earlier token; a later head fetches it and writes the answer",
        ig_lens="the head alone; the MLP works at another position",
        direct="the head alone",
        flow="last position: the head alone; view of sublayers: both",
        causal="both at all positions, the head alone at the last one",
    ),
    "backup": Kind(
        "an MLP writes the answer; a later one would write it if it were not there",
        ig_lens="the writer",
        direct="the writer",
        flow="view of sublayers: the writer, less what the backup would take back",
        causal="nothing: without the writer the backup answers. Resampling alone finds the writer, "
        "which then writes another text's capital",
    ),
}
"""The mechanisms, by name."""
