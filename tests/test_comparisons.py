"""Every test leaves room for rounding between two kernels, and the rules that see to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.comparison_rules import find_exact_comparisons

TESTS = Path(__file__).parent
FILES = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "closeness.py"]


def test_no_test_compares_computed_floats_without_room_for_rounding():
    faults = [
        f"{path.relative_to(TESTS)}:{line}: {fault}"
        for path in FILES
        for line, fault in find_exact_comparisons(path.read_text())
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "source",
    [
        "assert torch.equal(a, b)",
        "assert all(map(torch.equal, before, after))",
        "np.testing.assert_array_equal(a, b)",
        "assert np.array_equal(a, b)",
        "assert frame.equals(other)",
        "np.testing.assert_allclose(a, b)",
        "np.testing.assert_allclose(a, b, 1e-4)",
        "np.testing.assert_allclose(a, b, rtol=1e-3, atol=0)",
        "assert not np.allclose(a, b)",
        "assert math.isclose(a, b)",
        "torch.testing.assert_close(a, b, atol=0, rtol=1e-5)",
        "torch.testing.assert_close(a, b, atol=0.0, rtol=0)",
        "pd.testing.assert_frame_equal(a, b)",
        "assert a == pytest.approx(b.sum())",
        "assert a == pytest.approx(0.3, abs=0)",
        "assert (first.values == second.values).all()",
        "assert result.final[0] == expected",
        "assert result.baseline[0] == (result.levels - result.values)[0, 0]",
        "assert loss.item() == other",
        "assert result.values[0].tolist() == [0.25, 0.5]",
        "assert float(a) != b",
        "assert (row.low, row.mean()) == pair",
    ],
)
def test_comparisons_without_room_for_rounding_are_found(source):
    assert [line for line, _ in find_exact_comparisons(source)] == [1]


@pytest.mark.parametrize(
    "source",
    [
        "assert_close_to(a, b)",
        "assert_identical(loaded.values, result.values)",
        "np.testing.assert_allclose(a, b, atol=1e-6)",
        "np.testing.assert_allclose(a, b, atol=1e-5 * scale, rtol=0)",
        "torch.testing.assert_close(a, b)",
        "torch.testing.assert_close(a, b, atol=1e-12, rtol=0)",
        "assert a == pytest.approx(1 / 6)",
        "assert table == pytest.approx([0.5, -1])",
        "assert a == pytest.approx(b.mean(), abs=1e-9)",
        "assert result.values[0, 1] == pytest.approx(found, abs=1e-6)",
        "assert frame['L1.attn'].item() == 0",
        "assert result.ranks[0, -1] == 1",
        "assert result.values.dtype == torch.float32",
        "assert result.values.shape == (2, 4)",
        "assert counts.tolist() == [1, 2]",
        "assert set(found.values()) == names",
        "assert scores.mean() > 0.5",
    ],
)
def test_other_comparisons_are_left_alone(source):
    assert find_exact_comparisons(source) == []


def test_entries_near_zero_are_measured_by_the_size_of_their_tensor():
    expected = torch.tensor([1000.0, 1e-4])
    assert_close_to(expected + torch.tensor([0.0, 5e-4]), expected)
    with pytest.raises(AssertionError):
        assert_close_to(expected + torch.tensor([0.0, 5e-2]), expected)


def test_the_default_tolerance_is_that_of_the_coarser_precision():
    expected = np.array([1.0, 2.0])
    with pytest.raises(AssertionError):
        assert_close_to(expected + 1e-6, expected)
    assert_close_to(expected + 1e-6, expected, dtype=torch.float32)
    assert_close_to(torch.tensor(expected + 1e-6).float(), expected)
    assert_close_to(torch.tensor(expected + 1e-2).bfloat16(), expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, np.nan])],
)
def test_other_shapes_and_other_gaps_are_not_close(actual, expected):
    with pytest.raises(AssertionError):
        assert_close_to(np.array(actual), np.array(expected))


def test_zeros_need_the_size_of_what_cancels():
    with pytest.raises(ValueError, match="give the size"):
        assert_close_to(np.zeros(2), 0)
    assert_close_to(np.full(2, 1e-9), 0, size=100)
    with pytest.raises(AssertionError):
        assert_close_to(np.full(2, 1e-7), 0, size=100)


def test_tables_are_close_by_column():
    table = pd.DataFrame({"name": ["a", "b"], "large": [1e6, 0.0], "small": [1e-6, np.nan]})
    assert_close_to(table.assign(large=table["large"] + 1e-5), table)
    for other in (
        table.assign(small=table["small"] + 1e-9),
        table.assign(name=["a", "c"]),
        table.rename(columns={"name": "title"}),
    ):
        with pytest.raises(AssertionError):
            assert_close_to(other, table)


def test_columns_of_zeros_are_close_by_the_size_that_is_given():
    table = pd.DataFrame({"error": [0.0, 0.0]})
    rounded = table.assign(error=[0.0, 1e-12])
    assert_close_to(rounded, table, size=1)
    for options in ({}, {"size": 1e-3}):
        with pytest.raises(AssertionError):
            assert_close_to(rounded, table, **options)


def test_identical_means_every_bit():
    numbers = torch.tensor([0.1, torch.nan])
    assert_identical(numbers.clone(), numbers)
    for other in (numbers + torch.tensor([1e-8, 0]), numbers[:1], numbers.double()):
        with pytest.raises(AssertionError):
            assert_identical(other, numbers)


def test_rounding_does_not_make_two_results_differ():
    numbers = np.array([0.5, 1.0])
    assert_far_from(numbers * [1, 1.01], numbers)
    with pytest.raises(AssertionError):
        assert_far_from(numbers + 1e-7, numbers)
