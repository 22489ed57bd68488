"""Parts of a table: nothing is computed twice, nothing half-written counts."""

from __future__ import annotations

import pandas as pd
import pytest

from iglens_tl.resume import Parts
from tests.support.closeness import assert_identical

FRAME = pd.DataFrame({"layer": ["L0", "L1"], "credit": [0.25, -0.5]})


def never() -> pd.DataFrame:
    raise AssertionError("this part is there already")


def test_a_part_is_computed_once_and_keeps_its_numbers(tmp_path):
    first = Parts(tmp_path / "run", {"seed": 0, "lenses": ("ig_lens",)})
    assert_identical(first.frame("facts/skip", lambda: FRAME), FRAME)
    again = Parts(tmp_path / "run", {"seed": 0, "lenses": ["ig_lens"]})
    assert_identical(again.frame("facts/skip", never), FRAME)


def test_an_interrupted_part_is_computed_by_the_next_run(tmp_path):
    def interrupted() -> pd.DataFrame:
        raise KeyboardInterrupt

    parts = Parts(tmp_path, {})
    parts.frame("a", lambda: FRAME)
    with pytest.raises(KeyboardInterrupt):
        parts.frame("b", interrupted)
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert_identical(Parts(tmp_path, {}).frame("b", lambda: FRAME), FRAME)


def test_a_damaged_file_is_computed_again(tmp_path):
    parts = Parts(tmp_path, {})
    parts.frame("a", lambda: FRAME)
    (path,) = tmp_path.glob("*.parquet")
    path.write_bytes(path.read_bytes()[:40])
    assert_identical(parts.frame("a", lambda: FRAME), FRAME)


def test_parts_of_other_settings_are_refused_and_kept(tmp_path):
    Parts(tmp_path, {"seed": 0, "items": 5}).frame("a", lambda: FRAME)
    with pytest.raises(ValueError, match=r"other settings \(seed\); give another folder"):
        Parts(tmp_path, {"seed": 1, "items": 5})
    assert_identical(Parts(tmp_path, {"seed": 0, "items": 5}).frame("a", never), FRAME)


def test_names_that_look_alike_as_files_are_different_parts(tmp_path):
    parts = Parts(tmp_path, {})
    other = FRAME.assign(credit=0.0)
    for name, frame in {"a/b": FRAME, "a b": other, "a" * 80: FRAME, "a" * 81: other}.items():
        parts.frame(name, lambda frame=frame: frame)
    assert_identical(parts.frame("a/b", never), FRAME)
    assert_identical(parts.frame("a b", never), other)
    assert_identical(parts.frame("a" * 81, never), other)
