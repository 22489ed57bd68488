"""What is measured of every text of a corpus: the lenses, and what is done with long texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iglens_tl.lenses.base import Lens
from iglens_tl.prompts import TokenizingModel

LONG = {
    "split": "cut into windows that overlap, so that every token is a target once",
    "truncate": "cut off",
    "reject": "not measured",
}
"""What is done with texts that are longer than the model takes."""

COLUMNS = (
    "text",
    "window",
    "position",
    "token_id",
    "token",
    "kind",
    "final",
    "baseline",
    "error",
    "onset",
    "logprob",
    "rank",
    "entropy",
    "credits",
)
"""The columns that every corpus has, whose names no lens can have."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured of every text.

    Attributes:
        lenses: The lenses by label. The first is additive; its credits are the column `credits`,
            and the others' numbers stand under their labels.
        max_length: The longest stretch of tokens that the model reads at once; None for its own
            context.
        long: What is done with longer texts, one of `LONG`.
        overlap: How many tokens before its targets a window repeats; None for a quarter of
            `max_length`.
        prepend_bos: Whether texts begin with the beginning-of-sequence token; None for the model's
            default.
        tokens_per_pass: How many tokens a forward pass has at most, padding included.
    """

    lenses: Mapping[str, Lens]
    max_length: int | None = None
    long: str = "split"
    overlap: int | None = None
    prepend_bos: bool | None = None
    tokens_per_pass: int = 2048

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: For an option that does not exist or does not fit the others.
        """
        if not self.lenses or not next(iter(self.lenses.values())).additive:
            raise ValueError(
                "the first lens of a corpus has to be additive, such as ig_lens: its credits are "
                "what the rows hold"
            )
        taken = [name for name in self.lenses if name in COLUMNS]
        if taken:
            raise ValueError(f"a lens cannot be called {taken[0]!r}, as a column of its own is")
        if self.long not in LONG:
            raise ValueError(f"unknown long {self.long!r}; choose one of {', '.join(LONG)}")
        for name, least in (("max_length", 2), ("overlap", 1), ("tokens_per_pass", 1)):
            number = getattr(self, name)
            is_count = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (is_count and number >= least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}")

    def length(self, adapter: TokenizingModel) -> int:
        """Return how many tokens a model reads at once.

        Raises:
            ValueError: If the model does not take as many, or windows would not move on.
        """
        length = self.max_length or adapter.n_ctx
        if length > adapter.n_ctx:
            raise ValueError(
                f"max_length is {length}, but {adapter.name} takes at most {adapter.n_ctx} tokens"
            )
        if self.long == "split" and self.steps_back(length) > length - 2:
            raise ValueError(
                f"an overlap of {self.steps_back(length)} leaves windows of {length} tokens "
                "no target; give a smaller overlap"
            )
        return length

    def steps_back(self, length: int) -> int:
        """Return how many tokens a window repeats."""
        return max(1, length // 4) if self.overlap is None else self.overlap

    def described(self) -> dict[str, Any]:
        """Return the options as JSON can hold them, for the manifest."""
        lenses = {
            label: [lens.name, lens.describe_options()] for label, lens in self.lenses.items()
        }
        options = ("max_length", "long", "overlap", "prepend_bos", "tokens_per_pass")
        return {"lenses": lenses, **{name: getattr(self, name) for name in options}}
