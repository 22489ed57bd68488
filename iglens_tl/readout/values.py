"""The values that can be attributed, by name or with the tokens that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.value import Targets, Token, TokenValue, Value

if TYPE_CHECKING:
    ValueLike: TypeAlias = str | Value
else:  # anything may arrive here; `resolve_value` answers with a readable error
    ValueLike = Any


@dataclass(frozen=True)
class Probability(TokenValue):
    """The probability of the target."""

    name = "prob"
    unit = "probability"

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return exp(z − L)."""
        return torch.exp(token_logits[..., 0] - log_normalizer)

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return p and −p."""
        prob = self.of_tokens(token_logits, log_normalizer)
        return prob[..., None], -prob


@dataclass(frozen=True)
class LogProbability(TokenValue):
    """The log-probability of the target."""

    name = "logprob"
    unit = "nats"

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return z − L."""
        return token_logits[..., 0] - log_normalizer

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and −1."""
        return torch.ones_like(token_logits), -torch.ones_like(log_normalizer)


@dataclass(frozen=True)
class SequenceLogProbability(LogProbability):
    """The log-probability of a whole continuation, the sum over its tokens."""

    name = "sequence_logprob"
    sums_over_targets = True


@dataclass(frozen=True)
class Logit(TokenValue):
    """The logit of the target."""

    name = "logit"
    unit = "logit"

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return z."""
        del log_normalizer
        return token_logits[..., 0].clone()

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and 0."""
        return torch.ones_like(token_logits), torch.zeros_like(log_normalizer)


@dataclass(frozen=True)
class _NamedTokens(TokenValue):
    """A value of tokens that it names itself, whatever the targets are."""

    # The tokens as they were given, which ids alone do not tell a reader.
    _written: ClassVar[tuple[Any, ...] | None] = None

    def with_token_ids(self: _Named, id_of: Callable[[Token], int]) -> _Named:
        """Return the value with its tokens as ids.

        Raises:
            ValueError: If a token occurs twice.
        """
        ids = {each.name: _ids(getattr(self, each.name), id_of) for each in fields(self)}
        bound = replace(self, **ids)
        every = bound.tokens or ()
        repeated = [token for index, token in enumerate(every) if token in every[:index]]
        if repeated:
            raise ValueError(
                f"{self} names token {repeated[0]} twice; give tokens that differ from one another"
            )
        object.__setattr__(bound, "_written", self._written or self.tokens)
        return bound

    def provenance(self) -> dict[str, Any]:
        """Return the name, and the tokens as they were given."""
        named = self._written or self.tokens or ()
        tokens = [token if isinstance(token, str) else int(token) for token in named]
        return {"value": self.name, "value_tokens": tokens}


@dataclass(frozen=True)
class _Pair(_NamedTokens):
    a: Token
    b: Token

    @property
    def tokens(self) -> tuple[Any, ...]:
        """The two tokens."""
        return (self.a, self.b)


@dataclass(frozen=True)
class LogitDifference(_Pair):
    """The logit of token `a` less that of token `b`, whatever the targets are."""

    name = "logit_difference"
    unit = "logit difference"

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return z_a − z_b."""
        del log_normalizer
        return token_logits[..., 0] - token_logits[..., 1]

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1, −1 and 0."""
        return _plus_minus(torch.ones_like(token_logits)), torch.zeros_like(log_normalizer)


@dataclass(frozen=True)
class ProbabilityDifference(_Pair):
    """The probability of token `a` less that of token `b`, whatever the targets are."""

    name = "probability_difference"
    unit = "probability difference"

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return p_a − p_b."""
        probs = torch.exp(token_logits - log_normalizer[..., None])
        return probs[..., 0] - probs[..., 1]

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return p_a, −p_b and p_b − p_a."""
        probs = _plus_minus(torch.exp(token_logits - log_normalizer[..., None]))
        return probs, -probs.sum(-1)


@dataclass(frozen=True)
class TokenSet(_NamedTokens):
    """The probability that the next token is one of a set, whatever the targets are."""

    members: Any

    name = "token_set"
    unit = "probability"

    def __post_init__(self) -> None:
        """Make the set a tuple.

        Raises:
            TypeError: For anything but a list of tokens.
            ValueError: For an empty list.
        """
        if isinstance(self.members, (str, int)) or not hasattr(self.members, "__iter__"):
            raise TypeError(f"TokenSet takes a list of tokens, got {self.members!r}")
        object.__setattr__(self, "members", tuple(self.members))
        if not self.members:
            raise ValueError("TokenSet is empty; name at least one token")

    @property
    def tokens(self) -> tuple[Any, ...]:
        """The members of the set."""
        return self.members

    def of_tokens(self, token_logits: Tensor, log_normalizer: Tensor) -> Tensor:
        """Return Σ exp(z − L)."""
        return torch.exp(token_logits - log_normalizer[..., None]).sum(-1)

    def slopes(self, token_logits: Tensor, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Return every member's p, and −Σ p."""
        probs = torch.exp(token_logits - log_normalizer[..., None])
        return probs, -probs.sum(-1)


@dataclass(frozen=True)
class Entropy(Value):
    """The entropy of the distribution; a negative credit makes the model more certain."""

    name = "entropy"
    unit = "nats"

    def evaluate(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row"]:
        """Return −Σ p log p."""
        del targets
        logprobs = logits.log_softmax(-1)
        return -(logprobs.exp() * logprobs).sum(-1)

    def gradient(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row d_vocab"]:
        """Return −p (log p + entropy)."""
        del targets
        logprobs = logits.log_softmax(-1)
        probs = logprobs.exp()
        return -probs * (logprobs - (probs * logprobs).sum(-1, keepdim=True))


@dataclass(frozen=True)
class KLToFinal(Value):
    """KL(model ‖ state), from the model's own distribution to the one read out; 0 at the end."""

    name = "kl_to_final"
    unit = "nats"
    needs_final = True

    def evaluate(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row"]:
        """Return Σ p_final (log p_final − log p)."""
        final = _final(targets).log_softmax(-1)
        return (final.exp() * (final - logits.log_softmax(-1))).sum(-1)

    def gradient(
        self, logits: Float[Tensor, "*row d_vocab"], targets: Targets
    ) -> Float[Tensor, "*row d_vocab"]:
        """Return p − p_final."""
        return logits.softmax(-1) - _final(targets).softmax(-1)


VALUES: dict[str, Value] = {
    value.name: value
    for value in (
        Probability(),
        LogProbability(),
        Logit(),
        Entropy(),
        KLToFinal(),
        SequenceLogProbability(),
    )
}
"""The values that need no further word."""

_Named = TypeVar("_Named", bound=_NamedTokens)


def resolve_value(value: ValueLike) -> Value:
    """Return the value of a name, or the given value itself.

    Raises:
        ValueError: For an unknown name.
        TypeError: For anything that is neither a name nor a `Value`.
    """
    if isinstance(value, Value):
        return value
    if not isinstance(value, str):
        raise TypeError(f"value must be a name or a Value, got {value!r}")
    if value not in VALUES:
        raise ValueError(
            f"unknown value {value!r}; choose one of {', '.join(VALUES)}, or give a Value such as "
            "LogitDifference(' Mary', ' John')"
        )
    return VALUES[value]


def _ids(tokens: Any, id_of: Callable[[Token], int]) -> Any:
    return tuple(map(id_of, tokens)) if isinstance(tokens, tuple) else id_of(tokens)


def _plus_minus(pair: Tensor) -> Tensor:
    return torch.stack([pair[..., 0], -pair[..., 1]], dim=-1)


def _final(targets: Targets) -> Tensor:
    assert targets.final_logits is not None
    return targets.final_logits
