"""The conductances of one text: gradients of its values, integrated over changing activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.lenses.input_paths import parts_of_path, targets_of, value_at
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.gradients import recording, run_from_states
from iglens_tl.prompts import Request
from iglens_tl.readout import Value


@dataclass(frozen=True)
class Flow:
    """The conductances of one text.

    Attributes:
        by_position: `[target, segment, pos]`, summed over the neurons of each position.
        start: `[target]`, F(x').
        end: `[target]`, F(x).
    """

    by_position: Float[Tensor, "target segment pos"]
    start: Float[Tensor, " target"]
    end: Float[Tensor, " target"]


@recording()
def measure_flow(
    adapter: ModelAdapter,
    value: Value,
    request: Request,
    ends: tuple[Float[Tensor, "pos d_model"], Float[Tensor, "pos d_model"]],
    final: Float[Tensor, "target d_model"],
    sites: Sequence[str],
    *,
    n_steps: int,
) -> Flow:
    """Move the embedding states on a straight line and measure what flows through every site.

    The nodes run in parts of bounded size, whose results do not depend on that size. Each part
    costs one forward pass for all targets and a backward pass for each.

    Args:
        adapter: The model.
        value: What is differentiated.
        request: The text and its targets.
        ends: The embedding states at both ends of the line.
        final: The states from which the model itself predicts the targets.
        sites: The hooks whose activations are the units.
        n_steps: Steps of the trapezoid rule.
    """
    nodes = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    last_site = adapter.post_site(adapter.n_layers - 1)
    n_positions = len(request.ids)
    of_targets = [_Trapezoids(len(sites), n_positions) for _ in request.target_ids]
    values = torch.zeros(len(of_targets), len(nodes), dtype=torch.float64)
    for part, states in parts_of_path(*ends, nodes):
        kept = run_from_states(
            adapter,
            request.ids,
            states,
            start=adapter.embed_site,
            keep=list(dict.fromkeys([*sites, last_site])),
        )
        along, last = [kept[site] for site in sites], kept[last_site]
        activations = [activation.detach() for activation in along]
        for target, position, token in targets_of(request):
            found = value_at(adapter.readout, value, last[:, position], token, final[target])
            gradients = torch.autograd.grad(
                found.sum(),
                along,
                retain_graph=target + 1 < len(of_targets),
                allow_unused=True,
                materialize_grads=True,
            )
            of_targets[target].add(activations, gradients)
            values[target, part] = found.detach().double().cpu()
    by_position = torch.stack([sums.by_position for sums in of_targets])
    return Flow(by_position, values[:, 0], values[:, -1])


class _Trapezoids:
    """Running sums of ½ (g_k + g_{k+1}) · (y_{k+1} − y_k), over the nodes of one path."""

    def __init__(self, n_sites: int, n_positions: int) -> None:
        self.by_position = torch.zeros(n_sites, n_positions, dtype=torch.float64)
        self._before: list[tuple[Tensor, Tensor]] = []

    def add(self, activations: list[Tensor], gradients: tuple[Tensor, ...]) -> None:
        """Add the next nodes: activations and gradients `[node, pos, d]` of every site."""
        before, self._before = self._before, []
        for site, (y, g) in enumerate(zip(activations, gradients, strict=True)):
            total = _steps(y[:-1], y[1:], g[:-1], g[1:])
            if before:
                total += _steps(before[site][0], y[:1], before[site][1], g[:1])
            self.by_position[site] += total.cpu()
            # Copies, so that the other nodes are not kept alive.
            self._before.append((y[-1:].clone(), g[-1:].clone()))


def _steps(y_from: Tensor, y_to: Tensor, g_from: Tensor, g_to: Tensor) -> Float[Tensor, " pos"]:
    slopes = g_from.float() + g_to.float() if g_from.dtype != torch.float64 else g_from + g_to
    return (slopes * (y_to - y_from)).sum(2).double().sum(0) / 2
