"""Reads the data files beside this module."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "data"


def read_text(name: str) -> str:
    """Read a file of the data folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def read_json(name: str) -> dict[str, Any]:
    """Read `data/<name>.json`."""
    return json.loads(read_text(f"{name}.json"))


@cache
def read_table(name: str) -> list[dict[str, str]]:
    """Read `data/<name>.tsv` as one dictionary per row."""
    with (_FOLDER / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
