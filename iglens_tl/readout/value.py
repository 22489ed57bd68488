"""What is attributed: a scalar of the predicted distribution, with its gradient.

A value is a pair: the scalar as a function of the logits, and its gradient with respect to them.
Everything else follows, so that one's own value is a class with two methods. Log-odds:

    @dataclass(frozen=True)
    class LogOdds(Value):
        name = "log_odds"
        unit = "nats"

        def evaluate(self, logits, targets):
            logprob = logits.log_softmax(-1).gather(-1, targets.token_ids[..., None])[..., 0]
            return logprob - torch.log1p(-logprob.exp())

        def gradient(self, logits, targets):
            probs = logits.softmax(-1)
            at_target = probs.gather(-1, targets.token_ids[..., None])
            rest = -probs / (1 - at_target)
            return rest.scatter(-1, targets.token_ids[..., None], 1.0)

Values that need only the logits of a few tokens and the log-normaliser L = logsumexp(logits) are
`TokenValue`s; they are computed in one pass over the vocabulary without keeping whole rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    Token: TypeAlias = str | int
else:  # anything may arrive here; it is answered with a readable error
    Token = Any


@dataclass(frozen=True)
class Targets:
    """What a value may know besides the logits.

    Attributes:
        token_ids: The target token of every row of logits.
        final_logits: The model's own logits at the row's position, for values that `needs_final`;
            otherwise None.
    """

    token_ids: Int[Tensor, "*row"]
    final_logits: Float[Tensor, "*row d_vocab"] | None = None


class Value(ABC):
    """A differentiable scalar function of a predicted distribution.

    Attributes:
        name: The name by which it is asked for.
        unit: The unit of the credits.
        needs_final: Whether `Targets.final_logits` is needed.
        sums_over_targets: Whether the values of a text's targets are added up to one.
    """

    name: str
    unit: str
    needs_final: bool = False
    sums_over_targets: bool = False

    @abstractmethod
    def evaluate(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row"]:
        """Return the value of every row of logits, differentiable in them."""

    @abstractmethod
    def gradient(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row d_vocab"]:
        """Return the derivatives of every row's value with respect to its logits."""

    def with_token_ids(self, id_of: Callable[[Token], int]) -> Value:
        """Return the value with its tokens, where it names some, as ids."""
        del id_of
        return self

    def provenance(self) -> dict[str, Any]:
        """Return the options that tell a result's value, as plain data."""
        return {"value": self.name}


class TokenValue(Value):
    """A function of the logits z of a few tokens and of the log-normaliser L.

    Along any path it changes by `Σ ∂value/∂z · dz + ∂value/∂L · dL`.
    """

    @property
    def tokens(self) -> tuple[Any, ...] | None:
        """The tokens whose logits are needed; None for each row's own target."""
        return None

    @abstractmethod
    def of_tokens(
        self, token_logits: Float[Tensor, "*row token"], log_normalizer: Float[Tensor, "*row"]
    ) -> Float[Tensor, "*row"]:
        """Return the value."""

    @abstractmethod
    def slopes(
        self, token_logits: Float[Tensor, "*row token"], log_normalizer: Float[Tensor, "*row"]
    ) -> tuple[Float[Tensor, "*row token"], Float[Tensor, "*row"]]:
        """Return the partial derivatives with respect to the tokens' logits and to L."""

    def columns(self, token_ids: Int[Tensor, "*row"]) -> Int[Tensor, "*row token"]:
        """Return the ids of the tokens that the value needs of every row."""
        if self.tokens is None:
            return token_ids[..., None]
        return torch.tensor(self.tokens, device=token_ids.device).expand(*token_ids.shape, -1)

    def evaluate(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row"]:
        """Return the value of every row of logits, differentiable in them."""
        at_tokens = logits.gather(-1, self.columns(targets.token_ids))
        return self.of_tokens(at_tokens, logits.logsumexp(-1))

    def gradient(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row d_vocab"]:
        """Return the derivatives of every row's value with respect to its logits."""
        columns = self.columns(targets.token_ids)
        log_normalizer = logits.logsumexp(-1)
        by_tokens, by_normalizer = self.slopes(logits.gather(-1, columns), log_normalizer)
        probs = torch.exp(logits - log_normalizer[..., None])
        return (by_normalizer[..., None] * probs).scatter_add(-1, columns, by_tokens)
