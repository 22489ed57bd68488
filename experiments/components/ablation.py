"""Ablating heads, and what is left of the answer.

An ablated head passes nothing on (zero ablation), or what it passes on average at tokens of the
same role in the other cases (mean ablation). Either happens at the last token only, where credits
are measured, or at all tokens but the first, so that what heads bring to earlier tokens is gone as
well. The first token is left alone: heads that have nothing to do rest on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from experiments.components.prompts import Case, pad
from iglens_tl.models import ModelAdapter, capture

KINDS = ("zero", "mean")
SCOPES = ("last token", "all tokens")
_CHUNKS = 4
EFFECTS = ("p", "log p", "logit difference")


class Ablation:
    """Runs cases with some heads ablated.

    Attributes:
        clean: What the untouched model says, as `run` returns it.
    """

    def __init__(self, adapter: ModelAdapter, cases: Sequence[Case]) -> None:
        """Run the untouched model and average what its heads pass on."""
        self.adapter = adapter
        self.tokens = pad(cases)
        self.last = torch.tensor([len(case.ids) - 1 for case in cases])
        # Cases of similar length run together, which needs little filling up.
        self.chunks = self.last.argsort().chunk(_CHUNKS)
        self.pairs = torch.tensor([[case.answer_id, case.other_id] for case in cases])
        roles = _role_numbers(cases, self.tokens.shape[1])
        sites = [adapter.head_site(layer) for layer in range(adapter.n_layers)]
        found = capture(adapter, self.tokens, dict.fromkeys(sites, Tensor.clone))
        self.n_heads = found[sites[0]].shape[2]
        self.means = [mean_of_others(found[site], roles) for site in sites]
        self.clean = self.run(torch.zeros(len(cases), adapter.n_layers, self.n_heads).bool())

    def run(
        self,
        heads: Bool[Tensor, "case layer head"],
        *,
        kind: str = "zero",
        scope: str = "last token",
    ) -> Float[np.ndarray, "case effect"]:
        """Return the answers' p, log p and logit difference with these heads ablated."""
        states = torch.cat([self._last_states(rows, heads, kind, scope) for rows in self.chunks])
        states = states[torch.cat(self.chunks).argsort()]
        logits = self.adapter.readout.logits(states).double()
        answers = logits.gather(1, self.pairs)
        log_prob = answers[:, 0] - logits.logsumexp(1)
        found = (log_prob.exp(), log_prob, answers[:, 0] - answers[:, 1])
        return torch.stack(found, dim=1).numpy()

    def _last_states(
        self, rows: Tensor, heads: Tensor, kind: str, scope: str
    ) -> Float[Tensor, "row d_model"]:
        """Return the last token's last states in some rows of the cases."""
        last = self.last[rows, None]
        positions = torch.arange(int(last.max()) + 1)
        if scope == "last token":
            reached = positions == last
        else:
            reached = (positions > 0) & (positions <= last)
        hooks = []
        for layer in range(self.adapter.n_layers):
            if bool(heads[rows, layer].any()):
                where = reached[:, :, None, None] & heads[rows, layer, None, :, None]
                by = self.means[layer][rows, : len(positions)]
                by = by if kind == "mean" else torch.zeros_like(by)
                hooks.append((self.adapter.head_site(layer), partial(_replace, where=where, by=by)))
        site = self.adapter.post_site(self.adapter.n_layers - 1)
        readers = {site: lambda states: states[torch.arange(len(rows)), last[:, 0]].clone()}
        with self.adapter.model.hooks(fwd_hooks=hooks):
            return capture(self.adapter, self.tokens[rows, : len(positions)], readers)[site]

    def single_heads(self, *, kind: str, scope: str) -> Float[np.ndarray, "case layer head effect"]:
        """Return by how much p, log p and logit difference fall when each head alone is ablated."""
        shape = (len(self.tokens), self.adapter.n_layers, self.n_heads)
        found = np.zeros((*shape, len(EFFECTS)))
        for layer in range(shape[1]):
            for head in range(shape[2]):
                heads = torch.zeros(shape).bool()
                heads[:, layer, head] = True
                found[:, layer, head] = self.clean - self.run(heads, kind=kind, scope=scope)
        return found


def mean_of_others(
    z: Float[Tensor, "case pos head d_head"], roles: Int[Tensor, "case pos"]
) -> Float[Tensor, "case pos head d_head"]:
    """Return for every token the mean of what heads pass on at the other cases' tokens of its role.

    Args:
        z: What the heads pass on.
        roles: The number of each token's role, −1 for no token.

    Raises:
        ValueError: For a role that only one case has.
    """
    means = torch.zeros_like(z)
    for role in range(int(roles.max()) + 1):
        here = roles == role
        counts = here.sum(1)
        sums = (z * here[:, :, None, None]).sum(1)
        others = counts.sum() - counts
        if bool((others == 0).any()):
            raise ValueError("a role occurs in one case only, so the others have no mean for it")
        of_others = (sums.sum(0) - sums) / others[:, None, None]
        means += here[:, :, None, None] * of_others[:, None]
    return means


def top_heads(
    scores: Float[np.ndarray, "case layer head"], number: int
) -> Bool[Tensor, "case layer head"]:
    """Choose for each case the heads with the largest scores."""
    flat = torch.from_numpy(np.ascontiguousarray(scores)).flatten(1)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    return chosen.scatter(1, flat.topk(number, dim=1).indices, True).view(scores.shape)


def _role_numbers(cases: Sequence[Case], longest: int) -> Int[Tensor, "case pos"]:
    names = sorted({role for case in cases for role in case.roles})
    rows = [[names.index(role) for role in case.roles] for case in cases]
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])


def _replace(activation: Tensor, hook: Any, *, where: Tensor, by: Tensor) -> Tensor:
    del hook
    return torch.where(where, by.to(activation), activation)
