"""Saving results without loss: the tidy table, with everything else beside it.

A Parquet file is the tidy table, readable by any tool, with the rest as JSON in its metadata. A
JSON file holds the same in one object whose "data" are the rows of the tidy table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from iglens_tl.files import write_atomically
from iglens_tl.results.data import LensData, Provenance, Target, Text, TopTokens
from iglens_tl.results.frames import tidy_frame

_FORMAT = "iglens_tl.LensResult"
_VERSION = 2
_KEY = b"iglens_tl"


def save(data: LensData, path: str | Path) -> Path:
    """Write a result to a `.json` or `.parquet` file.

    Raises:
        ValueError: For another ending, or a path that cannot be written.
    """
    return write_atomically(path, _by_suffix(path, _SAVERS)(data))


def load(path: str | Path) -> dict[str, Any]:
    """Read the fields of a result from a file that `save` wrote.

    Raises:
        ValueError: For a missing, damaged or foreign file.
    """
    reader = _by_suffix(path, _LOADERS)
    if not Path(path).is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        return _checked_fields(*reader(Path(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} holds no result of iglens_tl: {error}") from error


def to_json(data: LensData) -> str:
    """Return a result as the text of a JSON file."""
    return json.dumps(encode(data), ensure_ascii=False, indent=1)


def encode(data: LensData) -> dict[str, Any]:
    """Return a result as an object that JSON can hold."""
    rows = tidy_frame(data).astype(object).to_dict(orient="records")
    return _encode({**_header(data), "data": rows})


def decode(content: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a result from what `encode` made of it.

    Raises:
        ValueError: For another format or version.
    """
    return _checked_fields(content, pd.DataFrame(content["data"]))


def _save_json(data: LensData) -> Callable[[Path], object]:
    return lambda path: path.write_text(to_json(data) + "\n", encoding="utf-8")


def _save_parquet(data: LensData) -> Callable[[Path], object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(tidy_frame(data), preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(_encode(_header(data))).encode()}
    return lambda path: pq.write_table(table.replace_schema_metadata(metadata), path)


def _load_json(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content, pd.DataFrame(content["data"])


def _load_parquet(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return json.loads((table.schema.metadata or {})[_KEY]), table.to_pandas()


_SAVERS = {".json": _save_json, ".parquet": _save_parquet}
_LOADERS = {".json": _load_json, ".parquet": _load_parquet}


def _by_suffix(path: str | Path, functions: dict[str, Any]) -> Any:
    suffix = Path(path).suffix.lower()
    if suffix not in functions:
        raise ValueError(f"{str(path)!r} must end in {' or '.join(functions)}")
    return functions[suffix]


def _header(data: LensData) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "lens": data.lens,
        "unit": data.unit,
        "kind": data.kind,
        "label": data.label,
        "statistics": list(data.statistics),
        "provenance": asdict(data.provenance),
        "segments": list(data.segments),
        "texts": [asdict(text) for text in data.texts],
        "targets": [
            {**asdict(target), "baseline": float(baseline), "final": float(final)}
            for target, baseline, final in zip(data.targets, data.baseline, data.final, strict=True)
        ],
        "top": None if data.top is None else _encode_top(data.top),
    }


def _encode_top(top: TopTokens) -> dict[str, Any]:
    tokens = {str(token_id): token for token_id, token in top.tokens.items()}
    return {"ids": top.ids.tolist(), "probs": top.probs.tolist(), "tokens": tokens}


def _checked_fields(header: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    if header.get("format") != _FORMAT or header.get("version") != _VERSION:
        raise ValueError(f"it is not a {_FORMAT} of version {_VERSION}")
    return _fields(header, table)


def _fields(header: dict[str, Any], table: pd.DataFrame) -> dict[str, Any]:
    targets, segments = header["targets"], header["segments"]
    shape = (len(targets), len(segments))

    def column(name: str, dtype: Any) -> np.ndarray:
        return np.array(table[name].tolist(), dtype=dtype).reshape(shape)

    top = header["top"]
    return {
        "lens": header["lens"],
        "unit": header["unit"],
        "kind": header["kind"],
        "label": header["label"],
        "segments": tuple(segments),
        "texts": tuple(Text(tuple(t["ids"]), tuple(t["tokens"])) for t in header["texts"]),
        "targets": tuple(
            Target(t["prompt"], t["position"], t["token_id"], t["token"]) for t in targets
        ),
        "values": column("value", np.float64),
        "levels": column("level", np.float64),
        "baseline": np.array([_float(t["baseline"]) for t in targets], dtype=np.float64),
        "final": np.array([_float(t["final"]) for t in targets], dtype=np.float64),
        "ranks": column("rank", np.int64) if "rank" in table else None,
        "top": None if top is None else _decode_top(top, shape),
        "statistics": {name: column(name, np.float64) for name in header["statistics"]},
        "provenance": Provenance(
            **{**header["provenance"], "notes": tuple(header["provenance"]["notes"])}
        ),
    }


def _decode_top(top: dict[str, Any], shape: tuple[int, int]) -> TopTokens:
    return TopTokens(
        ids=np.array(top["ids"], dtype=np.int64).reshape(*shape, -1),
        probs=np.array(top["probs"], dtype=np.float64).reshape(*shape, -1),
        tokens={int(token_id): token for token_id, token in top["tokens"].items()},
    )


def _encode(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _float(value: float | None) -> float:
    return math.nan if value is None else value
