"""Collect what the page holds: the numbers of several lenses for one text, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iglens_tl.results.data import LensData, Target, Text
from iglens_tl.results.folders import hide_folders
from iglens_tl.results.onset import onset_index
from iglens_tl.views.figures.comparison import merge_segments
from iglens_tl.views.report.arrays import ArrayPool
from iglens_tl.views.report.heads import heads_content
from iglens_tl.views.report.vocabulary import Vocabulary
from iglens_tl.views.report.words import lens_label, lens_sentence, value_label

CHOOSING = ("generate", "prepend_bos")
"""Options that choose the targets, which are the same for all results of a page."""


def report_content(
    results: Sequence[LensData],
    *,
    heads: LensData | None = None,
    why_no_heads: str = "",
    prompt: int = 0,
    with_top: bool = True,
    with_statistics: bool = True,
) -> dict[str, Any]:
    """Collect the numbers of one text as JSON can hold them.

    Args:
        results: Results for the same targets. A lens may come once for every value; a lens that has
            no choice of value may come again.
        heads: `components(…, by="head_source")` for the same targets.
        why_no_heads: Why there are none, in a sentence.
        prompt: Which text of a batch.
        with_top: Whether the most probable tokens are kept.
        with_statistics: Whether entropies and divergences are kept.

    Returns:
        The content; arrays stand in "arrays" and are named by their number there.

    Raises:
        ValueError: For no results, results of different targets, a lens that measured a value
            twice, a prompt without targets, or heads without sources.
    """
    if not results:
        raise ValueError("there is no result to report; give at least one")
    first = results[0]
    for other in [*results, *([] if heads is None else [heads])]:
        if other.targets != first.targets or other.texts != first.texts:
            raise ValueError(
                f"the results of {other.name} and {first.name} are for different texts or targets; "
                "measure both with the same prompt and the same answer, generate or targets"
            )
    rows = [row for row, target in enumerate(first.targets) if target.prompt == prompt]
    if not rows:
        raise ValueError(f"the comparison has no target in prompt {prompt}")
    pool, vocabulary = ArrayPool(), Vocabulary()
    text = first.texts[prompt]
    lenses: dict[str, dict[str, Any]] = {}
    for data in distinct(results):
        lens = lenses.setdefault(data.name, _lens(data))
        if lens["segments"] != list(data.segments):
            raise ValueError(f"the results of {data.name} have different segments")
        lens["measures"][value_name(data)] = _measure(data, rows, pool)
        if data.ranks is not None:
            lens.setdefault("ranks", pool.add(data.ranks[rows]))
        if with_top and data.top is not None:
            lens.setdefault("top", _top(data, rows, pool, vocabulary))
        if with_statistics:
            for name, numbers in data.statistics.items():
                lens["statistics"].setdefault(name, pool.add(numbers[rows]))
    return {
        "text": [vocabulary.add(*pair) for pair in zip(text.ids, text.tokens, strict=True)],
        "targets": [_target(first.targets[row], text, vocabulary) for row in rows],
        "values": [{"name": name, "label": label} for name, label in _values(results).items()],
        "segments": merge_segments(results),
        "lenses": list(lenses.values()),
        "heads": None if heads is None else _heads(heads, rows, pool),
        "why_no_heads": hide_folders(why_no_heads),
        "tokens": vocabulary.entries,
        "arrays": pool.entries,
    }


def distinct(results: Sequence[LensData]) -> list[LensData]:
    """Return the results that a page shows: every lens once for each of its values.

    Raises:
        ValueError: For a lens that measured one value in two ways.
    """
    known: dict[tuple[str, str], LensData] = {}
    for data in results:
        first = known.setdefault((data.name, value_name(data)), data)
        if _how(first) != _how(data):
            raise ValueError(
                f"{data.name} measured the {value_of(data)} twice, with {_how(first)} and "
                f"{_how(data)}; write a page for each"
            )
    return list(known.values())


def value_name(data: LensData) -> str:
    """Return what tells a result's value; lenses that have no choice measure their unit."""
    options = data.provenance.options
    tokens = options.get("value_tokens")
    name = str(options.get("value", data.unit))
    return name if tokens is None else f"{name} {tokens}"


def value_of(data: LensData) -> str:
    """Return what readers call the value of a result."""
    options = data.provenance.options
    return value_label(str(options.get("value", data.unit)), options.get("value_tokens", ()))


def _how(data: LensData) -> dict[str, Any]:
    """Return how a lens measured, but for how its targets were chosen."""
    options = data.provenance.options
    return {name: option for name, option in options.items() if name not in CHOOSING}


def _values(results: Sequence[LensData]) -> dict[str, str]:
    """Return the values of the lens that has most of them, in order, then those of others only."""
    of_lenses: dict[str, dict[str, str]] = {}
    for data in results:
        of_lenses.setdefault(data.name, {})[value_name(data)] = value_of(data)
    most = max(of_lenses.values(), key=len)
    return {name: label for values in (most, *of_lenses.values()) for name, label in values.items()}


def _lens(data: LensData) -> dict[str, Any]:
    return {
        "name": data.name,
        "label": lens_label(data),
        "sentence": lens_sentence(data),
        "kind": data.kind,
        "segments": list(data.segments),
        "measures": {},
        "statistics": {},
    }


def _measure(data: LensData, rows: list[int], pool: ArrayPool) -> dict[str, Any]:
    """Return one value of a lens; the values of a level lens are its levels."""
    values = {} if data.kind == "level" else {"values": pool.add(data.values[rows])}
    return {
        "unit": data.unit,
        **values,
        "levels": pool.add(data.levels[rows]),
        "baseline": pool.add(data.baseline[rows]),
        "final": pool.add(data.final[rows]),
        "onsets": pool.add(onset_index(data)[rows]),
    }


def _heads(data: LensData, rows: list[int], pool: ArrayPool) -> dict[str, Any]:
    return {"value": value_name(data), "label": value_of(data), **heads_content(data, rows, pool)}


def _top(
    data: LensData, rows: list[int], pool: ArrayPool, vocabulary: Vocabulary
) -> Mapping[str, int]:
    assert data.top is not None
    ids = data.top.ids[rows]
    places = {int(i): vocabulary.add(int(i), data.top.tokens[int(i)]) for i in np.unique(ids)}
    tokens = np.vectorize(places.__getitem__, otypes=[np.int64])(ids)
    return {"tokens": pool.add(tokens), "probs": pool.add(data.top.probs[rows])}


def _target(target: Target, text: Text, vocabulary: Vocabulary) -> dict[str, int | None]:
    """Return a target, with its place in the text if it is the token that stands there."""
    place = target.position + 1
    stands_there = place < len(text.ids) and (text.ids[place], text.tokens[place]) == (
        target.token_id,
        target.token,
    )
    return {
        "position": target.position,
        "token": vocabulary.add(target.token_id, target.token),
        "place": place if stands_there else None,
    }
