"""The Muon optimiser (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).

Muon replaces the momentum of a weight matrix by the nearest orthogonal matrix, so that rare
directions, such as those of single facts, are learned as fast as frequent ones. `torch.optim.Muon`
does the same matrix by matrix in bfloat16, which is slow on processors that lack it; here
matrices of one shape are stacked and stay in float32.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

# The coefficients of the quintic iteration, from the reference above.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Steps weight matrices along their orthogonalised Nesterov momentum.

    Args:
        matrices: Parameters with two dimensions.
        lr: Learning rate. An update is scaled to the size that AdamW's would have (Liu et al.,
            2025, arXiv 2502.16982), so AdamW's rate and weight decay fit.
        weight_decay: Decoupled weight decay.
        momentum: Decay rate of the momentum.
        iterations: Number of Newton-Schulz iterations.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(matrices, {**defaults, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every matrix once.

        Raises:
            ValueError: For a closure, which other optimizers call for the loss.
        """
        if closure is not None:
            raise ValueError("Muon calls no closure; compute the gradients before step()")
        for group in self.param_groups:
            by_shape = sorted(group["params"], key=lambda matrix: tuple(matrix.shape))
            for shape, matrices in groupby(by_shape, key=lambda matrix: tuple(matrix.shape)):
                self._step_stack(list(matrices), shape, group)

    def _step_stack(self, matrices: list[Tensor], shape: tuple[int, int], group: dict) -> None:
        updates = orthogonalize(
            torch.stack([self._nesterov(matrix, group["momentum"]) for matrix in matrices]),
            group["iterations"],
        )
        step = group["lr"] * 0.2 * max(shape) ** 0.5
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=step)

    def _nesterov(self, matrix: Tensor, momentum: float) -> Tensor:
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(matrix)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Move every singular value of each matrix close to one, between about 0.7 and 1.2.

    Args:
        matrices: Stack of matrices, [matrix, row, column].
        iterations: Number of Newton-Schulz iterations.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalize(matrices.mT, iterations).mT
    result = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = result @ result.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        result = torch.baddbmm(result, polynomial, result, beta=_A)
    return result
