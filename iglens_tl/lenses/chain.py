"""The states that a lens passes through, from the embedding to the last block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from iglens_tl.arguments import Layers, resolve_layers
from iglens_tl.models.adapter import ModelAdapter, NotApplicableError

if TYPE_CHECKING:
    By: TypeAlias = Literal["layer", "sublayer"]
else:  # anything may arrive here; it is answered with a readable error
    By = Any

BY = {
    "layer": "every block as one step",
    "sublayer": "attention and MLP of every block apart, through the state between them",
}
"""The steps in which a path follows the blocks."""


@dataclass(frozen=True)
class Chain:
    """Consecutive states of one residual stream.

    Attributes:
        sites: The hook of each state, lowest first.
        segments: The label of the step that ends in each state; the first step starts at the
            baseline.
    """

    sites: tuple[str, ...]
    segments: tuple[str, ...]


def build_chain(
    adapter: ModelAdapter,
    *,
    layers: Layers | None = None,
    sublayers: bool = False,
    embed: bool = True,
) -> Chain:
    """Choose the states: the embedding, then every block, chosen blocks, or sublayers.

    Args:
        adapter: The model.
        layers: Blocks after which the stream is read, in TransformerLens numbering. The last block
            always joins them. A segment then holds all blocks since the one before.
        sublayers: Read also between attention and MLP of every block.
        embed: Whether the embedding is a state of its own.

    Raises:
        TypeError: For layers that are no integers.
        ValueError: For layers out of range or repeated.
        NotApplicableError: For sublayers that do not exist.
    """
    if layers is not None and sublayers:
        raise ValueError("give layers or by='sublayer', not both: sublayers split every block")
    if sublayers:
        sites, segments = _sublayers(adapter)
    else:
        chosen = range(adapter.n_layers) if layers is None else _chosen(adapter, layers)
        sites = [adapter.post_site(layer) for layer in chosen]
        segments = [f"L{layer}" for layer in chosen]
    if embed:
        sites, segments = [adapter.embed_site, *sites], ["embed", *segments]
    return Chain(tuple(sites), tuple(segments))


def _sublayers(adapter: ModelAdapter) -> tuple[list[str], list[str]]:
    if adapter.no_mid_because and adapter.block_kind != "attention_only":
        raise NotApplicableError(
            f"{adapter.name} cannot be read within its blocks: {adapter.no_mid_because}; use whole "
            "layers (by='layer')"
        )
    sites, segments = [], []
    for layer in range(adapter.n_layers):
        if adapter.block_kind == "sequential":
            sites.append(adapter.mid_site(layer))
            segments += [f"L{layer}.attn", f"L{layer}.mlp"]
        else:
            segments.append(f"L{layer}.attn")
        sites.append(adapter.post_site(layer))
    return sites, segments


def _chosen(adapter: ModelAdapter, layers: Layers) -> list[int]:
    chosen = resolve_layers(layers) or ()
    for layer in chosen:
        if not 0 <= layer < adapter.n_layers:
            raise ValueError(
                f"layer {layer} is out of range: {adapter.name} has layers 0 to "
                f"{adapter.n_layers - 1}"
            )
    return sorted({*chosen, adapter.n_layers - 1})
