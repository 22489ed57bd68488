"""The planted models: what each of them holds, and what is true of it by construction."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import transformers

from experiments.planted.circuits import N_HEADS, N_LAYERS, Construction
from experiments.planted.kinds import KINDS, Kind
from experiments.planted.vocabulary import (
    CAPITALS,
    COPY_PROMPT,
    COUNTRY_PROMPT,
    RELAY_PROMPT,
    build_tokenizer,
)
from iglens_tl import load_model
from iglens_tl.results.segments import head_label, mlp_label

Plant: TypeAlias = Callable[[Construction], None]

MODERATE = 0.85
"""How much of the answer the models with a sharpening layer write at first."""


@dataclass(frozen=True)
class PlantedModel:
    """A model whose answer comes from known places.

    Attributes:
        kind: Which mechanism is planted, a name of `KINDS`.
        place: Where: the layers (and head) of the mechanism.
        seed: Seed of everything that is not planted; it also chooses the fact.
        prompt: The text.
        answer: The word that the model answers.
        writers: The segments that bring the answer into what the readout reads, such as "L3.mlp".
        necessary: The segments without which, one by one, the answer is no longer the first.
        plants: What plants the mechanism in a model of noise, step by step.
    """

    kind: str
    place: str
    seed: int
    prompt: str
    answer: str
    writers: tuple[str, ...]
    necessary: tuple[str, ...]
    plants: tuple[Plant, ...]

    @property
    def name(self) -> str:
        """The model's name, such as "router at L1, L3, seed 0"."""
        return f"{self.kind} at {self.place}, seed {self.seed}"

    @property
    def expected(self) -> Kind:
        """What each group of lenses is expected to say."""
        return KINDS[self.kind]

    @property
    def truths(self) -> Mapping[str, tuple[str, ...]]:
        """The true segments of each question."""
        return {"writers": self.writers, "necessary": self.necessary}

    def build(self) -> transformers.GPT2LMHeadModel:
        """Write the weights."""
        construction = Construction(self.seed)
        for plant in self.plants:
            plant(construction)
        return construction.model

    def load(self, **options: Any) -> Any:
        """Return the model as `iglens_tl.load_model` gives it, with these options of it."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            return load_model(folder, **options)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder."""
        self.build().save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)


def writer(layer: int, *, seed: int) -> PlantedModel:
    """One layer's MLP knows the capital and writes it."""
    plants = (partial(Construction.write, layer=layer, reads="country", writes="answer"),)
    only = (mlp_label(layer),)
    return _model("writer", f"L{layer}", seed, COUNTRY_PROMPT, only, only, plants)


def head(layer: int, number: int, *, seed: int) -> PlantedModel:
    """One head copies the capital from an earlier token."""
    plants = (partial(Construction.copy, layer=layer, head=number),)
    only = (head_label(layer, number),)
    return _model("head", only[0], seed, COPY_PROMPT, only, only, plants)


def cooperation(first: int, second: int, *, seed: int) -> PlantedModel:
    """Two MLPs write half of the capital each; half of it does not overcome the doubt."""
    half = partial(Construction.write, reads="country", writes="answer", amount=0.5)
    plants = (partial(half, layer=first), partial(half, layer=second))
    both = (mlp_label(first), mlp_label(second))
    return _model("cooperation", _pair(first, second), seed, COUNTRY_PROMPT, both, both, plants)


def sharpener(first: int, second: int, *, seed: int) -> PlantedModel:
    """An MLP writes the capital, already the first answer; a later one amplifies what is there."""
    plants = (
        partial(Construction.write, layer=first, reads="country", writes="answer", amount=MODERATE),
        partial(Construction.amplify, layer=second, amount=0.4),
    )
    only = (mlp_label(first),)
    return _model("sharpener", _pair(first, second), seed, COUNTRY_PROMPT, only, only, plants)


def cooler(first: int, second: int, *, seed: int) -> PlantedModel:
    """An MLP writes the capital; a later one only lowers the temperature, through the norm."""
    plants = (
        partial(Construction.write, layer=first, reads="country", writes="answer", amount=MODERATE),
        partial(Construction.cool, layer=second),
    )
    only = (mlp_label(first),)
    return _model("cooler", _pair(first, second), seed, COUNTRY_PROMPT, only, only, plants)


def router(first: int, second: int, *, seed: int) -> PlantedModel:
    """An MLP writes the idea of the capital, unreadable; a later MLP reads it and writes it."""
    plants = (
        partial(Construction.write, layer=first, reads="country", writes="idea"),
        partial(Construction.write, layer=second, reads="idea", writes="answer"),
    )
    both = (mlp_label(first), mlp_label(second))
    return _model("router", _pair(first, second), seed, COUNTRY_PROMPT, both[1:], both, plants)


def relay(first: int, second: int, number: int, *, seed: int) -> PlantedModel:
    """An MLP writes the idea at an earlier token; a later head fetches it and writes it."""
    plants = (
        partial(Construction.write, layer=first, reads="country", writes="idea"),
        partial(Construction.copy, layer=second, head=number),
    )
    both = (mlp_label(first), head_label(second, number))
    place = f"L{first}, {both[1]}"
    return _model("relay", place, seed, RELAY_PROMPT, both[1:], both, plants)


def backup(first: int, second: int, *, seed: int) -> PlantedModel:
    """An MLP writes the capital; a later one would write it, were it not there yet."""
    plants = (
        partial(Construction.write, layer=first, reads="country", writes="answer"),
        partial(
            Construction.write, layer=second, reads="country", writes="answer", unless="answer"
        ),
    )
    only = (mlp_label(first),)
    return _model("backup", _pair(first, second), seed, COUNTRY_PROMPT, only, (), plants)


def all_models(seeds: range = range(3)) -> Iterator[PlantedModel]:
    """Yield every mechanism at every place; heads and seeds take turns over the places.

    Mechanisms of one layer come with every seed, those of two layers with one seed for each pair.
    """
    for layer in range(N_LAYERS):
        for seed in seeds:
            yield writer(layer, seed=seed)
            yield head(layer, (layer + seed) % N_HEADS, seed=seed)
    for i, (first, second) in enumerate(combinations(range(N_LAYERS), 2)):
        seed = seeds[i % len(seeds)]
        for of_two in (cooperation, sharpener, cooler, router, backup):
            yield of_two(first, second, seed=seed)
        yield relay(first, second, i % N_HEADS, seed=seed)


def _model(
    kind: str,
    place: str,
    seed: int,
    prompt: str,
    writers: tuple[str, ...],
    necessary: tuple[str, ...],
    plants: tuple[Plant, ...],
) -> PlantedModel:
    country, capital = list(CAPITALS.items())[seed % len(CAPITALS)]
    text = prompt.format(country=country, capital=capital)
    return PlantedModel(kind, place, seed, text, capital, writers, necessary, plants)


def _pair(first: int, second: int) -> str:
    return f"L{first}, L{second}"
