"""Logit lens: what the model would predict if it stopped after a layer.

Every state goes through the model's own final norm, unembedding and output transform
(nostalgebraist, "interpreting GPT: the logit lens", 2020). The norm's statistics are those of the
state itself; the frozen-norm variant keeps those of the last state, which makes the logits linear
in the state and differs from the lens proper by an effective temperature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.chain import Chain, build_chain
from iglens_tl.arguments import Count, Layers, resolve_top_k
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike

NORMS = {
    "own": "the final norm takes its statistics from the state itself",
    "frozen": "the final norm keeps the statistics of the last state",
}
"""What the final norm does to an intermediate state."""


def logit_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    layers: Layers | None = None,
    sublayers: bool = False,
    value: ValueLike = "prob",
    norm: str = "own",
    top_k: Count = 5,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Read every layer's state out as if it were the last.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, folded or not. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        layers: Only after these blocks, and the last one.
        sublayers: Also between attention and MLP of every block (`resid_mid`).
        value: "prob", "logprob" (nats) or "logit", or a `Value`.
        norm: "own" takes the final norm's statistics from each state, "frozen" from the last one.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Levels, not credits: segment "L3" holds what is read out after block 3, "embed" what is read
        out of the embedding. They do not sum to anything; their differences are `ig_lens`'s
        credits. `statistics` holds the "entropy" of each distribution and "kl_to_final", its KL
        divergence from the model's own, in nats.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model.

    Example:
        >>> from iglens_tl import load_model, logit_lens
        >>> result = logit_lens(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> int(result.ranks[0, -1])
        1
    """
    adapter = adapt(model)
    lens = plan_logit_lens(
        adapter, layers=layers, sublayers=sublayers, value=value, norm=norm, top_k=top_k
    )
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [lens], prompt, **choice, prepend_bos=prepend_bos).results[0]


def plan_logit_lens(
    adapter: ModelAdapter,
    *,
    layers: Layers | None = None,
    sublayers: bool = False,
    value: ValueLike = "prob",
    norm: str = "own",
    top_k: Count = 5,
) -> LogitLens:
    """Check the options of `logit_lens` and return the lens, ready to measure."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}; choose one of {', '.join(NORMS)}")
    return LogitLens(
        adapter=adapter,
        value=bind_value(adapter, value),
        norm=norm,
        top_k=resolve_top_k(top_k),
        chain=build_chain(adapter, layers=layers, sublayers=sublayers),
        layers=None if layers is None else tuple(int(layer) for layer in layers),
        sublayers=sublayers,
    )


@dataclass(frozen=True, kw_only=True)
class LogitLens(Lens):
    """Logit lens with resolved options."""

    name = "logit_lens"
    statistics = True

    adapter: ModelAdapter
    value: Value
    norm: str
    top_k: int
    chain: Chain
    layers: tuple[int, ...] | None
    sublayers: bool

    def needs(self) -> Needs:
        """Ask for the chain's states."""
        return Needs(self.chain.sites)

    def points(self, trace: Trace) -> list[Point]:
        """Return the states, with the last one's norm where it is frozen."""
        points = [state_point(trace, site) for site in self.chain.sites]
        final_norm = self.adapter.readout.norm
        if self.norm == "own" or final_norm is None:
            return points
        scale = final_norm.scale(points[-1].states)
        frozen = [replace(p, key=f"{p.key}, frozen norm", scale=scale) for p in points[:-1]]
        return [*frozen, points[-1]]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        return assemble_levels(
            trace,
            lens=self.name,
            value=self.value,
            segments=self.chain.segments,
            readings=[readings[point.key] for point in self.points(trace)],
            top_k=self.top_k,
            options={
                "layers": self.layers,
                "sublayers": self.sublayers,
                "norm": self.norm,
            },
        )
