"""What is attributed: a scalar of the predicted distribution, with its slopes.

All values here are functions of two numbers, the target's logit z and the log-normaliser
L = logsumexp(logits). That is what lets them be computed in one pass over vocabulary tiles. Along
any path the value changes by `∂value/∂z · dz + ∂value/∂L · dL`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Scalar: TypeAlias = Float[Tensor, "*batch"]


@dataclass(frozen=True)
class Value:
    """A differentiable function of the target's logit and the log-normaliser.

    Attributes:
        name: The name by which it is asked for.
        unit: The unit of the credits.
        evaluate: Maps (target_logit, log_normalizer) to the value.
        slopes: Maps (target_logit, log_normalizer) to the two partial derivatives.
    """

    name: str
    unit: str
    evaluate: Callable[[Scalar, Scalar], Scalar]
    slopes: Callable[[Scalar, Scalar], tuple[Scalar, Scalar]]


def _prob(target_logit: Scalar, log_normalizer: Scalar) -> Scalar:
    return torch.exp(target_logit - log_normalizer)


def _prob_slopes(target_logit: Scalar, log_normalizer: Scalar) -> tuple[Scalar, Scalar]:
    prob = _prob(target_logit, log_normalizer)
    return prob, -prob


def _logprob(target_logit: Scalar, log_normalizer: Scalar) -> Scalar:
    return target_logit - log_normalizer


def _logprob_slopes(target_logit: Scalar, log_normalizer: Scalar) -> tuple[Scalar, Scalar]:
    return torch.ones_like(target_logit), -torch.ones_like(log_normalizer)


def _logit(target_logit: Scalar, log_normalizer: Scalar) -> Scalar:
    del log_normalizer
    return target_logit.clone()


def _logit_slopes(target_logit: Scalar, log_normalizer: Scalar) -> tuple[Scalar, Scalar]:
    return torch.ones_like(target_logit), torch.zeros_like(log_normalizer)


PROB = Value("prob", "probability", _prob, _prob_slopes)
LOGPROB = Value("logprob", "nats", _logprob, _logprob_slopes)
LOGIT = Value("logit", "logit", _logit, _logit_slopes)

VALUES: dict[str, Value] = {value.name: value for value in (PROB, LOGPROB, LOGIT)}

if TYPE_CHECKING:
    ValueLike: TypeAlias = str | Value
else:  # anything may arrive here; `resolve_value` answers with a readable error
    ValueLike = Any


def resolve_value(value: ValueLike) -> Value:
    """Return the value of a name, or the given value itself.

    Raises:
        ValueError: For an unknown name.
        TypeError: For anything that is neither a name nor a `Value`.
    """
    if isinstance(value, Value):
        return value
    if not isinstance(value, str):
        raise TypeError(f"value must be a name or a Value, got {type(value).__name__}")
    if value not in VALUES:
        raise ValueError(f"unknown value {value!r}; choose one of {', '.join(VALUES)}")
    return VALUES[value]
