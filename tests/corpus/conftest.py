"""Fixtures of the tests of corpora."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from iglens_tl import Components, IGLens, LogitLens
from iglens_tl.corpus import Columns, Measurement, Source, open_source, run_corpus
from tests.support.corpora import TEXTS
from tests.support.results import HOSTILE


@pytest.fixture
def source(tmp_path) -> Source:
    """Return a source of some lines."""
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return open_source(path, columns=Columns())


@pytest.fixture(scope="session")
def measured(toy, tmp_path_factory) -> Path:
    """Return the folder of a corpus with three lenses, heads, a column and a rejected text."""
    root = tmp_path_factory.mktemp("measured")
    genres = ["of one text", *("it's", HOSTILE, None) * len(TEXTS)]
    lines = [{"text": text, "genre": genre} for text, genre in zip(TEXTS, genres, strict=False)]
    lines.insert(3, {"text": "", "genre": "empty"})
    path = root / "texts.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    lenses = {
        "ig_lens": IGLens(top_k=0),
        "logit_lens": LogitLens(top_k=0),
        "by head": Components(by="head"),
    }
    source = open_source(path, columns=Columns(keep=("genre",)))
    run_corpus(source, toy, root / "corpus", Measurement(lenses=lenses), texts_per_part=4)
    return root / "corpus"
