"""How a text uses the residual stream: what blocks write, and what skipping them changes.

The definitions are those of Csordás, Manning and Potts (2025), "Do Language Models Use Their Depth
Efficiently?" (arXiv 2505.13898). The first token is left alone, as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models import ModelAdapter, capture

_SMALLEST_NORM = 1e-6
_TOP = 5
ATTENTION, MLP, BLOCK = "attention", "MLP", "block"
KL, OVERLAP = "KL to the model", "top-5 overlap"


def contributions(adapter: ModelAdapter, ids: Sequence[int]) -> pd.DataFrame:
    """Compare what every block and its parts write with the state that they write into.

    Returns:
        One row for each layer, position after the first, and part: `ratio`, the norm of what is
        written beside that of the state before it, and `cosine` of the two. The state before an
        MLP is that after the attention, but in parallel blocks, where both read the same one.
    """
    layers = range(adapter.n_layers)
    sites = [site for i in layers for site in (adapter.pre_site(i), *adapter.update_sites(i))]
    kept = capture(adapter, torch.tensor([list(ids)]), dict.fromkeys(sites, Tensor.clone))
    states = {site: state.view(len(ids), -1)[1:].double() for site, state in kept.items()}
    records = []
    for layer in layers:
        before = states[adapter.pre_site(layer)]
        attention, mlp = states[adapter.attn_site(layer)], adapter.mlp_site(layer)
        written = {ATTENTION: (before, attention)}
        if mlp is not None:
            is_sequential = adapter.block_kind == "sequential"
            written[MLP] = (before + attention if is_sequential else before, states[mlp])
            written[BLOCK] = (before, attention + states[mlp])
        for part, (state, update) in written.items():
            ratio = update.norm(dim=1) / state.norm(dim=1).clamp(min=_SMALLEST_NORM)
            cosine = F.cosine_similarity(update, state, dim=1)
            for position, (r, c) in enumerate(zip(ratio.tolist(), cosine.tolist(), strict=True), 1):
                found = {"layer": layer, "part": part, "position": position}
                records.append(found | {"ratio": r, "cosine": c})
    return pd.DataFrame(records)


def predictions(adapter: ModelAdapter, ids: Sequence[int]) -> pd.DataFrame:
    """Compare what can be read out before and after every block with the model's prediction.

    Returns:
        One row for each layer (−1 before the first block), position after the first, and quantity:
        the divergence KL(read out ‖ model) in nats, and the share of the most probable tokens that
        are among the model's.
    """
    sites = [adapter.embed_site, *(adapter.post_site(i) for i in range(adapter.n_layers))]
    kept = capture(adapter, torch.tensor([list(ids)]), dict.fromkeys(sites, Tensor.clone))
    readout = adapter.readout

    def read_out(site: str) -> tuple[Tensor, Tensor]:
        state = kept[site].view(len(ids), -1)[1:].to(readout.device, readout.dtype)
        logprobs = readout.logits(state).double().log_softmax(-1).cpu()
        return logprobs, logprobs.topk(_TOP).indices

    last, last_top = read_out(sites[-1])
    frames = []
    for layer, site in enumerate(sites, start=-1):
        logprobs, top = read_out(site)
        common = (top[:, :, None] == last_top[:, None, :]).any(-1)
        found = {
            KL: (logprobs.exp() * (logprobs - last)).sum(-1),
            OVERLAP: common.double().mean(-1),
        }
        positions = range(1, len(ids))
        frames += [
            pd.DataFrame({"quantity": name, "layer": layer, "position": positions, "value": values})
            for name, values in found.items()
        ]
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class SkipEffects:
    """What skipping every block in turn changes.

    Attributes:
        changes: The relative change ‖c − c̃‖ / ‖c‖ of what each block writes.
        predictions: The distance ‖p − p̃‖₂ of the predicted distributions.
    """

    changes: Float[Tensor, "skipped layer pos"]
    predictions: Float[Tensor, "skipped pos"]


def skip_effects(
    adapter: ModelAdapter, ids: Sequence[int], cuts: Sequence[int | None] = (None,)
) -> list[SkipEffects]:
    """Skip every block in turn, all in one forward pass, and see what happens.

    Args:
        adapter: The model.
        ids: The text, of two tokens at least.
        cuts: Each asks for effects of its own: a position says that blocks are skipped from the
            second token up to there, and effects are looked at from there on; None, that both are
            done at all tokens but the first.
    """
    n_layers = adapter.n_layers
    inputs: dict[int, Tensor] = {}

    def enter(state: Tensor, hook: Any, layer: int) -> None:
        del hook
        inputs[layer] = state.clone()

    def leave(state: Tensor, hook: Any, layer: int) -> Tensor:
        del hook
        changed, before = state.clone(), inputs.pop(layer)
        for row, cut in zip(range(layer + 1, len(state), n_layers), cuts, strict=True):
            changed[row, 1:cut] = before[row, 1:cut]
        return changed

    hooks: list[tuple[str, Any]] = []
    for layer in range(n_layers):
        hooks.append((adapter.pre_site(layer), partial(enter, layer=layer)))
        hooks.append((adapter.post_site(layer), partial(leave, layer=layer)))
    sites = [adapter.embed_site, *(adapter.post_site(layer) for layer in range(n_layers))]
    # The first row is the text as it is; of the others, each skips a block up to one of the cuts.
    tokens = torch.tensor([list(ids)]).expand(1 + n_layers * len(cuts), -1)
    with adapter.model.hooks(fwd_hooks=hooks):
        kept = capture(adapter, tokens, dict.fromkeys(sites, Tensor.clone))
    states = torch.stack([kept[site] for site in sites], dim=1)
    last = states[:, -1].to(adapter.readout.device, adapter.readout.dtype)
    probs = torch.stack([adapter.readout.logits(row).double().softmax(-1).cpu() for row in last])
    written = states.double().diff(dim=1).cpu()
    norms = written[0].norm(dim=-1).clamp(min=_SMALLEST_NORM)
    changes = (written[1:] - written[:1]).norm(dim=-1) / norms
    moved = (probs[1:] - probs[:1]).norm(dim=-1)
    found = zip(changes.split(n_layers), moved.split(n_layers), strict=True)
    firsts = [1 if cut is None else cut for cut in cuts]
    return [
        SkipEffects(of_cut[:, :, first:], of_probs[:, first:])
        for (of_cut, of_probs), first in zip(found, firsts, strict=True)
    ]


def later_effects(changes: Float[Tensor, "skipped layer"]) -> Float[Tensor, " skipped"]:
    """Return by skipped block the mean change of the blocks above it; 0 for the last one."""
    above = changes.triu(diagonal=1).sum(1)
    n_above = torch.arange(len(changes) - 1, -1, -1).clamp(min=1)
    return above / n_above


def depth_score(effects: Float[Tensor, " layer"]) -> float:
    """Return the mean layer, weighted by the effects; NaN where there are none."""
    layers = torch.arange(len(effects), dtype=torch.float64)
    return float((layers * effects).sum() / effects.sum())
