"""The data of a result, plain and immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Int

from iglens_tl.results.folders import hide_folders, shorten_paths

Kind: TypeAlias = Literal["credit", "level", "effect", "value"]
"""The kinds of numbers that a result holds.

"credit": they sum to `final − baseline`. "level": what is read out at the end of each segment.
"effect": what a separate intervention on each segment does. "value": anything else that is read
along the layers, such as conductances.
"""


@dataclass(frozen=True)
class Text:
    """A tokenised text.

    Attributes:
        ids: Token ids.
        tokens: The same tokens for people; two ids can print alike.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A token whose value was attributed.

    Attributes:
        prompt: Index of its text.
        position: The position whose residual state predicts it. A next token of the text stands at
            `position + 1`.
        token_id: Its id.
        token: The token for people.
    """

    prompt: int
    position: int
    token_id: int
    token: str


@dataclass(frozen=True)
class TopTokens:
    """The most probable tokens at the end of every segment.

    Attributes:
        ids: `[target, segment, top]`, best first.
        probs: `[target, segment, top]`, their probabilities.
        tokens: The string of every id that occurs.
    """

    ids: Int[np.ndarray, "target segment top"]
    probs: Float[np.ndarray, "target segment top"]
    tokens: Mapping[int, str]


@dataclass(frozen=True)
class Provenance:
    """The origin of a result.

    Of absolute paths only the last part is kept, whoever makes it: results are saved and mailed.

    Attributes:
        model: The model's name, backend, sizes and precision.
        lens: What readers call the lens ("label") and what its numbers are ("measures").
        options: The lens's options.
        checks: How closely the readout reproduces the model.
        versions: Versions of the packages involved.
        created: When, in UTC, as ISO 8601.
        notes: What a reader must know, in sentences.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    lens: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Keep only the last part of every absolute path."""
        for name in ("model", "options", "checks", "versions"):
            object.__setattr__(self, name, shorten_paths(getattr(self, name)))
        object.__setattr__(self, "notes", tuple(map(hide_folders, self.notes)))

    @property
    def model_name(self) -> str:
        """The model's name, or that of its folder."""
        return str(self.model.get("name") or "unnamed model")


_PER_SEGMENT = ("credit", "effect")


@dataclass(frozen=True, eq=False)
class LensData:
    """The numbers of one lens for one or several texts.

    Attributes:
        lens: The lens's name.
        unit: The unit of `values`.
        kind: What `values` are; see `Kind`.
        segments: Labels of the parts of the model, lowest first: "embed", "L0", "L0.attn", …
        texts: The texts, by prompt index.
        targets: The attributed tokens.
        values: `[target, segment]`, what the lens measured; for a level lens the levels.
        levels: `[target, segment]`, the value read out at the end of each segment.
        baseline: `[target]`, the value at the beginning; for a level lens its first level.
        final: `[target]`, the value read out at the last residual state.
        ranks: `[target, segment]`, the target's rank at the end of each segment, 1 for the most
            probable token; None if not computed.
        top: The most probable tokens at the end of each segment; None if not computed.
        statistics: By name, `[target, segment]` numbers that are known of each segment's end, such
            as "entropy" and "kl_to_final" (KL from the model's own distribution), in nats.
        provenance: Where the numbers come from.
        label: Under what name the result stands among others; None for the lens's.
    """

    lens: str
    unit: str
    kind: Kind
    segments: tuple[str, ...]
    texts: tuple[Text, ...]
    targets: tuple[Target, ...]
    values: Float[np.ndarray, "target segment"]
    levels: Float[np.ndarray, "target segment"]
    baseline: Float[np.ndarray, " target"]
    final: Float[np.ndarray, " target"]
    ranks: Int[np.ndarray, "target segment"] | None = None
    top: TopTokens | None = None
    statistics: Mapping[str, Float[np.ndarray, "target segment"]] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    label: str | None = None

    def __post_init__(self) -> None:
        """Check that the shapes agree and make the arrays read-only."""
        if self.kind not in get_args(Kind):
            raise ValueError(f"unknown kind {self.kind!r}; choose one of {get_args(Kind)}")
        shape = (len(self.targets), len(self.segments))
        arrays = {"values": self.values, "levels": self.levels, "ranks": self.ranks}
        arrays |= self.statistics
        if self.top is not None:
            arrays |= {"top.ids": self.top.ids, "top.probs": self.top.probs}
        for name, array in arrays.items():
            if array is not None and array.shape[:2] != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape} first")
        for name, array in {"baseline": self.baseline, "final": self.final}.items():
            if array.shape != shape[:1]:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape[:1]}")
        for array in (*arrays.values(), self.baseline, self.final):
            if array is not None:
                array.setflags(write=False)

    @property
    def sums(self) -> Float[np.ndarray, " target"]:
        """Sum of the values of each target."""
        return self.values.sum(axis=1)

    @property
    def name(self) -> str:
        """The name under which the result stands among others: its label, or its lens's name."""
        return self.label or self.lens

    @property
    def additive(self) -> bool:
        """True if `values` sum to `final − baseline`, up to the completeness error."""
        return self.kind == "credit"

    @property
    def changes(self) -> Float[np.ndarray, "target segment"]:
        """The part of each segment: its credit or effect, or for others the level's change."""
        return self.values if self.kind in _PER_SEGMENT else self.levels - self._starts()

    @property
    def completeness_error(self) -> Float[np.ndarray, " target"]:
        """The completeness error, sum − (final − baseline); NaN for a level lens."""
        error = self.sums - (self.final - self.baseline)
        return error if self.additive else np.full_like(error, np.nan)

    @property
    def segment_error(self) -> Float[np.ndarray, "target segment"]:
        """The difference of each credit from the level's change over its segment; 0 for others."""
        if not self.additive:
            return np.zeros_like(self.values)
        return self.values - (self.levels - self._starts())

    def _starts(self) -> Float[np.ndarray, "target segment"]:
        return np.concatenate([self.baseline[:, None], self.levels[:, :-1]], axis=1)
