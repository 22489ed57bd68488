"""What every layer does over a whole corpus, and over groups of its targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from iglens_tl.arguments import Count, resolve_count
from iglens_tl.corpus.groupings import Grouping, make_groupings
from iglens_tl.corpus.resampling import UNITS, draw, medians, ratios
from iglens_tl.corpus.sql import quoted
from iglens_tl.results.corpus import ALL, CorpusSummary

if TYPE_CHECKING:
    from iglens_tl.corpus.corpus import Corpus

_MOST_NUMBERS = 2**22
_SEGMENTS_AT_ONCE = 64
_EVERYTHING = Grouping(ALL, "all targets", (ALL,), "0")
_ERROR_QUANTILES = (0.5, 0.9, 0.99, 0.999)


def summarize(
    corpus: Corpus,
    *,
    by: Sequence[str] | None = None,
    n_resamples: Count = 1000,
    seed: Count = 0,
) -> CorpusSummary:
    """Summarise what every layer does over a corpus, and over groups of its targets.

    DuckDB adds up credits by groups and texts in one pass over the rows; the sums are resampled.

    Args:
        corpus: The corpus.
        by: Groupings: "kind" of token, "frequency" of the token in this corpus, "position",
            "probability" and "surprise" of the model at the token, or columns of the user's. None
            for all of them; an empty list for none.
        n_resamples: How many bootstrap samples give the intervals.
        seed: Seed of the samples.

    Raises:
        ValueError: For a grouping that the corpus does not have.
    """
    resolve_count("n_resamples", n_resamples, least=1)
    groupings = [_EVERYTHING, *make_groupings(corpus, by)]
    units = _Units(corpus)
    drawn = draw(units.number, n_resamples, seed)
    credits, onsets = [], []
    stride = max(1, -(-corpus.n_targets * _widest(corpus) // _MOST_NUMBERS))
    for place, lens in enumerate(corpus.lenses):
        divided = groupings if place == 0 else groupings[:1]
        credits += _credit_frames(corpus, lens, divided, units, drawn, stride)
    onsets += _onset_frames(corpus, groupings, units, drawn)
    sampled = f"SELECT count(*) FROM targets WHERE {_is_sampled(stride)}"
    (n_sampled,) = corpus.connection.sql(sampled).fetchall()[0]
    return CorpusSummary(
        _facts(corpus),
        pd.concat(credits, ignore_index=True),
        pd.concat(onsets, ignore_index=True),
        _errors(corpus, stride),
        n_sampled,
        {grouping.name: grouping.label for grouping in groupings},
    )


class _Units:
    """What is resampled: the texts, or groups of them."""

    expression = f"text % {UNITS}"

    def __init__(self, corpus: Corpus) -> None:
        there = corpus.connection.sql(
            f"SELECT DISTINCT {self.expression} FROM targets ORDER BY 1"
        ).fetchall()
        self.number = len(there)
        self._places = np.full(UNITS, -1)
        self._places[[unit for (unit,) in there]] = np.arange(self.number)

    def places(self, units: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
        return self._places[units]


def _credit_frames(
    corpus: Corpus,
    lens: str,
    groupings: Sequence[Grouping],
    units: _Units,
    drawn: Float[np.ndarray, "resample unit"],
    stride: int,
) -> Iterator[pd.DataFrame]:
    described = corpus.lenses[lens]
    segments, is_additive = described["segments"], described["kind"] == "credit"
    column = corpus.column_of(lens)
    numbers = {"sum": "sum({})"}
    if is_additive:
        numbers |= {"size": "sum(abs({}))", "negative": "count(*) FILTER ({} < 0)"}
    sums = _sums(corpus, column, len(segments), numbers, groupings, units)
    values = _sampled(corpus, column, groupings, units, stride)
    for place, grouping in enumerate(groupings):
        counts, found = sums[grouping.name]
        frame = pd.DataFrame(
            {
                "lens": lens,
                "grouping": grouping.name,
                "group": np.repeat(grouping.groups, len(segments)),
                "segment": np.tile(segments, len(grouping.groups)),
                "targets": np.repeat(counts.sum(0).astype(int), len(segments)),
            }
        )
        _add(frame, "mean", *ratios(found["sum"], counts, drawn))
        _add(frame, "median", *_medians(values, place, grouping, len(segments), drawn))
        if is_additive:
            sizes = found["size"]
            _add(frame, "share", *ratios(sizes, sizes.sum(2), drawn))
            _add(frame, "negative", *ratios(found["negative"], counts, drawn))
            _add(frame, "destroyed", *ratios((sizes - found["sum"]) / 2, counts, drawn))
        yield frame.loc[frame["targets"] > 0]


def _onset_frames(
    corpus: Corpus,
    groupings: Sequence[Grouping],
    units: _Units,
    drawn: Float[np.ndarray, "resample unit"],
) -> Iterator[pd.DataFrame]:
    segments = next(iter(corpus.lenses.values()))["segments"]
    numbers = {"onset": "count(*) FILTER (onset = {})"}
    sums = _sums(corpus, None, len(segments), numbers, groupings, units)
    for grouping in groupings:
        counts, found = sums[grouping.name]
        frame = pd.DataFrame(
            {
                "grouping": grouping.name,
                "group": np.repeat(grouping.groups, len(segments)),
                "segment": np.tile(segments, len(grouping.groups)),
                "targets": np.repeat(counts.sum(0).astype(int), len(segments)),
            }
        )
        _add(frame, "share", *ratios(found["onset"], counts, drawn))
        yield frame.loc[frame["targets"] > 0]


def _add(
    frame: pd.DataFrame,
    name: str,
    found: Float[np.ndarray, "group segment"],
    ends: Float[np.ndarray, "end group segment"],
) -> None:
    frame[name] = found.reshape(-1)
    frame[f"{name}_low"], frame[f"{name}_high"] = ends.reshape(len(ends), -1)


Sums = tuple[Float[np.ndarray, "unit group"], Mapping[str, Float[np.ndarray, "unit group segment"]]]


def _sums(
    corpus: Corpus,
    column: str | None,
    n_segments: int,
    numbers: Mapping[str, str],
    groupings: Sequence[Grouping],
    units: _Units,
) -> dict[str, Sums]:
    """Add up numbers by units and groups, all groupings in one pass over the rows.

    Args:
        corpus: The corpus.
        column: A column of lists; None for numbers that are not of one.
        n_segments: The number of segments.
        numbers: By name, SQL of an aggregate, in which `{}` is an entry of the list, or without a
            column the number of a segment.
        groupings: The groupings.
        units: What is resampled.

    Returns:
        For each grouping how many targets there are, and the sums.
    """
    shapes = {grouping.name: (units.number, len(grouping.groups)) for grouping in groupings}
    counts = {name: np.zeros(shape) for name, shape in shapes.items()}
    sums = {
        name: {number: np.zeros((*shape, n_segments)) for number in numbers}
        for name, shape in shapes.items()
    }
    groups = [f"g{place}" for place in range(len(groupings))]
    keys = ", ".join(
        f"{grouping.expression} AS {group}"
        for grouping, group in zip(groupings, groups, strict=True)
    )
    sets = ", ".join(f"(unit, {group})" for group in groups)
    # So many at once that the expressions of a wide model stay of a size.
    for first in range(0, n_segments, _SEGMENTS_AT_ONCE):
        chosen = range(first, min(first + _SEGMENTS_AT_ONCE, n_segments))
        entries = [f"v{k}" if column else str(k) for k in chosen]
        listed = [f"{column}[{k + 1}] AS v{k}" for k in chosen] if column else []
        aggregates = [
            f"{form.format(entry)} AS {number}{k}"
            for k, entry in zip(chosen, entries, strict=True)
            for number, form in numbers.items()
        ]
        found = corpus.connection.sql(
            f"SELECT unit, {', '.join(groups)}, count(*) AS targets, {', '.join(aggregates)} "
            f"FROM (SELECT {units.expression} AS unit, onset, {', '.join([keys, *listed])} "
            "FROM targets JOIN frequencies USING (token_id)) "
            f"GROUP BY GROUPING SETS ({sets})"
        ).fetchnumpy()
        of_unit = units.places(np.asarray(found["unit"]))
        for grouping, group in zip(groupings, groups, strict=True):
            numbered = np.ma.masked_array(found[group])
            is_of = ~np.ma.getmaskarray(numbered)
            place = of_unit[is_of], numbered.compressed().astype(int)
            counts[grouping.name][place] = found["targets"][is_of]
            for k in chosen:
                for number in numbers:
                    sums[grouping.name][number][(*place, k)] = found[f"{number}{k}"][is_of]
    return {name: (counts[name], sums[name]) for name in shapes}


@dataclass(frozen=True)
class _Sample:
    """The numbers of some targets, with their units and the groups of every grouping."""

    values: Float[np.ndarray, "target segment"]
    units: Int[np.ndarray, " target"]
    groups: Sequence[Int[np.ndarray, " target"]]


def _sampled(
    corpus: Corpus, column: str, groupings: Sequence[Grouping], units: _Units, stride: int
) -> _Sample:
    keys = ", ".join(f"{each.expression} AS g{place}" for place, each in enumerate(groupings))
    found = corpus.connection.sql(
        f"SELECT {units.expression} AS unit, {keys}, {column} AS numbers "
        f"FROM targets JOIN frequencies USING (token_id) WHERE {_is_sampled(stride)}"
    ).to_arrow_table()
    numbers = found["numbers"].combine_chunks().flatten().to_numpy()
    return _Sample(
        numbers.reshape(len(found), -1),
        units.places(found["unit"].to_numpy()),
        [found[f"g{place}"].to_numpy() for place in range(len(groupings))],
    )


def _medians(
    sample: _Sample,
    place: int,
    grouping: Grouping,
    n_segments: int,
    drawn: Float[np.ndarray, "resample unit"],
) -> tuple[Float[np.ndarray, "group segment"], Float[np.ndarray, "end group segment"]]:
    found = np.full((len(grouping.groups), n_segments, 3), np.nan)
    for group in range(len(grouping.groups)):
        chosen = sample.groups[place] == group
        if chosen.any():
            units, values = sample.units[chosen], sample.values[chosen]
            found[group] = [medians(values[:, k], units, drawn) for k in range(n_segments)]
    return found[..., 0], np.moveaxis(found[..., 1:], -1, 0)


def _errors(corpus: Corpus, stride: int) -> pd.DataFrame:
    rows = []
    for place, (lens, described) in enumerate(corpus.lenses.items()):
        if described["kind"] != "credit":
            continue
        column = "error" if place == 0 else quoted(f"{lens}_error")
        (quantiles,) = corpus.connection.sql(
            f"SELECT quantile_cont(abs({column}), {list(_ERROR_QUANTILES)}) FROM targets "
            f"WHERE {_is_sampled(stride)}"
        ).fetchall()[0]
        largest = corpus.connection.sql(f"SELECT max(abs({column})) FROM targets").fetchall()[0][0]
        of_quantiles = dict(zip(map(str, _ERROR_QUANTILES), quantiles, strict=True))
        rows.append({"lens": lens, **of_quantiles, "largest": largest})
    return pd.DataFrame(rows)


def _is_sampled(stride: int) -> str:
    """Return SQL that is true for one of so many texts, at random."""
    return "true" if stride == 1 else f"hash(text) % {stride} = 0"


def _widest(corpus: Corpus) -> int:
    return max(len(described["segments"]) for described in corpus.lenses.values())


def _facts(corpus: Corpus) -> dict[str, Any]:
    manifest, progress = corpus.status.manifest, corpus.status.progress
    return {
        "model": manifest["model"],
        "lenses": {
            name: f"{described['kind']}, {described['unit']}"
            for name, described in corpus.lenses.items()
        },
        "texts": progress.texts,
        "all_texts": progress.all_texts,
        "targets": progress.targets,
        "rejected": progress.rejected,
        "versions": manifest["versions"],
        "begun": manifest["begun"],
    }
