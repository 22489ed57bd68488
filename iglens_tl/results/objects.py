"""Saving results of several parts without loss, each as one JSON object.

A file says what it is by "format" and "version". Numbers are written with all their digits, and
NaN, which JSON does not have, as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from iglens_tl.files import write_atomically
from iglens_tl.results.data import Provenance, Target, Text

_PREFIX = "iglens_tl."
_VERSION = 1
_Result = TypeVar("_Result")


def save_object(path: str | Path, kind: str, fields: Mapping[str, Any]) -> Path:
    """Write the fields of a result to a `.json` file; an interruption leaves no part of it.

    Args:
        path: Where to.
        kind: The name of the result's class.
        fields: What JSON can hold, but for NaN.

    Raises:
        ValueError: For another ending, or a path that cannot be written.
    """
    _require_json(path)
    content = {"format": _PREFIX + kind, "version": _VERSION, **without_nan(dict(fields))}
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    return write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def load_object(path: str | Path, kind: str, build: Callable[[Any], _Result]) -> _Result:
    """Read a result from a file that `save_object` wrote.

    Args:
        path: Where from.
        kind: The name of the result's class.
        build: Makes the result of the file's content.

    Raises:
        ValueError: For a missing, damaged or foreign file.
    """
    _require_json(path)
    if not Path(path).is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _PREFIX + kind:
            raise ValueError(f"it is not a {_PREFIX}{kind}")
        if content.get("version") != _VERSION:
            raise ValueError(f"it has version {content.get('version')!r}, expected {_VERSION}")
        return build(content)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{str(path)!r} holds no {kind} of iglens_tl: {error}") from error


def without_nan(value: Any) -> Any:
    """Replace NaN by None, also inside lists and mappings."""
    if isinstance(value, Mapping):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def decode_array(rows: Any) -> np.ndarray:
    """Return numbers in float64, None as NaN."""
    return np.array(rows, dtype=np.float64)


def decode_text(content: Mapping[str, Any]) -> Text:
    """Return a text from what `dataclasses.asdict` and JSON made of it."""
    return Text(tuple(content["ids"]), tuple(content["tokens"]))


def decode_target(content: Mapping[str, Any]) -> Target:
    """Return a target from what `dataclasses.asdict` and JSON made of it."""
    return Target(
        content["prompt"], content["position"], content["token_id"], str(content["token"])
    )


def decode_provenance(content: Mapping[str, Any]) -> Provenance:
    """Return provenance from what `dataclasses.asdict` and JSON made of it."""
    return Provenance(**{**content, "notes": tuple(content["notes"])})


def encode_frame(frame: pd.DataFrame) -> dict[str, Any]:
    """Return a table with a plain index, its missing entries as None."""
    return {
        str(name): {
            "dtype": str(column.dtype),
            "values": [None if pd.isna(entry) else entry for entry in column.tolist()],
        }
        for name, column in frame.items()
    }


def decode_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table from what `encode_frame` made of it."""
    return pd.DataFrame(
        {
            name: pd.Series(column["values"], dtype=column["dtype"])
            for name, column in content.items()
        }
    )


def _require_json(path: str | Path) -> None:
    if Path(path).suffix.lower() != ".json":
        raise ValueError(f"{str(path)!r} must end in .json")
