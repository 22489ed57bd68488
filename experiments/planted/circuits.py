"""What can be planted into a GPT-2: neurons that write, a head that copies, and noise around them.

A layer writes by rows of its MLP: a neuron's input weights are a feature's direction, so that its
activation is about `_GAIN` where the feature is 1 and about 0 where it is 0 (a threshold halfway
keeps GELU in its flat or its straight part), and its output weights are the direction to write,
divided by `_GAIN`. A head writes by moving a feature: its query and key match "asks" with "named",
with the first token as the sink for all tokens that do not ask, and its value and output matrices
carry `idea` over to `answer`.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from experiments.planted.stream import (
    ANSWER_LOGIT,
    CONSTANT,
    D_MODEL,
    DOUBT_LOGIT,
    SCALE,
    draw_stream,
)
from experiments.planted.vocabulary import ASKING, BOS, CAPITALS, UNSURE, WORDS

N_LAYERS = 5
N_HEADS = 4
_D_HEAD = D_MODEL // N_HEADS
_D_MLP = 4 * D_MODEL  # the only width that TransformerLens converts to a HookedTransformer
_GAIN = 8.0
_LOOKING = 16.0
"""The attention score with which an asking token looks at a name."""
_SINKING = 8.0
"""The score with which any token looks at the first one."""
_COOLED = 0.75
"""The part of the constant that a cooling layer takes away."""


class Construction:
    """A GPT-2 under construction: random layers that touch no answer, and what is planted in them.

    Attributes:
        model: The Hugging Face model.
        stream: The directions of its residual stream.
    """

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=len(WORDS),
            n_embd=D_MODEL,
            n_layer=N_LAYERS,
            n_head=N_HEADS,
            n_positions=32,
            bos_token_id=WORDS.index(BOS),
            eos_token_id=WORDS.index("</s>"),
            tie_word_embeddings=False,
        )
        self.model = transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)
        self.stream = draw_stream(generator)
        self._set_embedding(generator)
        self._set_readout(generator)
        for layer in range(N_LAYERS):
            self._fill_with_noise(layer, generator)

    def write(
        self,
        layer: int,
        reads: str,
        writes: str,
        *,
        amount: float = 1.0,
        unless: str | None = None,
    ) -> None:
        """Let an MLP write one feature of each fact where another is 1.

        Args:
            layer: The layer.
            reads: The feature that is looked for.
            writes: The feature that is written.
            amount: How much of it.
            unless: A feature that keeps the neuron silent where it is 1.
        """
        inputs = self.stream.by_fact[reads]
        if unless is not None:
            inputs = inputs - self.stream.by_fact[unless]
        outputs = amount * self.stream.by_fact[writes]
        self._plant_neurons(layer, 2 * _GAIN * inputs, -_GAIN, outputs / _GAIN)

    def amplify(self, layer: int, *, amount: float) -> None:
        """Let an MLP write `amount` times the answer that is there; nothing where there is none."""
        answer = self.stream.by_fact["answer"]
        self._plant_neurons(layer, _GAIN * answer, 0.0, amount * answer / _GAIN)

    def cool(self, layer: int) -> None:
        """Let an MLP take most of the constant away from tokens that must be answered.

        The final norm then divides by less, and all logits grow by the same factor: the layer
        lowers the temperature without writing anything that the readout reads, as the entropy
        neurons of language models do (Stolfo et al. 2024, arXiv 2406.16254).
        """
        doubt, constant = self.stream.single["doubt"], self.stream.single["constant"]
        outputs = -_COOLED * CONSTANT / _GAIN * constant
        self._plant_neurons(layer, 2 * _GAIN * doubt[None], -_GAIN, outputs[None])

    def copy(self, layer: int, head: int) -> None:
        """Let a head of the asking token read the idea at a name and write it as the answer."""
        single, n_facts = self.stream.single, len(CAPITALS)
        query, key, value = (torch.zeros(_D_HEAD, D_MODEL).double() for _ in range(3))
        looking, sinking = ((score * _D_HEAD**0.5) ** 0.5 for score in (_LOOKING, _SINKING))
        query[0], key[0] = looking * single["asks"], looking * single["named"]
        query[1], key[1] = sinking / CONSTANT * single["constant"], sinking * single["sink"]
        value[:n_facts] = self.stream.by_fact["idea"]
        attention, rows = self._block(layer).attn, _rows_of_head(head)
        for part, weight in enumerate((query, key, value)):
            columns = slice(part * D_MODEL + rows.start, part * D_MODEL + rows.stop)
            attention.c_attn.weight[:, columns] = (weight.T / SCALE).float()
        output = torch.zeros(_D_HEAD, D_MODEL)
        output[:n_facts] = self.stream.by_fact["answer"].float()
        attention.c_proj.weight[rows] = output

    def _block(self, layer: int) -> Any:
        return self.model.transformer.h[layer]

    def _plant_neurons(
        self,
        layer: int,
        inputs: Float[Tensor, "neuron d_model"],
        bias: float,
        outputs: Float[Tensor, "neuron d_model"],
    ) -> None:
        """Replace the first neurons of an MLP, whose inputs are features before the norm."""
        mlp, n = self._block(layer).mlp, len(inputs)
        mlp.c_fc.weight[:, :n] = (inputs.T / SCALE).float()
        mlp.c_fc.bias[:n] = bias
        mlp.c_proj.weight[:n] = outputs.float()

    def _set_embedding(self, generator: torch.Generator) -> None:
        stream, single = self.stream, self.stream.single
        embedding = _normal(generator, len(WORDS), len(stream.noise)) * 0.15 @ stream.noise
        embedding += CONSTANT * single["constant"]
        embedding[WORDS.index(BOS)] += single["sink"]
        embedding[WORDS.index(ASKING)] += single["asks"] + single["doubt"]
        for fact, (country, capital) in enumerate(CAPITALS.items()):
            at_country = single["named"] + single["doubt"] + stream.by_fact["country"][fact]
            embedding[WORDS.index(country)] += at_country
            embedding[WORDS.index(capital)] += single["named"] + stream.by_fact["idea"][fact]
        transformer = self.model.transformer
        transformer.wte.weight.copy_(embedding)
        n_positions = len(transformer.wpe.weight)
        positions = _normal(generator, n_positions, len(stream.noise)) * 0.1 @ stream.noise
        transformer.wpe.weight.copy_(positions)

    def _set_readout(self, generator: torch.Generator) -> None:
        stream = self.stream
        unembedding = _normal(generator, len(WORDS), len(stream.noise)) * 0.2 @ stream.noise
        unembedding[WORDS.index(UNSURE)] = DOUBT_LOGIT * stream.single["doubt"]
        for fact, capital in enumerate(CAPITALS.values()):
            unembedding[WORDS.index(capital)] = ANSWER_LOGIT * stream.by_fact["answer"][fact]
        self.model.lm_head.weight.copy_(unembedding / SCALE)

    def _fill_with_noise(self, layer: int, generator: torch.Generator) -> None:
        """Let all heads and neurons of a layer read at random and write noise."""
        block, noise, features = (
            self._block(layer),
            self.stream.noise,
            self.stream.features,
        )
        reading = _normal(generator, 3 * D_MODEL, len(noise)) @ noise
        block.attn.c_attn.weight.copy_(reading.T)
        block.attn.c_proj.weight.copy_(_normal(generator, D_MODEL, len(noise)) * 0.03 @ noise)
        reading = _normal(generator, _D_MLP, len(features)) @ features
        block.mlp.c_fc.weight.copy_(1.5 * reading.T)
        block.mlp.c_proj.weight.copy_(_normal(generator, _D_MLP, len(noise)) * 0.012 @ noise)


def _rows_of_head(head: int) -> slice:
    return slice(head * _D_HEAD, (head + 1) * _D_HEAD)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
