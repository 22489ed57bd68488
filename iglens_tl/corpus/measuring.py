"""From windows of texts to rows: one for each target, with what every lens found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from iglens_tl.arguments import Count
from iglens_tl.corpus.measurement import COLUMNS, Measurement
from iglens_tl.corpus.preparing import Piece, Prepared, Preparer, in_one_line
from iglens_tl.corpus.sources import Entry
from iglens_tl.lenses.assembly import assemble_levels
from iglens_tl.lenses.base import measure, state_point
from iglens_tl.lenses.level import LevelLens
from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.batching import shared_passes
from iglens_tl.prompts import Request, token_string
from iglens_tl.readout import Point, Reading, ValueLike
from iglens_tl.results.frames import largest_error
from iglens_tl.results.lens import LensResult
from iglens_tl.results.onset import onset_index
from iglens_tl.trace import Needs, Trace

if TYPE_CHECKING:
    import pyarrow as pa

REJECTED = b"iglens_tl.rejected"
"""The key of a table's metadata under which the texts stand that are not in it."""

FINAL = "final_state"


class Measurer:
    """A model with what is measured of it.

    Attributes:
        adapter: The model.
        measurement: What is measured.
        keep: The names of the columns that are carried along.
        prepare: Makes of texts what is measured.
    """

    def __init__(
        self, adapter: ModelAdapter, measurement: Measurement, *, keep: Sequence[str] = ()
    ) -> None:
        taken = [name for name in keep if name in (*COLUMNS, *measurement.lenses)]
        if taken:
            raise ValueError(
                f"the column {taken[0]!r} cannot be carried along, as the corpus has one of that "
                "name itself; give it another name in the source"
            )
        self.adapter, self.measurement, self.keep = adapter, measurement, tuple(keep)
        self.prepare = Preparer(adapter, measurement)
        self.lenses = {**measurement.lenses, FINAL: _FinalState()}
        for lens in self.lenses.values():
            lens.bind(adapter)  # before any text is read

    def describe_lenses(self) -> dict[str, dict[str, Any]]:
        """Return the kind, the unit and the segments of each lens's numbers.

        Raises:
            ValueError: For a lens whose segments depend on the text, so that they fill no column.
        """
        found: list[list[LensResult]] = []
        for ids in ((0, 1, 0), (0, 1, 0, 1)):
            places = range(len(ids) - 1)
            trace = Trace(self.adapter, [Request(ids, tuple(places), ids[1:])])
            found.append([*measure(trace, list(self.measurement.lenses.values())).results])
        for label, first, second in zip(self.measurement.lenses, *found, strict=True):
            if first.segments != second.segments:
                raise ValueError(
                    f"lens {label!r} has other segments for every text, which fill no column of a "
                    "corpus; split by layer, sublayer or head"
                )
        return {
            label: {"kind": result.kind, "unit": result.unit, "segments": list(result.segments)}
            for label, result in zip(self.measurement.lenses, found[0], strict=True)
        }

    def __call__(self, prepared: Prepared) -> pa.Table:
        """Measure some texts.

        Returns:
            A row for each target, in the order of the texts; the texts that have none stand in the
            metadata (`rejected_texts`).
        """
        pieces, rejected = prepared.pieces, dict(prepared.rejected)
        found: list[_Rows] = []
        texts = [piece.window.ids for piece in pieces]
        limit = self.measurement.tokens_per_pass
        for batch in shared_passes(self.adapter, texts, tokens_per_pass=limit) if texts else ():
            chosen = [pieces[index] for index in batch]
            found += self._measured(chosen, rejected)
        # A text one of whose windows failed is not there at all.
        rows = [rows for rows in found if rows.piece.entry.text not in rejected]
        rows.sort(key=lambda rows: (rows.piece.entry.text, rows.piece.window.number))
        return self._table(rows, [rejected[text] for text in sorted(rejected)])

    def _measured(
        self, pieces: Sequence[Piece], rejected: dict[int, tuple[Entry, str]]
    ) -> list[_Rows]:
        try:
            trace = Trace(self.adapter, [piece.request for piece in pieces])
            results = measure(trace, list(self.lenses.values())).results
        except ValueError as error:
            if len(pieces) > 1:  # one text must not take others with it
                return [rows for piece in pieces for rows in self._measured([piece], rejected)]
            rejected[pieces[0].entry.text] = (pieces[0].entry, in_one_line(error))
            return []
        named = dict(zip(self.lenses, results, strict=True))
        ends = np.cumsum([len(piece.window.targets) for piece in pieces])
        starts = ends - [len(piece.window.targets) for piece in pieces]
        columns = self._columns(named)
        return [
            _Rows(piece, {name: column[start:end] for name, column in columns.items()})
            for piece, start, end in zip(pieces, starts, ends, strict=True)
        ]

    def _columns(self, results: Mapping[str, LensResult]) -> dict[str, np.ndarray]:
        final = results[FINAL]
        assert final.ranks is not None
        main, *others = self.measurement.lenses
        credited = results[main]
        columns = {
            "final": credited.final,
            "baseline": credited.baseline,
            "error": largest_error(credited),
            "onset": onset_index(credited),
            "logprob": final.final,
            "rank": final.ranks[:, -1],
            "entropy": final.statistics["entropy"][:, -1],
            "credits": credited.values,
        }
        for label in others:
            columns[label] = results[label].values
            if results[label].additive:
                columns[f"{label}_error"] = largest_error(results[label])
        return columns

    def _table(self, rows: Sequence[_Rows], rejected: Sequence[tuple[Entry, str]]) -> pa.Table:
        from iglens_tl.corpus.tables import build_table

        n_targets = [len(part.piece.window.targets) for part in rows]
        columns: dict[str, Any] = {
            "text": np.repeat([part.piece.entry.text for part in rows], n_targets),
            "window": np.repeat([part.piece.window.number for part in rows], n_targets),
            "position": _joined([part.positions for part in rows]),
            "token_id": _joined([part.piece.request.target_ids for part in rows]),
            "kind": [part.piece.kinds[place + 1] for part in rows for place in part.positions],
        }
        columns["token"] = [token_string(self.adapter, token) for token in columns["token_id"]]
        for name in rows[0].columns if rows else ():
            columns[name] = np.concatenate([part.columns[name] for part in rows])
        for place, name in enumerate(self.keep):
            columns[name] = [
                part.piece.entry.kept[place]
                for part, n in zip(rows, n_targets, strict=True)
                for _ in range(n)
            ]
        listed = [
            {"text": entry.text, "where": entry.where, "reason": reason}
            for entry, reason in rejected
        ]
        return build_table(columns, self.keep, {REJECTED: json.dumps(listed)})


@dataclass(frozen=True)
class _Rows:
    """What was found of one window."""

    piece: Piece
    columns: Mapping[str, np.ndarray]

    @property
    def positions(self) -> list[int]:
        window = self.piece.window
        return [place + window.shift for place in window.targets]


@dataclass(frozen=True, kw_only=True)
class _FinalState(LevelLens):
    """The model's own prediction: the target's log-probability, its rank, the entropy."""

    value: ValueLike = "logprob"
    top_k: Count = 1

    name: ClassVar[str] = FINAL
    label: ClassVar[str] = "final state"
    measures: ClassVar[str] = "What the model predicts."
    cost: ClassVar[str] = "1 forward pass, a row of the unembedding"

    def needs(self, adapter: ModelAdapter) -> Needs:
        """Ask for the last state."""
        return Needs((adapter.post_site(adapter.n_layers - 1),))

    def points(self, trace: Trace) -> list[Point]:
        """Return the last state."""
        return [state_point(trace, self.needs(trace.adapter).sites[0])]

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        """Keep its level."""
        (point,) = self.points(trace)
        last = f"L{trace.adapter.n_layers - 1}"
        return assemble_levels(
            trace, lens=self, segments=[last], readings=[readings[point.key]], options={}
        )


def _joined(parts: Sequence[Sequence[int]]) -> list[int]:
    return [number for part in parts for number in part]
