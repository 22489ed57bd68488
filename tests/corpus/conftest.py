"""Fixtures of the tests of corpora."""

from __future__ import annotations

import pytest

from iglens_tl.corpus import Columns, Source, open_source
from tests.support.corpora import TEXTS


@pytest.fixture
def source(tmp_path) -> Source:
    """Return a source of some lines."""
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return open_source(path, columns=Columns())
