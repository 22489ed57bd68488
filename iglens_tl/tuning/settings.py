"""How a tuned lens is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    Count: TypeAlias = int
    Number: TypeAlias = float
else:  # anything may arrive here; it is answered with a readable error
    Count = Number = Any

OPTIMIZERS = ("sgd", "adam")

_BASE_LEARNING_RATE = {"sgd": 1.0, "adam": 1e-3}
_LONGEST_WARMUP = 1000


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the optimiser and the loop; the defaults are the published ones.

    Attributes:
        steps: Number of optimiser steps of the whole schedule.
        tokens_per_step: Tokens whose gradients are averaged in a step. A step takes no sequence
            twice, so a short text makes it smaller.
        optimizer: "sgd" with Nesterov momentum, or "adam" (AMSGrad).
        lr_scale: Factor of the learning rate, which is 1 − momentum for SGD and 1e-3 for Adam.
        momentum: Momentum of SGD, or Adam's β₁.
        weight_decay: L2 decay, which pulls the lens towards the logit lens.
        clip: Largest norm of the gradient of all translators together.
        bias: Whether translators have a bias.
        seed: Seed of the order in which sequences are taken.
    """

    steps: Count = 250
    tokens_per_step: Count = 2**18
    optimizer: str = "sgd"
    lr_scale: Number = 1.0
    momentum: Number = 0.9
    weight_decay: Number = 1e-3
    clip: Number = 1.0
    bias: bool = True
    seed: Count = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"unknown optimizer {self.optimizer!r}; choose one of {', '.join(OPTIMIZERS)}"
            )
        for name, smallest in (("steps", 1), ("tokens_per_step", 1), ("seed", 0)):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}, got {count!r}")
        for name in ("lr_scale", "momentum", "weight_decay", "clip"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ValueError(f"{name} must be a number, got {number!r}")
            least_allowed = number >= 0 if name in ("momentum", "weight_decay") else number > 0
            if not (least_allowed and math.isfinite(number)):
                bound = "at least 0" if name in ("momentum", "weight_decay") else "above 0"
                raise ValueError(f"{name} must be {bound} and finite, got {number!r}")
        # Nesterov's method is not defined without momentum.
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum!r}")

    @property
    def warmup(self) -> int:
        """Steps over which Adam's learning rate rises; SGD needs none."""
        return min(self.steps // 5, _LONGEST_WARMUP) if self.optimizer == "adam" else 0

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear rise, then a linear decay to zero."""
        peak = self.lr_scale * _BASE_LEARNING_RATE[self.optimizer]
        if self.optimizer == "sgd":
            peak *= 1 - self.momentum
        if step < self.warmup:
            return peak * step / self.warmup
        return peak * (self.steps - step) / (self.steps - self.warmup)

    def build_optimizer(self, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Return the optimiser of the parameters."""
        rate = self.learning_rate(0)
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=True,
            )
        return torch.optim.Adam(
            parameters,
            lr=rate,
            betas=(self.momentum, 0.999),
            weight_decay=self.weight_decay,
            amsgrad=True,
        )
