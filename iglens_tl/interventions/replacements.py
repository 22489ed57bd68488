"""Replacements: the updates that units write under an intervention instead of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.interventions.units import Unit
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.batching import TOKENS_PER_PASS, pad_right, shared_passes
from iglens_tl.models.capture import capture, unfold_texts
from iglens_tl.prompts import PromptLike, as_prompts


class Updates(ABC):
    """Gives what a kind of unit writes instead, in one or several draws."""

    @abstractmethod
    def updates(self, layer: int, draws: Int[Tensor, " branch"], n_pos: int) -> Tensor:
        """Return updates `[branch, pos, …]`; axes of size 1 are the same for all."""


class NoUpdate(Updates):
    """Units that write nothing."""

    def updates(self, layer: int, draws: Int[Tensor, " branch"], n_pos: int) -> Tensor:
        """Return zero."""
        del layer, draws, n_pos
        return torch.zeros(1, 1, 1)


@dataclass(frozen=True)
class MeanUpdates(Updates):
    """The mean of what units write, and means of texts drawn with replacement.

    Attributes:
        by_layer: For each layer `[draw, width]` or `[draw, head, width]`; draw 0 is the mean over
            all texts, the others are of drawn texts and say how certain it is.
    """

    by_layer: Sequence[Float[Tensor, "draw ..."]]

    def updates(self, layer: int, draws: Int[Tensor, " branch"], n_pos: int) -> Tensor:
        """Return what replaces a unit's update, the same at every position."""
        del n_pos
        return self.by_layer[layer][draws][:, None]


@dataclass(frozen=True)
class SampledUpdates(Updates):
    """Gives what units write in some texts.

    Attributes:
        by_text: For each text and layer `[pos, width]` or `[pos, head, width]`.
    """

    by_text: Sequence[Sequence[Tensor]]

    def updates(self, layer: int, draws: Int[Tensor, " branch"], n_pos: int) -> Tensor:
        """Return what replaces a unit's update: the text's own at the same position.

        A text that is too short begins again after its first token.
        """
        parts = []
        for draw in draws.tolist():
            activation = self.by_text[draw][layer]
            positions = torch.arange(n_pos)
            positions[1:] = 1 + (positions[1:] - 1) % (len(activation) - 1)
            parts.append(activation[positions])
        return torch.stack(parts)


def mean_updates(
    adapter: ModelAdapter,
    unit: Unit,
    texts: Sequence[Sequence[int]],
    *,
    n_draws: int,
    generator: torch.Generator,
) -> MeanUpdates:
    """Average what a kind of unit writes over all tokens of texts but their first.

    Raises:
        ValueError: For fewer than two texts, which leave the mean's uncertainty unknown.
    """
    if len(texts) < 2:
        raise ValueError("a mean with its standard error needs at least 2 reference texts, got 1")
    drawn = torch.randint(len(texts), (n_draws, len(texts)), generator=generator)
    counts = torch.stack([row.bincount(minlength=len(texts)) for row in drawn])
    weights = torch.cat([torch.ones(1, len(texts)), counts])
    by_text = _updates_in(adapter, unit, texts)
    sizes = weights @ torch.tensor([float(len(ids) - 1) for ids in texts])
    by_layer = []
    for of_texts in zip(*by_text, strict=True):
        stacked = torch.stack([update[1:].double().sum(0) for update in of_texts])
        total = torch.tensordot(weights.to(stacked), stacked, dims=1)
        shape = (-1, *[1] * (total.ndim - 1))
        by_layer.append((total / sizes.to(stacked).view(shape)).to(adapter.dtype))
    return MeanUpdates(by_layer)


def sampled_updates(
    adapter: ModelAdapter, unit: Unit, texts: Sequence[Sequence[int]]
) -> SampledUpdates:
    """Keep what a kind of unit writes in texts."""
    return SampledUpdates(_updates_in(adapter, unit, texts))


def _updates_in(
    adapter: ModelAdapter, unit: Unit, texts: Sequence[Sequence[int]]
) -> list[list[Tensor]]:
    """Return for each text and layer what a kind of unit writes; texts share forward passes."""
    layers = range(adapter.n_layers)
    sites = [site for layer in layers for site in unit.read_sites(adapter, layer)]
    by_text: list[list[Tensor]] = [[] for _ in texts]
    for batch in shared_passes(adapter, texts, tokens_per_pass=TOKENS_PER_PASS):
        tokens = pad_right([texts[index] for index in batch])
        found = capture(adapter, tokens, dict.fromkeys(sites, Tensor.clone))
        found = {site: unfold_texts(update, len(batch)) for site, update in found.items()}
        for layer in layers:
            for index, update in zip(batch, unit.update(adapter, layer, found), strict=True):
                by_text[index].append(update[: len(texts[index])])
    return by_text


_FILE = Path(__file__).with_name("reference_texts.txt")


def embedded_reference_texts() -> list[str]:
    """Return the reference texts of the package: short English texts of many kinds."""
    return _FILE.read_text(encoding="utf-8").splitlines()


def reference_ids(
    adapter: ModelAdapter, reference: PromptLike | None, *, prepend_bos: bool | None
) -> list[tuple[int, ...]]:
    """Return the token ids of the reference texts.

    Args:
        adapter: The model.
        reference: A list of texts (or of chats or token ids); None for the embedded ones.
        prepend_bos: As for prompts.

    Raises:
        TypeError: For anything but a list of texts.
        ValueError: For no text, or a text of one token.
    """
    texts = embedded_reference_texts() if reference is None else reference
    if isinstance(texts, (list, tuple)) and not texts:
        raise ValueError("reference holds no text; give several, or None for the embedded ones")
    prompts, is_batch = as_prompts(adapter, texts, prepend_bos=prepend_bos)
    if not is_batch:
        raise TypeError("reference must be a list of texts, got a single one; give several")
    for index, prompt in enumerate(prompts):
        if len(prompt.ids) < 2:
            raise ValueError(
                f"reference text {index} has one token only, and the first token is never used; "
                "give longer texts"
            )
    return [prompt.ids for prompt in prompts]
