"""What training tells after every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class StepReport:
    """One step of training.

    Attributes:
        step: How many steps are done.
        losses: By translator the mean divergence before the step, in nats.
        tokens_per_second: Speed of the step.
    """

    step: int
    losses: tuple[float, ...]
    tokens_per_second: float


Report: TypeAlias = Callable[[StepReport], object]
