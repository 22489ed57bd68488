"""Tables, onsets and files of results."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from iglens_tl import LensResult
from iglens_tl.files import write_atomically
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.results import HOSTILE, make_result


def assert_same_fields(left, right):
    """Compare every field of two results bit by bit."""
    for field in fields(left):
        mine, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(mine, np.ndarray):
            assert mine.dtype == other.dtype
            assert_identical(mine, other)
        elif field.name == "top" and is_dataclass(mine):
            assert_same_fields(mine, other)
        else:
            assert mine == other


def test_the_wide_table_has_a_row_per_target_and_the_summary_last():
    result = make_result(error=0.25)
    frame = result.to_frame()
    summary = ["sum", "delta", "final", "baseline", "error", "onset"]
    assert frame.columns.tolist() == ["embed", "L0", "L1", "L2", *summary]
    assert frame.index.names == ["prompt", "position", "token_id", "token"]
    assert frame.index[0] == (0, 0, 1, " Hanoi")
    assert_close_to(frame["sum"], result.values.sum(1))
    assert_close_to(frame["delta"], frame["final"] - frame["baseline"])
    assert_close_to(frame["error"], 0.25)


def test_the_tidy_table_has_a_row_per_target_and_segment():
    result = make_result()
    tidy = result.to_frame(tidy=True)
    assert len(tidy) == 4 * 4
    wide = tidy.pivot(index="position", columns="segment", values="value")
    assert_identical(wide[list(result.segments)], result.values)
    assert set(tidy["unit"]) == {"probability"}
    assert set(tidy["lens"]) == {"ig_lens"}
    assert_identical(tidy["rank"], result.ranks.reshape(-1))


def test_errors_by_segment_are_what_values_miss_of_the_levels():
    result = make_result(np.array([[0.1, 0.2, 0.3]]), tokens=("a",))
    levels = result.levels.copy()
    levels[0, 1] += 0.05
    from dataclasses import replace

    changed = replace(result, levels=levels)
    np.testing.assert_allclose(changed.segment_error, [[0, -0.05, 0.05]], atol=1e-12)
    # They cancel in the sum, which the table's column would not show.
    np.testing.assert_allclose(changed.completeness_error, 0, atol=1e-12)
    np.testing.assert_allclose(changed.to_frame()["error"], 0.05, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "fraction", "mass", "persistent"),
    [
        ([0.1, 0.2, 0.7], 0.5, "L1", "L1"),
        ([0.1, 0.2, 0.7], 0.3, "L0", "L0"),
        ([0.1, 0.2, 0.7], 1.0, "L1", "L1"),
        # Mass counts what cancels; the persistent rule waits until it stays.
        ([0.9, -0.9, 1.0], 0.5, "L0", "L1"),
        ([0.0, 0.0, 0.0], 0.5, "L1", "L1"),
        # A falling value has an onset as well.
        ([-0.6, -0.3, -0.1], 0.5, "embed", "embed"),
    ],
)
def test_onsets_of_small_cases(values, fraction, mass, persistent):
    result = make_result(np.array([values]), tokens=("a",))
    assert result.onset(fraction=fraction).tolist() == [mass]
    assert result.onset(rule="persistent", fraction=fraction).tolist() == [persistent]
    assert result.to_frame()["onset"].tolist() == result.onset().tolist()


@given(arrays(np.float64, (5, 7), elements=st.floats(-1, 1, allow_subnormal=False)))
def test_from_the_persistent_onset_on_the_fraction_is_kept(values):
    result = make_result(values, tokens=tuple("abcde"))
    change = result.final - result.baseline
    for row, onset in enumerate(result.onset(rule="persistent")):
        index = result.segments.index(onset)
        progress = np.sign(change[row]) * (result.levels[row] - result.baseline[row])
        kept = progress >= 0.5 * abs(change[row])
        if change[row]:
            assert kept[index:].all()
            assert index == 0 or not kept[index - 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "first"}, "unknown onset rule 'first'; choose mass or persistent"),
        ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0"),
        ({"fraction": 1.5}, "at most 1, got 1.5"),
    ],
)
def test_unknown_onset_rules_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_result().onset(**options)


def test_results_are_immutable():
    result = make_result()
    with pytest.raises(FrozenInstanceError):
        result.unit = "nats"
    with pytest.raises(ValueError, match="read-only"):
        result.values[0, 0] = 1
    frame = result.to_frame()
    frame.iloc[0, 0] = 7.0
    assert result.values[0, 0] != 7.0


def test_shapes_that_disagree_are_refused():
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"values has shape \(4, 3\), expected \(4, 4\)"):
        replace(make_result(), values=np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"final has shape \(3,\), expected \(4,\)"):
        replace(make_result(), final=np.zeros(3))


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("with_top", [True, False])
def test_saving_loses_nothing(tmp_path, suffix, with_top):
    result = make_result(tokens=(HOSTILE, "\n", "é", "🙂", ""), with_top=with_top)
    path = result.save(tmp_path / f"result{suffix}")
    assert_same_fields(LensResult.load(path), result)


@given(
    values=arrays(np.float64, (2, 3), elements=st.floats(-1e6, 1e6)),
    tokens=st.tuples(*[st.text(st.characters(codec="utf-8"))] * 2),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_any_numbers_and_tokens_survive_saving(tmp_path, suffix, values, tokens):
    result = make_result(values, tokens=tokens)
    assert_same_fields(LensResult.load(result.save(tmp_path / f"any{suffix}")), result)


def test_a_lens_result_with_missing_levels_survives_saving(tmp_path):
    from dataclasses import replace

    result = replace(make_result(), levels=np.full((4, 4), np.nan))
    for name in ("nan.json", "nan.parquet"):
        assert_same_fields(LensResult.load(result.save(tmp_path / name)), result)
    assert "NaN" not in (tmp_path / "nan.json").read_text()


def test_a_parquet_file_is_the_tidy_table_for_any_reader(tmp_path):
    result = make_result()
    path = result.save(tmp_path / "result.parquet")
    assert_identical(pd.read_parquet(path), result.to_frame(tidy=True), check_dtype=False)


def test_a_json_file_holds_the_rows_of_the_tidy_table_and_the_provenance(tmp_path):
    result = make_result()
    content = json.loads(result.save(tmp_path / "result.json").read_text())
    assert content["provenance"]["model"]["name"] == "a <b>model</b>"
    rows = pd.DataFrame(content["data"])
    assert_identical(rows, result.to_frame(tidy=True), check_dtype=False)


@pytest.mark.parametrize("name", ["result.txt", "result", "result.pkl"])
def test_other_endings_are_refused(tmp_path, name):
    for call in (make_result().save, LensResult.load):
        with pytest.raises(ValueError, match=r"must end in \.json or \.parquet"):
            call(tmp_path / name)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2]", b"not a file of ours"])
def test_damaged_and_foreign_files_are_refused(tmp_path, suffix, content):
    path = tmp_path / f"foreign{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no result of iglens_tl"):
        LensResult.load(path)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = make_result().save(tmp_path / f"cut{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="holds no result of iglens_tl"):
        LensResult.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*nothing.json"):
        LensResult.load(tmp_path / "nothing.json")


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_an_interrupted_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"kept{suffix}"
    first = make_result(seed=1)
    first.save(path)

    def interrupted(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_result(seed=2).save(path)
    assert_same_fields(LensResult.load(path), first)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot write '.*missing.*': No such file or directory"):
        make_result().save(tmp_path / "missing" / "result.json")
    assert not (tmp_path / "missing").exists()


def test_written_files_have_ordinary_permissions(tmp_path):
    path = write_atomically(tmp_path / "file.txt", lambda target: target.write_text("x"))
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    assert path.stat().st_mode == plain.stat().st_mode


def test_the_text_form_says_what_a_result_holds():
    assert repr(make_result(error=0.5)) == (
        "LensResult(ig_lens, a <b>model</b>: 4 targets × 4 segments in probability, "
        "largest completeness error 5.0e-01)"
    )


def test_the_notebook_table_escapes_tokens():
    page = make_result(tokens=(HOSTILE,))._repr_html_()
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;img src=x" in page
    assert "<b>model" not in page
    many = make_result(np.zeros((100, 2)), tokens=("a",) * 100)._repr_html_()
    assert "first 60 rows; 40 more" in many
