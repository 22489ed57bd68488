"""Jacobian lens: what a state does to the last state to first order, on average over texts.

The output of block l is mapped by J_l, the mean Jacobian of the last block's output with respect to
it, and read out like the last state (Gurnee et al., "Verbalizable Representations Form a Global
Workspace in Language Models", Transformer Circuits Thread, 2026). With J_l the identity this is the
logit lens. TransformerLens fits and stores the matrices; the readout here is that of all lenses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from iglens_tl.arguments import Count, Layers
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.base import measure_prompt, state_point
from iglens_tl.lenses.level import LevelLens
from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.jacobian import fit_jacobians, resolve_jacobians
from iglens_tl.models.loading import adapt
from iglens_tl.prompts import PromptLike, Tokens
from iglens_tl.readout import Point, Reading
from iglens_tl.results.lens import LensResult
from iglens_tl.trace import Needs, Trace

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


@dataclass(frozen=True, kw_only=True)
class JacobianLens(LevelLens):
    """Jacobian lens: every block's output read out through its mean Jacobian.

    Its results hold levels, not credits, for the layers that the lens was fitted for and the last
    one, whose Jacobian is the identity: "L3" is read out of the output of block 3. `statistics`
    holds "entropy" and "kl_to_final", in nats. The model is a `TransformerBridge` with raw weights,
    as `load_model(…, backend="bridge")` gives it.

    Attributes:
        value: What is read out, as in `LogitLens`.
        lens: What `fit_jacobian_lens` returned, a file that its `save` wrote, the name of a model
            with a published lens, or "auto" for the published lens of this model.
        top_k: How many of the most probable tokens to keep per state; 0 also skips the ranks.
    """

    lens: JacobianLensLike = "auto"

    name: ClassVar[str] = "jacobian_lens"
    fitted: ClassVar[bool] = True
    label: ClassVar[str] = "Jacobian lens"
    measures: ClassVar[str] = (
        "The level after a layer, through the average Jacobian of the layers above it."
    )
    cost: ClassVar[str] = "fitting; then as the logit lens"

    def bind(self, adapter: ModelAdapter) -> JacobianLens:
        """Return the lens with its matrices, checked against the model."""
        return replace(super().bind(adapter), lens=resolve_jacobians(adapter, self.lens))

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the blocks' outputs."""
        return Needs(tuple(adapter.post_site(layer) for layer in self._layers(adapter)))

    def points(self, trace: Trace) -> list[Point]:
        """Return the states, carried to where the last one stands."""
        points = []
        for layer in self._layers(trace.adapter):
            point = state_point(trace, trace.adapter.post_site(layer))
            if layer in self._fitted.jacobians:
                carried = point.states @ self._fitted.jacobians[layer].to(point.states).T
                point = Point(self._key(trace, layer), carried, point.target_rows)
            points.append(point)
        return points

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep the levels."""
        layers = self._layers(trace.adapter)
        return assemble_levels(
            trace,
            lens=self,
            segments=[f"L{layer}" for layer in layers],
            readings=[readings[self._key(trace, layer)] for layer in layers],
            options={
                "fitted_on_texts": self._fitted.n_prompts,
                "corpus": self._fitted.metadata.get("corpus"),
            },
            notes=(_UNRELIABLE_NOTE,),
        )

    @property
    def _fitted(self) -> Any:
        return self.lens

    def _layers(self, adapter: ModelAdapter) -> list[int]:
        return [*sorted(self._fitted.jacobians), adapter.n_layers - 1]

    def _key(self, trace: Trace, layer: int) -> str:
        site = trace.adapter.post_site(layer)
        carried = layer in self._fitted.jacobians
        return f"{site}, Jacobian of {id(self.lens)}" if carried else site


def jacobian_lens(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Count | None = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
    **options: Any,
) -> LensResult:
    """Read every block's output out through its mean Jacobian; see `JacobianLens`.

    Args:
        model: A `HookedTransformer`, `TransformerBridge` or Hugging Face model, folded or not. Its
            hooks stay active.
        prompt: As in `trace_prompt`, as are `answer`, `generate`, `targets` and `prepend_bos`.
        answer: Read these tokens after the prompt.
        generate: Read up to this many greedily generated tokens.
        targets: Read these candidates for the position after the prompt.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token.
        **options: Those of `JacobianLens`.

    Returns:
        Levels, not credits, for the layers that the lens was fitted for and the last one.

    Raises:
        TypeError: For arguments of a wrong kind, or an option that the lens does not have.
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
    choice = {"answer": answer, "generate": generate, "targets": targets}
    choice |= {"prepend_bos": prepend_bos}
    return measure_prompt(JacobianLens, options, model, prompt, **choice)


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
