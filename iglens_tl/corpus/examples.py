"""The targets of a corpus to which a part of the model matters most, in their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from iglens_tl.arguments import Count, resolve_choice, resolve_count
from iglens_tl.corpus.sql import quoted
from iglens_tl.results.corpus import Example, Examples
from iglens_tl.results.segments import head_label, layer_label

if TYPE_CHECKING:
    from iglens_tl.corpus.corpus import Corpus

BY = {"largest": "max", "smallest": "min"}
"""Which credits are looked for, and the aggregates that find them."""

DISTINCT = {
    "text": "one target of each text",
    "token": "one target of each token",
    "target": "all targets",
}
"""Of what only one target is shown, so that one text does not fill the list."""


# Columns that a query adds, whose names no column of a corpus has.
_CREDIT, _NUMBER = "example_credit", "example_number"


def find_examples(
    corpus: Corpus,
    segment: str | None = None,
    *,
    layer: Count | None = None,
    head: Count | None = None,
    lens: str | None = None,
    by: str = "largest",
    number: Count = 10,
    where: str = "true",
    distinct: str = "text",
    before: Count = 24,
    after: Count = 6,
) -> Examples:
    """Find the targets with the largest or smallest credit of a part of the model.

    Args:
        corpus: The corpus.
        segment: The part of the model, such as "L3", "L3.H5" or "embed".
        layer: Instead of it the number of a block.
        head: With `layer`, the number of a head, if heads were measured.
        lens: Whose credits; None for the first lens that has the segment.
        by: "largest" or "smallest" credits (of a lens without credits: levels).
        number: How many targets.
        where: SQL that targets have to fulfil, such as "rank > 1 AND kind = 'number'".
        distinct: Of what only one target is shown: "text", "token", or "target" for all.
        before: How many tokens before a target are shown.
        after: How many tokens after it.

    Raises:
        ValueError: For a segment that no lens has, options out of range, and a condition that
            DuckDB does not understand.
    """
    resolve_choice("by", by, BY)
    resolve_choice("distinct", distinct, DISTINCT)
    for name, count, least in (("number", number, 1), ("before", before, 0), ("after", after, 0)):
        resolve_count(name, count, least=least)
    segment = _segment(segment, layer, head)
    lens, place = _find(corpus, segment, lens)
    entry = f"{corpus.column_of(lens)}[{place + 1}]"
    key = {"text": "text", "token": "token_id", "target": "text, position"}[distinct]
    # Equal credits are told apart by their place, the first before the others.
    order, sign = ("DESC", "-") if by == "largest" else ("ASC", "")
    ranked = f"{{credit: {entry}, text: {sign}text, position: {sign}position}}"
    chosen = corpus.sql(
        f"SELECT {sign}best.text, {sign}best.position FROM "
        f"(SELECT {BY[by]}({ranked}) AS best FROM targets WHERE {where} GROUP BY {key}) "
        f"ORDER BY best {order} LIMIT {number}"
    ).fetchall()
    items = _in_context(corpus, chosen, entry, before, after)
    return Examples(segment, by, corpus.lenses[lens]["unit"], tuple(items))


def _segment(segment: str | None, layer: int | None, head: int | None) -> str:
    if (segment is None) == (layer is None):
        raise ValueError("give either a segment, such as 'L3', or the number of a layer")
    if segment is not None:
        if head is not None:
            raise ValueError("a head belongs to a layer: give layer and head, or a segment")
        return segment
    assert layer is not None
    return layer_label(layer) if head is None else head_label(layer, head)


def _find(corpus: Corpus, segment: str, lens: str | None) -> tuple[str, int]:
    """Return a lens that has a segment, and the segment's place in it."""
    if lens is not None:
        resolve_choice("lens", lens, corpus.lenses)
    for name in corpus.lenses if lens is None else [lens]:
        segments = corpus.lenses[name]["segments"]
        if segment in segments:
            return name, segments.index(segment)
    told = {name: described["segments"] for name, described in corpus.lenses.items()}
    listed = "; ".join(f"{name} has {', '.join(of[:3])} to {of[-1]}" for name, of in told.items())
    raise ValueError(f"no lens of the corpus has a segment {segment!r}: {listed}")


def _in_context(
    corpus: Corpus, chosen: Sequence[tuple[int, int]], entry: str, before: int, after: int
) -> list[Example]:
    """Read the rows around targets, in whose order the examples are."""
    if not chosen:
        return []
    listed = set(corpus.connection.sql("SELECT * FROM targets LIMIT 0").columns)
    lists = sorted({"credits", *corpus.lenses} & listed)
    values = ", ".join(
        f"({number}, {text}, {position})" for number, (text, position) in enumerate(chosen)
    )
    rows = (
        corpus.connection.sql(
            f"SELECT targets.* EXCLUDE ({', '.join(map(quoted, lists))}), "
            f"{entry} AS {_CREDIT}, chosen.number AS {_NUMBER} FROM targets "
            f"JOIN (VALUES {values}) chosen(number, text, position) ON targets.text = chosen.text "
            f"AND targets.position - chosen.position BETWEEN -{before} AND {after} "
            f"ORDER BY {_NUMBER}, targets.position"
        )
        .to_arrow_table()
        .to_pylist()
    )
    return [
        _example(chosen[number], list(around))
        for number, around in groupby(rows, key=itemgetter(_NUMBER))
    ]


def _example(target: tuple[int, int], around: Sequence[Mapping[str, Any]]) -> Example:
    text, position = target
    place = [row["position"] for row in around].index(position)
    hidden = ("text", "position", "token", _CREDIT, _NUMBER)
    row = {name: entry for name, entry in around[place].items() if name not in hidden}
    context = tuple((row["token"], row[_CREDIT]) for row in around)
    return Example(text, position, context[place][1], row, context, place)
