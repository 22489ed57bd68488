"""The columns of a corpus as Arrow types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_WORD = pa.dictionary(pa.int32(), pa.string())
_TYPES = {
    "text": pa.int64(),
    "window": pa.int32(),
    "position": pa.int32(),
    "token_id": pa.int32(),
    "token": _WORD,
    "kind": _WORD,
    "final": pa.float32(),
    "baseline": pa.float32(),
    "error": pa.float32(),
    "onset": pa.int16(),
    "logprob": pa.float32(),
    "rank": pa.int32(),
    "entropy": pa.float32(),
}
"""The columns that every corpus has, in their order; those of the lenses and of the user follow."""


def build_table(
    columns: Mapping[str, Any], keep: Sequence[str], metadata: Mapping[bytes, str]
) -> pa.Table:
    """Make a table of columns.

    Args:
        columns: By name; what lenses found as arrays `[target]` or `[target, segment]`.
        keep: The names of the user's columns.
        metadata: What stands in the table's metadata.
    """
    arrays: dict[str, pa.Array] = {}
    for name, kind in _TYPES.items():
        arrays[name] = pa.array([], kind) if name not in columns else _typed(columns[name], kind)
    for name, column in columns.items():
        if name not in arrays and name not in keep:
            arrays[name] = _numbers(column)
    for name in keep:
        # Texts, because records of one column may hold numbers, texts or nothing.
        texts = [None if entry is None else str(entry) for entry in columns[name]]
        arrays[name] = pa.array(texts, pa.string()).dictionary_encode().cast(_WORD)
    return pa.table(arrays).replace_schema_metadata(dict(metadata))


def _typed(column: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(column, pa.string()).dictionary_encode().cast(kind)
    return pa.array(np.asarray(column).astype(kind.to_pandas_dtype()), kind)


def _numbers(column: np.ndarray) -> pa.Array:
    flat = pa.array(column.astype(np.float32).reshape(-1))
    return flat if column.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
