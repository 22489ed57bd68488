"""The measurements of a validation, chunk after chunk of prompts, so that it can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from iglens_tl.interventions.named_results import changes_of_layers
from iglens_tl.interventions.skip_curves import skip_curves
from iglens_tl.lenses import Lens, compare
from iglens_tl.models import ModelAdapter, reinitialized
from iglens_tl.prompts import Request
from iglens_tl.readout import Value
from iglens_tl.results import Target, storage
from iglens_tl.results.curves import SkipCurves
from iglens_tl.results.lens import LensResult
from iglens_tl.resume import Parts
from iglens_tl.trace import begin_trace

Report: TypeAlias = Callable[[int, int, str], object]
"""Called before each step with the steps done, how many there are, and what comes now."""

_RANDOM = ", random weights"


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, all prompts joined.

    Attributes:
        credits: By name.
        effects: By intervention.
        curves: Values with layers skipped.
        random_targets: Credits of a random token in place of each target; empty without nulls.
        random_credits: Credits of the model with random weights; empty without nulls.
        random_effects: Effects in that model.
        notes: What a reader must know.
    """

    credits: dict[str, LensResult]
    effects: dict[str, LensResult]
    curves: SkipCurves
    random_targets: dict[str, LensResult]
    random_credits: dict[str, LensResult]
    random_effects: dict[str, LensResult]
    notes: tuple[str, ...]


class _Steps:
    """Counts the steps of a run and tells of each before it begins."""

    def __init__(self, report: Report, n_steps: int) -> None:
        self._report, self._n_steps, self._done = report, n_steps, 0

    def begin(self, what: str) -> None:
        self._report(self._done, self._n_steps, what)
        self._done += 1


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All runs of a validation.

    Attributes:
        adapter: The model.
        lenses: The lenses, by the names of their credits.
        value: What is measured.
        effects: By intervention, what measures its effects.
        seed: Seed of everything that is drawn.
        nulls: Whether random targets and random weights are measured too.
        chunk_size: How many prompts are measured together.
        parts: Where finished parts are kept, if anywhere.
        report: What is told of every step.
    """

    adapter: ModelAdapter
    lenses: Mapping[str, Lens]
    value: Value
    effects: Mapping[str, Lens]
    seed: int
    nulls: bool
    chunk_size: int
    parts: Parts | None
    report: Report

    def targets(self, n_prompts: int, request: Callable[[int], Request]) -> list[Request]:
        """Return every prompt with its targets.

        Args:
            n_prompts: How many prompts there are.
            request: Returns the prompt of an index with its targets.
        """

        def frame(chunk: range) -> pd.DataFrame:
            found = [vars(request(index)) for index in chunk]
            return pd.DataFrame([{key: list(ids) for key, ids in one.items()} for one in found])

        requests = []
        for start in range(0, n_prompts, self.chunk_size):
            chunk = range(start, min(start + self.chunk_size, n_prompts))
            table = self._frame(f"targets of {start}", lambda chunk=chunk: frame(chunk))
            for row in table.to_dict("records"):
                requests.append(Request(**{str(k): tuple(map(int, v)) for k, v in row.items()}))
        return requests

    def measure(self, requests: Sequence[Request]) -> Measured:
        """Measure all credits, effects, curves and nulls."""
        starts = range(0, len(requests), self.chunk_size)
        chunks = {start: requests[start : start + self.chunk_size] for start in starts}
        unfitted = {name: lens for name, lens in self.lenses.items() if not lens.fitted}
        n_stages = 2 + len(self.effects)
        if self.nulls:
            n_stages += 1 + (1 + len(self.effects)) * bool(unfitted)
        steps = _Steps(self.report, n_stages * len(chunks))
        credits = self._all_credits(steps, self.adapter, chunks, self.lenses)
        joined = join_all(credits)
        effects = self._all_effects(steps, self.adapter, chunks)
        curves, notes = self._all_curves(steps, credits)
        random_targets, random_credits, random_effects = [], [], {}
        if self.nulls:
            for start, chunk in chunks.items():
                compute = partial(self._at_random_targets, chunk, start)
                random_targets.append(self._results(steps, "random targets", start, compute))
        if self.nulls and unfitted:
            with reinitialized(self.adapter, seed=self.seed) as random:
                random_credits = self._all_credits(steps, random, chunks, unfitted, _RANDOM)
                random_effects = self._all_effects(steps, random, chunks, _RANDOM)
        targets = next(iter(joined.values())).targets
        return Measured(
            credits=joined,
            effects=effects,
            curves=join_curves(curves, targets),
            random_targets={
                name: replace(result, texts=joined[name].texts, targets=targets)
                for name, result in join_all(random_targets).items()
            },
            random_credits=join_all(random_credits),
            random_effects=random_effects,
            notes=notes,
        )

    def _all_credits(
        self,
        steps: _Steps,
        adapter: ModelAdapter,
        chunks: Mapping[int, Sequence[Request]],
        lenses: Mapping[str, Lens],
        model: str = "",
    ) -> list[dict[str, LensResult]]:
        """Return the credits of every chunk."""
        return [
            self._results(
                steps,
                f"credits{model}",
                start,
                partial(self._credits, adapter, lenses, _own_targets(chunk)),
            )
            for start, chunk in chunks.items()
        ]

    def _all_effects(
        self,
        steps: _Steps,
        adapter: ModelAdapter,
        chunks: Mapping[int, Sequence[Request]],
        model: str = "",
    ) -> dict[str, LensResult]:
        """Return the effects of every intervention, the chunks joined."""
        found: dict[str, LensResult] = {}
        for name in self.effects:
            of_chunks = [
                self._results(
                    steps, f"{name}{model}", start, partial(self._effects, adapter, name, chunk)
                )
                for start, chunk in chunks.items()
            ]
            found |= join_all(of_chunks)
        return found

    def _all_curves(
        self, steps: _Steps, credits: Sequence[Mapping[str, LensResult]]
    ) -> tuple[list[SkipCurves], tuple[str, ...]]:
        """Return the curves of every chunk, and which credits have none."""
        left_out: dict[str, str] = {}
        curves = []
        for chunk, of_chunk in enumerate(credits):
            start = chunk * self.chunk_size
            whole, left_out = self._of_whole_layers(of_chunk)
            steps.begin("skip curves")
            frame = self._frame(
                f"skip curves of {start}",
                lambda start=start, whole=whole: self._curves(whole, start).to_frame(),
            )
            curves.append(curves_from_frame(frame, next(iter(of_chunk.values())).targets))
        return curves, tuple(f"no skip curves of {why}" for why in left_out.values())

    def _credits(
        self, adapter: ModelAdapter, lenses: Mapping[str, Lens], choice: Mapping[str, Any]
    ) -> dict[str, LensResult]:
        """Return credits by name; the lenses share their forward passes."""
        comparison = compare(adapter, **choice, lenses=lenses)
        return {one.name: _light(one) for one in comparison.results}

    def _effects(
        self, adapter: ModelAdapter, intervention: str, requests: Sequence[Request]
    ) -> dict[str, LensResult]:
        trace = begin_trace(adapter, **_own_targets(requests))
        return {intervention: _light(self.effects[intervention](trace))}

    def _curves(self, credits: Mapping[str, LensResult], start: int) -> SkipCurves:
        # Random orders belong to prompts, whatever the size of the chunks.
        return skip_curves(self.adapter, credits, value=self.value, seed=self.seed + start)

    def _of_whole_layers(
        self, credits: Mapping[str, LensResult]
    ) -> tuple[dict[str, LensResult], dict[str, str]]:
        """Return the credits that order all layers, and why the others do not."""
        whole, left_out = {}, {}
        for name, result in credits.items():
            try:
                changes_of_layers(result, self.adapter.n_layers, name)
                whole[name] = result
            except ValueError as error:
                left_out[name] = str(error)
        return whole, left_out

    def _at_random_targets(self, requests: Sequence[Request], start: int) -> dict[str, LensResult]:
        """Return the credits of other tokens, drawn uniformly, in place of the targets."""
        prompts, tokens = [], []
        for index, request in enumerate(requests, start=start):
            rng = np.random.default_rng([self.seed, index])
            for position, own in zip(request.positions, request.target_ids, strict=True):
                drawn = int(rng.integers(self.adapter.readout.d_vocab - 1))
                prompts.append(list(request.ids[: position + 1]))
                tokens.append([drawn + (drawn >= own)])
        return self._credits(self.adapter, self.lenses, {"prompt": prompts, "targets": tokens})

    def _results(
        self,
        steps: _Steps,
        what: str,
        start: int,
        compute: Callable[[], Mapping[str, LensResult]],
    ) -> dict[str, LensResult]:
        """Return results, from the folder where it has them."""

        def frame() -> pd.DataFrame:
            encoded = {name: json.dumps(storage.encode(one)) for name, one in compute().items()}
            return pd.DataFrame({"name": list(encoded), "result": list(encoded.values())})

        steps.begin(what)
        found = self._frame(f"{what} of {start}", frame)
        decoded = (storage.decode(json.loads(text)) for text in found["result"])
        return {name: LensResult(**one) for name, one in zip(found["name"], decoded, strict=True)}

    def _frame(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return compute() if self.parts is None else self.parts.frame(name, compute)


def fingerprint(adapter: ModelAdapter) -> str:
    """Return a digest of all weights of a model."""
    digest = hashlib.sha256()
    for name, parameter in adapter.model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        flat = parameter.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_targets(requests: Sequence[Request]) -> dict[str, Any]:
    """Return what has a lens measure the targets of requests: prompts and answers as ids."""
    return {
        "prompt": [list(request.ids[: request.positions[0] + 1]) for request in requests],
        "answer": [list(request.target_ids) for request in requests],
    }


def _light(result: LensResult) -> LensResult:
    """Leave out what nobody asks for here, and sum components, because layers are compared."""
    if result.additive and any("." in label for label in result.segments):
        result = result.by_layer()
    return replace(result, ranks=None, top=None)


def join_all(chunks: Sequence[Mapping[str, LensResult]]) -> dict[str, LensResult]:
    """Return the results of every name, the chunks joined."""
    names = chunks[0] if chunks else {}
    return {name: _join([chunk[name] for chunk in chunks]) for name in names}


def _join(results: Sequence[LensResult]) -> LensResult:
    """Return the results of chunks of prompts as one."""
    first = results[0]
    targets: list[Target] = []
    n_texts = 0
    for result in results:
        targets += [replace(target, prompt=target.prompt + n_texts) for target in result.targets]
        n_texts += len(result.texts)
    return replace(
        first,
        texts=tuple(text for result in results for text in result.texts),
        targets=tuple(targets),
        values=np.concatenate([result.values for result in results]),
        levels=np.concatenate([result.levels for result in results]),
        baseline=np.concatenate([result.baseline for result in results]),
        final=np.concatenate([result.final for result in results]),
        statistics={
            name: np.concatenate([result.statistics[name] for result in results])
            for name in first.statistics
        },
        provenance=replace(
            first.provenance,
            notes=tuple(dict.fromkeys(n for result in results for n in result.provenance.notes)),
        ),
    )


def curves_from_frame(frame: pd.DataFrame, targets: tuple[Target, ...]) -> SkipCurves:
    """Return the curves that `SkipCurves.to_frame` made a table of."""
    by_order = list(frame.groupby("order", sort=False))
    deletion, insertion = (
        {
            str(order): part[curve].to_numpy(dtype=float).reshape(len(targets), -1)
            for order, part in by_order
        }
        for curve in ("deletion", "insertion")
    )
    return SkipCurves(str(frame["unit"].iloc[0]), targets, deletion, insertion)


def join_curves(chunks: Sequence[SkipCurves], targets: tuple[Target, ...]) -> SkipCurves:
    """Return the curves of chunks as one, with the targets of all of them."""
    orders = chunks[0].deletion
    return SkipCurves(
        unit=chunks[0].unit,
        targets=targets,
        deletion={o: np.concatenate([chunk.deletion[o] for chunk in chunks]) for o in orders},
        insertion={o: np.concatenate([chunk.insertion[o] for chunk in chunks]) for o in orders},
    )
