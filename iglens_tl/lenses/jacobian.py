"""Jacobian lens: what a state does to the last state to first order, on average over texts.

The output of block l is mapped by J_l, the mean Jacobian of the last block's output with respect to
it, and read out like the last state (Gurnee et al., "Verbalizable Representations Form a Global
Workspace in Language Models", Transformer Circuits Thread, 2026). With J_l the identity this is the
logit lens. TransformerLens fits and stores the matrices; the readout here is that of all lenses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from iglens_tl.results.lens import LensResult
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.arguments import Count, Layers, resolve_top_k
from iglens_tl.lenses.base import Lens, run_lenses, state_point
from iglens_tl.trace import Needs, Trace
from iglens_tl.models.adapter import Model, ModelAdapter, adapt
from iglens_tl.models.jacobian import fit_jacobians, resolve_jacobians
from iglens_tl.prompts import PromptLike, Tokens, bind_value
from iglens_tl.readout import Point, Reading, Value, ValueLike

if TYPE_CHECKING:
    from os import PathLike

    JacobianLensLike: TypeAlias = Any | str | PathLike[str]
    Texts: TypeAlias = Sequence[str]
else:  # anything may arrive here; it is answered with a readable error
    JacobianLensLike = Texts = Any

_UNRELIABLE_NOTE = (
    "layer l is the output of block l, which the mean Jacobian carries to the last block's output "
    "to first order; this is unreliable in about the first third of the layers"
)


def jacobian_lens(
    model: Model,
    prompt: PromptLike,
    *,
    lens: JacobianLensLike = "auto",
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    value: ValueLike = "prob",
    top_k: Count = 5,
    prepend_bos: bool | None = None,
) -> LensResult:
    """Read every block's output out through its mean Jacobian.

    Args:
        model: A `TransformerBridge` with raw weights, as `load_model(…, backend="bridge")` gives
            it. Its hooks stay active.
        prompt: As in `ig_lens`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        lens: What `fit_jacobian_lens` returned, a file that its `save` wrote, the name of a model
            with a published lens, or "auto" for the published lens of this model.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        value: "prob", "logprob" (nats) or "logit", or a `Value`.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.

    Returns:
        Levels, not credits, for the layers that the lens was fitted for and the last one, whose
        Jacobian is the identity: "L3" is read out of the output of block 3. They do not sum to
        anything. `statistics` holds "entropy" and "kl_to_final", in nats.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments or a lens that do not fit the model, or if the installed
            TransformerLens has no Jacobian lens.

    Example:
        >>> from iglens_tl import fit_jacobian_lens, jacobian_lens, load_model
        >>> model = load_model("demo", backend="bridge")
        >>> text = "The capital of Vietnam is Hanoi. The capital of France is Paris."
        >>> lens = fit_jacobian_lens(model, [text], layers=[5, 6], skip_first=4)
        >>> result = jacobian_lens(model, "The capital of Vietnam is", lens=lens, answer=" Hanoi")
        >>> result.segments
        ('L5', 'L6', 'L7')
    """
    adapter = adapt(model)
    planned = plan_jacobian_lens(adapter, lens=lens, value=value, top_k=top_k)
    choice = {"answer": answer, "generate": generate, "targets": targets}
    return run_lenses(adapter, [planned], prompt, **choice, prepend_bos=prepend_bos).results[0]


def fit_jacobian_lens(
    model: Model,
    texts: Texts,
    *,
    corpus: str = "unnamed",
    layers: Layers | None = None,
    skip_first: Count = 16,
    max_length: Count = 128,
    rows_per_pass: Count = 8,
    progress: bool = False,
) -> Any:
    """Fit a Jacobian lens on texts, with TransformerLens' estimator.

    Costs one forward pass and `d_model / rows_per_pass` backward passes of `rows_per_pass` copies
    for each text. About 100 texts of 128 tokens make a usable lens.

    Args:
        model: A `TransformerBridge` with raw weights and a tokenizer, in evaluation mode.
        texts: The texts. Those that are too short are left out with a warning.
        corpus: What the texts are, to be recorded in the lens.
        layers: Blocks whose outputs are fitted, by default all but the last.
        skip_first: How many positions at the beginning of a text are left out, where attention
            sinks make states unlike others.
        max_length: How many tokens of a text are used.
        rows_per_pass: How many dimensions of the last state are differentiated at once.
        progress: Whether to show a progress bar.

    Returns:
        A TransformerLens `JacobianLens`; its `save(path)` writes the published format.

    Raises:
        TypeError: For texts that are no list of strings.
        ValueError: For a model or options that TransformerLens refuses, or if no text is long
            enough.
    """
    adapter = adapt(model)
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}")
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TypeError("texts must be a list of at least one string")
    if adapter.tokenizer is None:
        raise ValueError(f"{adapter.name} has no tokenizer, so it cannot read texts")
    return fit_jacobians(
        adapter,
        texts,
        corpus=corpus,
        layers=layers,
        skip_first=skip_first,
        max_length=max_length,
        rows_per_pass=rows_per_pass,
        progress=progress,
    )


def plan_jacobian_lens(
    adapter: ModelAdapter,
    *,
    lens: JacobianLensLike = "auto",
    value: ValueLike = "prob",
    top_k: Count = 5,
) -> JacobianLens:
    """Check the options of `jacobian_lens` and return the lens, ready to measure."""
    value, top_k = bind_value(adapter, value), resolve_top_k(top_k)
    return JacobianLens(
        adapter=adapter, value=value, top_k=top_k, fitted=resolve_jacobians(adapter, lens)
    )


@dataclass(frozen=True, kw_only=True)
class JacobianLens(Lens):
    """Jacobian lens with resolved options."""

    name = "jacobian_lens"
    statistics = True

    adapter: ModelAdapter
    value: Value
    top_k: int
    fitted: Any

    @property
    def layers(self) -> list[int]:
        """The layers that the lens was fitted for, and the last one."""
        return [*sorted(self.fitted.jacobians), self.adapter.n_layers - 1]

    def needs(self) -> Needs:
        """Ask for the blocks' outputs."""
        return Needs(tuple(self.adapter.post_site(layer) for layer in self.layers))

    def points(self, trace: Trace) -> list[Point]:
        """Return the states, carried to where the last one stands."""
        points = []
        for layer in self.layers:
            point = state_point(trace, self.adapter.post_site(layer))
            if layer in self.fitted.jacobians:
                carried = point.states @ self.fitted.jacobians[layer].to(point.states).T
                point = Point(self._key(layer), carried, point.target_rows)
            points.append(point)
        return points

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        return assemble_levels(
            trace,
            lens=self.name,
            value=self.value,
            segments=[f"L{layer}" for layer in self.layers],
            readings=[readings[self._key(layer)] for layer in self.layers],
            top_k=self.top_k,
            options={
                "fitted_on_texts": self.fitted.n_prompts,
                "corpus": self.fitted.metadata.get("corpus"),
            },
            notes=(_UNRELIABLE_NOTE,),
        )

    def _key(self, layer: int) -> str:
        site = self.adapter.post_site(layer)
        return f"{site}, Jacobian" if layer in self.fitted.jacobians else site
