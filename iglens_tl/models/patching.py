"""Replacing one activation of a run by that of another run, for many places one after the other.

`transformer_lens.patching` loops over the places, finds the hooks and sets the activations. What it
asks of a model, running with hooks, is answered here for both model classes alike: with an
attention mask, without the logits of positions that nobody reads, and with the user's hooks in
place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.capture import added_hooks, capture

SITES = {
    "resid_pre": "the residual state before the block",
    "resid_mid": "the residual state between attention and MLP",
    "resid_post": "the residual state after the block",
    "attn_out": "what the attention adds to the residual stream",
    "mlp_out": "what the MLP adds to the residual stream",
}
"""The sites at which activations can be replaced, in every block."""

_TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Recording:
    """The parts of a whole run of one text that are kept.

    Attributes:
        ids: The text.
        activations: By hook, the activations at all positions.
        logits: What the model predicts after the text, in the readout's precision.
    """

    ids: tuple[int, ...]
    activations: Mapping[str, Float[Tensor, "1 pos d_model"]]
    logits: Float[Tensor, " d_vocab"]


def record(adapter: ModelAdapter, ids: Sequence[int], site: str) -> Recording:
    """Run a text and keep its activations at a site of every block, and its embedding states.

    Raises:
        NotApplicableError: If the architecture has no such site.
        ValueError: For an unknown site.
    """
    last = adapter.post_site(adapter.n_layers - 1)
    names = [*_recorded_hooks(adapter, site), adapter.embed_site, last]
    kept = capture(adapter, torch.tensor([list(ids)]), dict.fromkeys(names, torch.clone))
    return Recording(tuple(ids), kept, adapter.readout.logits(kept[last][0, -1]))


def patch_each(
    adapter: ModelAdapter,
    run: Recording,
    donor: Recording,
    site: str,
    measure: Callable[[Tensor], float],
    *,
    layers: Sequence[int],
    positions: Sequence[int],
) -> Float[np.ndarray, "layer pos"]:
    """Measure what a run predicts with one activation replaced by the donor's, for every place.

    All positions of a layer share a forward pass, up to a bound on memory. Positions at which both
    runs agree exactly at every layer, as before the first token that differs, need none.

    The state between attention and MLP is set through the attention's output, which becomes the
    donor's state less the state before the block. On a `TransformerBridge` the hook of that state
    lies on the way into the MLP alone, so that it is no place to intervene.

    Hooks that the user added stay active; they see batches of any size. Those added here are
    removed again, also after an error.

    Args:
        adapter: The model.
        run: The run in which activations are replaced, recorded at the same site.
        donor: The run that they are taken from, a text of the same length.
        site: One of `SITES`.
        measure: A number for the logits `[d_vocab]` that the model predicts after the text.
        layers: The layers to patch, one at a time.
        positions: The positions to patch, one at a time.

    Raises:
        ValueError: If a hook changes the batch.
    """
    hook, sources = _sources(adapter, site, run, donor)
    values = np.full((len(layers), len(positions)), measure(run.logits))
    differing = [
        column
        for column, position in enumerate(positions)
        if any(_differ(run.activations, sources, _name(layer, hook), position) for layer in layers)
    ]
    rows_per_pass = max(1, _TOKENS_PER_PASS // len(run.ids))
    for first in range(0, len(differing), rows_per_pass):
        columns = differing[first : first + rows_per_pass]
        at = [positions[column] for column in columns]
        values[:, columns] = _patch_together(adapter, run, hook, sources, measure, layers, at)
    return values


def _patch_together(
    adapter: ModelAdapter,
    run: Recording,
    hook: str,
    sources: Mapping[str, Tensor],
    measure: Callable[[Tensor], float],
    layers: Sequence[int],
    positions: Sequence[int],
) -> Float[np.ndarray, "layer pos"]:
    """Patch the positions in one pass for each layer, each in a row of its own."""
    # Imported late, because the lenses need none of it.
    from transformer_lens import patching

    measured: list[list[float]] = []

    def metric(logits: Tensor) -> Tensor:
        measured.append([measure(row) for row in logits[:, -1]])
        return torch.tensor(0.0)  # TransformerLens 3 keeps one number of a pass, in float32

    def set_rows(activation: Tensor, index: Sequence[int], source: Any) -> Tensor:
        if len(activation) != len(positions):
            raise ValueError(
                f"{adapter.name}: {len(activation)} rows at {_name(index[0], hook)} where "
                f"{len(positions)} positions are patched; remove hooks that replace the batch, and "
                "let others act on batches of any size"
            )
        # The setter writes in place, and models may use the same tensor elsewhere.
        activation = activation.clone()
        for row, position in enumerate(positions):
            place = [index[0], position]
            patching.layer_pos_patch_setter(activation[row : row + 1], place, source)
        return activation

    _without_progress_bar(patching.generic_activation_patch)(
        _LastPredictions(adapter),
        torch.tensor([run.ids]).expand(len(positions), -1),
        sources,
        metric,
        set_rows,
        activation_name=hook,
        index_df=pd.DataFrame({"layer": list(layers)}),
    )
    return np.array(measured)


class _LastPredictions:
    """Answers what `transformer_lens.patching` asks of a model, for the last position only."""

    def __init__(self, adapter: ModelAdapter) -> None:
        self.adapter, self.cfg = adapter, adapter.model.cfg

    def run_with_hooks(
        self, tokens: Int[Tensor, "row pos"], fwd_hooks: list[tuple[str, Any]]
    ) -> Float[Tensor, "row 1 d_vocab"]:
        last = self.adapter.post_site(self.adapter.n_layers - 1)
        with added_hooks(self.adapter, fwd_hooks):
            states = capture(self.adapter, tokens, {last: lambda states: states[:, -1].clone()})
        # One by one, because the rounding of a product depends on how many rows it has.
        logits = [self.adapter.readout.logits(state) for state in states[last]]
        return torch.stack(logits)[:, None]


def _recorded_hooks(adapter: ModelAdapter, site: str) -> list[str]:
    """Return the hooks from which a site's activations are made."""
    if site not in SITES:
        raise ValueError(f"unknown site {site!r}; choose one of {', '.join(SITES)}")
    if site == "mlp_out" and adapter.block_kind == "attention_only":
        raise NotApplicableError(
            f"{adapter.name} has attention only, so there is no mlp_out to replace; use attn_out"
        )
    if site == "resid_mid" and adapter.no_mid_because:
        raise NotApplicableError(
            f"{adapter.name} has no resid_mid to replace: {adapter.no_mid_because}; use resid_pre, "
            "resid_post or attn_out"
        )
    made_of = ["resid_pre", "attn_out"] if site == "resid_mid" else [site]
    return [_name(layer, part) for layer in range(adapter.n_layers) for part in made_of]


def _sources(
    adapter: ModelAdapter, site: str, run: Recording, donor: Recording
) -> tuple[str, Mapping[str, Tensor]]:
    """Return the short name of the hook to intervene at, and by full name what to set there."""
    if site != "resid_mid":
        return site, donor.activations
    sources = {}
    for layer in range(adapter.n_layers):
        pre, attn = _name(layer, "resid_pre"), _name(layer, "attn_out")
        change = donor.activations[pre] - run.activations[pre]
        sources[attn] = donor.activations[attn] + change
    return "attn_out", sources


def _differ(
    activations: Mapping[str, Tensor], sources: Mapping[str, Tensor], name: str, position: int
) -> bool:
    return not torch.equal(activations[name][:, position], sources[name][:, position])


def _name(layer: int, site: str) -> str:
    return f"blocks.{layer}.hook_{site}"


def _without_progress_bar(function: Any) -> Callable[..., Any]:
    """Return a copy of a function of TransformerLens that draws no progress bar.

    The copy has globals of its own, so that the bars of other calls stay as they are.
    """
    names = {**function.__globals__, "tqdm": iter}
    quiet = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    quiet.__kwdefaults__ = function.__kwdefaults__
    return quiet
