"""Traces: the states of a forward pass at the read positions, for any number of lenses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.batching import TOKENS_PER_PASS, cut_padding, pad_right, shared_passes
from iglens_tl.models.capture import capture
from iglens_tl.models.checks import check_model
from iglens_tl.models.components import embedding_sites
from iglens_tl.models.loading import adapt
from iglens_tl.prompts import PromptLike, Request, Tokens, as_prompts, build_requests, token_string
from iglens_tl.prompts.tokenization import decode
from iglens_tl.results.data import Target, Text

if TYPE_CHECKING:
    import xarray

Reduction: TypeAlias = Callable[[Tensor, list[int]], Tensor]
"""Maps the activation of a whole text, such as `[pos, d_model]`, and its read positions to what to
keep, a new tensor."""


@dataclass(frozen=True)
class Needs:
    """The activations that a lens wants of the forward pass.

    Attributes:
        sites: Hooks of which the states at the read positions are kept.
        reductions: By name, a hook and what is kept of its states over a whole text. Equal names
            stand for equal reductions.
    """

    sites: tuple[str, ...] = ()
    reductions: Mapping[str, tuple[str, Reduction]] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """True if the lens needs the forward pass at all."""
        return bool(self.sites or self.reductions)

    def __or__(self, other: Needs) -> Needs:
        """Return both together."""
        sites = dict.fromkeys([*self.sites, *other.sites])
        return Needs(tuple(sites), {**self.reductions, **other.reductions})


class Trace:
    """The texts, the targets and the activations that any number of lenses measure.

    A trace holds activations at the read positions only. A lens that needs more than it holds runs
    the model once more, and the trace keeps and counts that too; `lens(trace)` of a lens that needs
    only states costs no forward pass. A row is one read position of one text; several targets may
    be read there.

    Attributes:
        adapter: The model.
        requests: The texts and their targets, as token ids.
        token_ids: `[target]`, the target tokens.
        target_rows: `[target]`, the row at which each target is read.
        row_texts: The index of each row's text.
        states: By hook, `[row, …]` activations in the readout's precision and on its device.
        reduced: By name, for each text what a reduction kept.
        n_forward_passes: How many forward passes the model has run for this trace.
        choice: How the targets were chosen, for the provenance.
        check: How far the model is from what the lenses assume of it, found on the first text.

    Example:
        >>> from iglens_tl import IGLens, LogitLens, load_model, trace_prompt
        >>> trace = trace_prompt(load_model("demo"), "The capital of Vietnam is", answer=" Hanoi")
        >>> [len(lens(trace).segments) for lens in (LogitLens(), IGLens(), IGLens(baseline="zero"))]
        [9, 9, 9]
        >>> trace.n_forward_passes
        1
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        requests: Sequence[Request],
        *,
        choice: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the model and begin a trace without activations; `trace_prompt` makes a full one.

        Raises:
            ValueError: For a model whose readout disagrees with its own probabilities.
        """
        self.adapter = adapter
        self.requests = tuple(requests)
        self.choice = dict(choice or {})
        self.check = check_model(adapter, torch.tensor(self.requests[0].ids))
        self.states: dict[str, Tensor] = {}
        self.reduced: dict[str, list[Tensor]] = {}
        self.n_forward_passes = 0
        self._read = [sorted(set(request.positions)) for request in requests]
        self.token_ids = torch.tensor([t for request in requests for t in request.target_ids])
        self.target_rows = _target_rows(requests, self._read)
        self.row_texts = tuple(text for text, read in enumerate(self._read) for _ in read)
        self._cache: _GivenCache | None = None

    @classmethod
    def from_cache(
        cls,
        model: Model,
        cache: Any,
        tokens: Any,
        *,
        answer: Tokens | None = None,
        targets: Tokens | None = None,
    ) -> Trace:
        """Make a trace of what `model.run_with_cache(tokens)` returned, without running it again.

        What is measured is what the cache holds, also if it comes from a run with interventions.
        Only to check the model itself, once for all its traces, the first text runs.

        Args:
            model: The model that filled the cache.
            cache: TransformerLens's `ActivationCache`, or a mapping from hook names to activations
                `[batch, pos, …]`, over all positions.
            tokens: The token ids that were run, `[pos]` or `[batch, pos]`.
            answer: Attribute these tokens, as text or ids, with which the tokens end.
            targets: Attribute these candidates for the position after the tokens. Without `answer`
                or `targets`, every next token is attributed.

        Raises:
            TypeError: For arguments of a wrong kind.
            ValueError: For tokens that do not fit the cache, an answer with which they do not end,
                a model whose readout disagrees with its own probabilities, or, as soon as a lens
                needs it, a hook that the cache lacks.

        Example:
            >>> from iglens_tl import LogitLens, Trace, load_model
            >>> model = load_model("demo")
            >>> tokens = model.to_tokens("The capital of Vietnam is")
            >>> _, cache = model.run_with_cache(tokens)
            >>> result = LogitLens()(Trace.from_cache(model, cache, tokens, targets=[" Hanoi"]))
            >>> bool(result.final[0] > 0.99)
            True
        """
        adapter = adapt(model)
        prompts, _ = as_prompts(adapter, tokens)
        texts = [list(prompt.ids) for prompt in prompts]
        if answer is None:
            requests = build_requests(adapter, texts, targets=targets)
        elif targets is not None:
            raise ValueError("give only one of answer and targets")
        else:
            ends = [_answer_length(adapter, ids, answer) for ids in texts]
            pairs = list(zip(texts, ends, strict=True))
            answers: Any = [ids[-n:] for ids, n in pairs]
            requests = build_requests(adapter, [ids[:-n] for ids, n in pairs], answer=answers)
        trace = cls(adapter, requests, choice={"source": "activation cache"})
        trace._cache = _GivenCache(adapter, cache, trace)
        return trace

    @cached_property
    def texts(self) -> tuple[Text, ...]:
        """The texts, for people."""
        return tuple(
            Text(request.ids, tuple(token_string(self.adapter, token) for token in request.ids))
            for request in self.requests
        )

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The attributed tokens, for people, in the order of `token_ids`."""
        return tuple(
            Target(index, position, token, token_string(self.adapter, token))
            for index, request in enumerate(self.requests)
            for position, token in zip(request.positions, request.target_ids, strict=True)
        )

    def collect(self, needs: Iterable[Needs]) -> None:
        """Run the model once for whatever of the needs the trace does not hold yet.

        Texts share forward passes, as `models.batching.shared_passes` decides, and of whole texts
        only what a reduction keeps is held.

        Raises:
            ValueError: If a state is NaN or infinite, or a given cache lacks a hook.
        """
        wanted = list(needs)
        sites = [site for need in wanted for site in need.sites if site not in self.states]
        sites = list(dict.fromkeys(sites))
        reductions = {
            name: reduction
            for need in wanted
            for name, reduction in need.reductions.items()
            if name not in self.reduced
        }
        self._reduce_held(reductions)
        if not sites and not reductions:
            return
        if self._cache is not None:
            states, reduced = self._cache.read(sites, reductions)
        else:
            states, reduced = self._run(sites, reductions)
        _require_finite(self, states)
        self.states.update(states)
        self.reduced.update(reduced)

    def target_states(self, site: str) -> list[Tensor]:
        """Return for each text the states of its targets at a hook, `[target, …]`."""
        sizes = [len(request.target_ids) for request in self.requests]
        return list(self.states[site][self.target_rows].split(sizes))

    def activations(self, hook: str) -> xarray.DataArray:
        """Return the activations at one kind of hook with named axes, one row for each target.

        Args:
            hook: "embed" (the input of the first block), "resid_post", "resid_mid", "attn_out",
                "mlp_out" or "z" of every layer.

        Returns:
            Axes `target`, `layer` and `d_model` (or `head` and `d_head`), with the targets' prompt,
            position and token as coordinates. The numbers are a copy.

        Raises:
            ValueError: For another kind, or one that the model does not have.
        """
        import xarray

        adapter = self.adapter
        sites = _sites_of(adapter, hook)
        self.collect([Needs(tuple(sites.values()))])
        stacked = torch.stack([self.states[site][self.target_rows] for site in sites.values()], 1)
        inner = ("d_model",) if stacked.ndim == 3 else ("head", "d_head")
        targets = self.targets
        names = {
            name: ("target", [getattr(target, name) for target in targets])
            for name in ("prompt", "position", "token_id", "token")
        }
        return xarray.DataArray(
            stacked.cpu().numpy(),
            dims=("target", "layer", *inner),
            coords={"layer": list(sites), **names},
            name=hook,
        )

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.token_ids)

    def __repr__(self) -> str:
        """Say in one line what the trace holds."""
        return (
            f"Trace({self.adapter.name}: {len(self.requests)} texts, {len(self)} targets, "
            f"{len(self.states)} hooks held, {self.n_forward_passes} forward passes)"
        )

    def _reduce_held(self, reductions: dict[str, tuple[str, Reduction]]) -> None:
        """Reduce whole texts that the trace holds, and take these reductions off the list."""
        for name, (site, reduction) in list(reductions.items()):
            whole = self.reduced.get(of_whole_text(site))
            if whole is not None:
                texts = zip(whole, self._read, strict=True)
                self.reduced[name] = [reduction(states, read) for states, read in texts]
                del reductions[name]

    def _run(
        self, sites: list[str], reductions: Mapping[str, tuple[str, Reduction]]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        by_text: dict[str, dict[int, Tensor]] = {name: {} for name in [*sites, *reductions]}
        texts = [request.ids for request in self.requests]
        for batch in shared_passes(self.adapter, texts, tokens_per_pass=TOKENS_PER_PASS):
            kept = _run_batch(self.adapter, self.requests, self._read, batch, sites, reductions)
            for name, parts in kept.items():
                by_text[name].update(zip(batch, parts, strict=True))
            self.n_forward_passes += 1
        n_texts = len(self.requests)
        in_order = {name: [parts[i] for i in range(n_texts)] for name, parts in by_text.items()}
        states = {site: torch.cat(in_order.pop(site)) for site in sites}
        return states, in_order


def trace_prompt(
    model: Model,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Any = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
) -> Trace:
    """Run a model once on a prompt and keep what lenses read, for any number of them.

    Held are, at the read positions, the embedding, the residual stream after (and within) every
    block, what attention and MLP write and what every head passes on, about five vectors of width
    d_model for each layer and row, and the embedding states of the whole text for the baselines.

    Args:
        model: A `HookedTransformer`, a `TransformerBridge` or a Hugging Face model, folded or not.
            Its hooks stay active, as they are at this moment.
        prompt: A text, chat messages, token ids, or any iterable of these (a batch).
        answer: Attribute these tokens, given as text or ids, after the prompt.
        generate: Attribute up to this many greedily generated tokens. Generation stops before an
            end-of-sequence token.
        targets: Attribute these candidates, single tokens as text or ids, for the position after
            the prompt. Without `answer`, `generate` or `targets`, every next token of the text is
            attributed.
        prepend_bos: Whether a text prompt starts with the beginning-of-sequence token; None follows
            the model's default.

    Returns:
        The trace, which `lens(trace)` and `compare(trace, lenses)` measure.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For arguments that do not fit the model, or a model whose readout disagrees with
            its own probabilities.
    """
    trace = begin_trace(
        model,
        prompt,
        answer=answer,
        generate=generate,
        targets=targets,
        prepend_bos=prepend_bos,
    )
    trace.collect([_states_of_every_lens(trace.adapter)])
    return trace


def begin_trace(model: Model, prompt: PromptLike, **choice: Any) -> Trace:
    """Return a trace of a prompt that holds nothing yet, so that lenses collect what they need.

    Args:
        model: As in `trace_prompt`, as are all arguments.
        prompt: The prompt.
        **choice: What is attributed: `answer`, `generate`, `targets` and `prepend_bos`.
    """
    adapter = adapt(model)
    requests = build_requests(adapter, prompt, **choice)
    recorded = {name: choice.get(name) for name in ("generate", "prepend_bos")}
    return Trace(adapter, requests, choice=recorded)


def as_trace(model: Model | Trace, prompt: PromptLike | None, **choice: Any) -> Trace:
    """Return a trace that was given in place of a model, or begin one of a model and a prompt.

    Raises:
        TypeError: For a trace with a prompt or a choice of targets, or a model without a prompt.
    """
    if not isinstance(model, Trace):
        if prompt is None:
            raise TypeError("give a prompt with a model, or a trace instead of both")
        return begin_trace(model, prompt, **choice)
    given = [name for name, chosen in {"prompt": prompt, **choice}.items() if chosen is not None]
    if given:
        raise TypeError(f"a trace has its prompt and targets already; leave out {', '.join(given)}")
    return model


def whole_text(states: Tensor, positions: list[int]) -> Tensor:
    """Keep the states at every position: a `Reduction` that reduces nothing."""
    del positions
    return states.clone()


def whole_texts(sites: Iterable[str]) -> dict[str, tuple[str, Reduction]]:
    """Return what a lens needs to have the states of whole texts, by `of_whole_text(site)`."""
    return {of_whole_text(site): (site, whole_text) for site in sites}


def of_whole_text(site: str) -> str:
    """Return the name under which a trace holds a hook's states of whole texts."""
    return f"{site}, whole text"


def _run_batch(
    adapter: ModelAdapter,
    requests: Sequence[Request],
    read: list[list[int]],
    batch: list[int],
    sites: list[str],
    reductions: Mapping[str, tuple[str, Reduction]],
) -> dict[str, list[Tensor]]:
    """Return for every site and reduction what is kept of each text of a batch."""
    texts = [requests[index].ids for index in batch]
    rows = [row for row, index in enumerate(batch) for _ in read[index]]
    columns = [position for index in batch for position in read[index]]
    sizes = [len(read[index]) for index in batch]
    device, dtype = adapter.readout.device, adapter.readout.dtype
    kept: dict[str, list[Tensor]] = {}

    def take(activation: Tensor, site: str) -> Tensor:
        for name, (of_site, reduction) in reductions.items():
            if of_site == site:
                whole = activation.to(device, dtype)
                kept[name] = [
                    reduction(cut_padding(whole[row], len(texts[row]), site=site), read[index])
                    for row, index in enumerate(batch)
                ]
        if site not in sites:
            return activation.new_empty(0)
        # Indexing makes a new tensor, so the whole activation is not kept alive.
        return activation[rows, columns].to(device, dtype)

    read_sites = dict.fromkeys([*sites, *(site for site, _ in reductions.values())])
    readers = {site: partial(take, site=site) for site in read_sites}
    taken = capture(adapter, pad_right(texts), readers)
    return kept | {site: list(taken[site].split(sizes)) for site in sites}


def _target_rows(requests: Sequence[Request], read: list[list[int]]) -> Tensor:
    rows, first = [], 0
    for request, positions in zip(requests, read, strict=True):
        place = {position: first + index for index, position in enumerate(positions)}
        rows += [place[position] for position in request.positions]
        first += len(positions)
    return torch.tensor(rows)


def _require_finite(trace: Trace, of_sites: Mapping[str, Tensor]) -> None:
    for site, states in of_sites.items():
        bad = ~torch.isfinite(states).flatten(1).all(1)
        if bool(bad.any()):
            text = trace.row_texts[int(bad.nonzero()[0])]
            raise ValueError(
                f"{trace.adapter.name}: the states at {site} are NaN or infinite in prompt {text}; "
                "check the model's weights, or load it in another dtype"
            )


class _GivenCache:
    """Activations that the user holds already, of all positions."""

    def __init__(self, adapter: ModelAdapter, cache: Any, trace: Trace) -> None:
        self.adapter, self.cache = adapter, cache
        self.requests, self.read_positions = trace.requests, trace._read
        if not hasattr(cache, "__getitem__") or not hasattr(cache, "keys"):
            raise TypeError(
                "cache must be an ActivationCache or a mapping from hook names to activations, "
                f"got {type(cache).__name__}"
            )
        last = adapter.post_site(adapter.n_layers - 1)
        self._require([last])
        self._rows(last)

    def read(
        self, sites: Sequence[str], reductions: Mapping[str, tuple[str, Reduction]]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Return what is kept of the cache, as a forward pass would."""
        self._require([*sites, *(site for site, _ in reductions.values())])
        states, reduced = {}, {}
        for site in sites:
            texts = zip(self._rows(site), self.read_positions, strict=True)
            states[site] = torch.cat([rows[read] for rows, read in texts])
        for name, (site, reduction) in reductions.items():
            texts = zip(self._rows(site), self.read_positions, strict=True)
            reduced[name] = [reduction(rows, read) for rows, read in texts]
        return states, reduced

    def _require(self, sites: Iterable[str]) -> None:
        held = set(self.cache.keys())
        missing = [site for site in dict.fromkeys(sites) if site not in held]
        if missing:
            shown = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
            raise ValueError(
                f"the cache lacks {len(missing)} hooks that are needed here: {shown}; run the "
                "model with these hooks in names_filter, or without a filter"
            )

    def _rows(self, site: str) -> list[Tensor]:
        readout = self.adapter.readout
        activation = self.cache[site].detach().to(readout.device, readout.dtype)
        n_texts, length = len(self.requests), len(self.requests[0].ids)
        if n_texts == 1 and activation.shape[0] == length and activation.shape[:2] != (1, length):
            activation = activation[None]  # a cache whose batch axis was removed
        if activation.shape[0] != n_texts or length not in activation.shape[1:3]:
            raise ValueError(
                f"the cache holds {site} of shape {tuple(activation.shape)}, but the tokens are "
                f"{n_texts} texts of {length}; give the tokens that were run, and a cache of all "
                "positions"
            )
        return list(activation)


def _answer_length(adapter: ModelAdapter, ids: list[int], answer: Any) -> int:
    """Return how many of the last tokens are the answer.

    Raises:
        ValueError: If the tokens do not end in it, or nothing stands before it.
    """
    lengths = range(1, len(ids))
    if isinstance(answer, str):
        whole = decode(adapter, ids)
        found = [n for n in lengths if decode(adapter, ids[:-n]) + answer == whole]
    else:
        wanted = list(answer) if hasattr(answer, "__iter__") else [answer]
        found = [n for n in lengths if ids[-n:] == [int(token) for token in wanted]]
    if not found:
        raise ValueError(f"the tokens that were run do not end in the answer {answer!r}")
    return found[0]


def _states_of_every_lens(adapter: ModelAdapter) -> Needs:
    layers = range(adapter.n_layers)
    sites = [adapter.embed_site, *(site for _, site in embedding_sites(adapter))]
    for layer in layers:
        if adapter.block_kind == "sequential":
            sites.append(adapter.mid_site(layer))
        sites += [*adapter.update_sites(layer), adapter.head_site(layer), adapter.post_site(layer)]
    sites = [site for site in sites if site in adapter.hook_points]
    whole = [adapter.embed_site, *(site for _, site in embedding_sites(adapter))]
    return Needs(tuple(dict.fromkeys(sites)), whole_texts(dict.fromkeys(whole)))


def _sites_of(adapter: ModelAdapter, hook: str) -> dict[str, str]:
    """Return the hook names of one kind, by the label of their layer."""
    if hook == "embed":
        return {"embed": adapter.embed_site}
    kinds: dict[str, Callable[[int], str | None]] = {
        "resid_post": adapter.post_site,
        "resid_mid": adapter.mid_site,
        "attn_out": adapter.attn_site,
        "mlp_out": adapter.mlp_site,
        "z": adapter.head_site,
    }
    if hook not in kinds:
        raise ValueError(f"unknown hook {hook!r}; choose one of embed, {', '.join(kinds)}")
    found = {f"L{layer}": kinds[hook](layer) for layer in range(adapter.n_layers)}
    sites = {label: site for label, site in found.items() if site in adapter.hook_points}
    if len(sites) < adapter.n_layers:
        raise ValueError(f"{adapter.name} has no {hook} in every layer")
    return {label: site for label, site in sites.items() if site is not None}
