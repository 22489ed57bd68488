"""Corpora that tests measure and compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from iglens_tl import IGLens
from iglens_tl.corpus import Measurement, run_corpus
from tests.support.closeness import assert_close_to

TEXTS = [f"w{a} w{b} w{a + b} w{a * b % 60}" + " w5" * (a % 4) for a in range(3, 9) for b in (2, 7)]


def rows_of(folder):
    """Return all rows of a corpus as one table, in the order of the parts."""
    paths = sorted((Path(folder) / "parts").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def column(rows, name):
    """Return one column of rows as an array."""
    return np.array([row[name] for row in rows])


def assert_same_corpus(folder, expected):
    """Require the same rows, parts and rejected texts."""
    rows, wanted = rows_of(folder), rows_of(expected)
    assert len(rows) == len(wanted)
    for name in wanted[0]:
        if isinstance(wanted[0][name], (float, list)):
            assert_close_to(column(rows, name), column(wanted, name), dtype=torch.float32, size=1)
        else:
            assert [row[name] for row in rows] == [row[name] for row in wanted]
    names = [
        {str(path.relative_to(each)) for path in Path(each).rglob("*")}
        for each in (folder, expected)
    ]
    assert names[0] == names[1]
    rejected = [pq.read_table(Path(each) / "rejected.parquet") for each in (folder, expected)]
    assert rejected[0].to_pylist() == rejected[1].to_pylist()


def credits_of(**options) -> Measurement:
    """Return the measurement of IG-Lens alone."""
    return Measurement(lenses={"ig_lens": IGLens(top_k=0)}, **options)


def run_folder(source, model, folder, measurement, **options):
    """Measure a corpus and return its folder."""
    run_corpus(source, model, folder, measurement, **options)
    return folder
