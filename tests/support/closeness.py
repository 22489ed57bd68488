"""How tests compare numbers: close relative to their tensor, identical, or far apart.

Two kernels never owe one another the same bits. Another processor, another batch size or another
alignment in memory changes the order of a sum, and with it every entry by about the rounding of
the *largest* number that took part. An entry near zero of a tensor with large entries is
therefore off by many times its own rounding, so that neither `==` nor a relative tolerance per
entry can hold. `assert_close_to` measures differences by the size of the tensor they belong to.

* An exact identity is tested on a float64 model, where the default tolerance is 1e-10.
* Numbers of a float32 model are compared with `dtype=torch.float32`, even where a result keeps
  them in float64 arrays.
* `assert_identical` is for what no kernel computed twice: integers, texts, what was saved and
  read, selected, copied or passed through.

`tests/test_comparisons.py` makes sure that every test follows these rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

TOLERANCES = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""The default tolerance by the precision in which the numbers were computed.

Each is some hundred units in the last place: what a few layers of a small model add up to, and
far below any difference that a wrong formula makes.
"""


def assert_close_to(
    actual: Any,
    expected: Any,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float | None = None,
    size: float | None = None,
) -> None:
    """Require numbers that differ by at most `tolerance` times the size of what is expected.

    NaNs have to stand at the same places. Tables are compared by column, whose numbers belong to
    one another; their other columns, the index and the names have to be identical.

    Args:
        actual: A number, an array, a tensor or a data frame.
        expected: The same of the same shape, or one number for all.
        dtype: The precision in which the numbers were computed. `None` takes the coarser one of
            the two arguments; give it where a float64 array holds what a float32 model computed.
        tolerance: The largest difference, relative to `size`. `None` takes the default of the
            precision (`TOLERANCES`).
        size: The size of the tensor that the numbers belong to. `None` takes the largest absolute
            expected number; give it where zero is expected, or where terms cancel.
    """
    if isinstance(expected, pd.DataFrame):
        _assert_frames_close(actual, expected, dtype=dtype, tolerance=tolerance, size=size)
        return
    dtype = dtype or _coarser(actual, expected)
    tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
    found, wanted = _to_array(actual), _to_array(expected)
    assert wanted.ndim == 0 or found.shape == wanted.shape, f"{found.shape} is not {wanted.shape}"
    wanted = np.broadcast_to(wanted, found.shape)
    if size is None:
        finite = wanted[np.isfinite(wanted)]
        size = float(np.abs(finite).max(initial=0))
        if size == 0 and finite.size:
            raise ValueError("all expected numbers are 0: give the size of the terms they sum")
    np.testing.assert_allclose(found, wanted, atol=tolerance * size, rtol=0, equal_nan=True)


def assert_far_from(actual: Any, other: Any, *, at_least: float = 1e-3) -> None:
    """Require numbers of which one differs by `at_least` times the size of the others, or more.

    That two computations differ in some bit says nothing: rounding alone can do that.
    """
    found, wanted = _to_array(actual), _to_array(other)
    difference = np.nanmax(np.abs(found - wanted))
    size = np.nanmax(np.abs(wanted))
    assert difference >= at_least * size, f"the largest difference is {difference} of {size}"


def assert_identical(actual: Any, expected: Any, *, check_dtype: bool = True) -> None:
    """Require the same shape and the same bits; NaNs at the same places are the same.

    Only for what no kernel computed twice: integers, texts, what was saved and read, selected or
    passed through. `expected` may also be one number for all.

    Args:
        actual: An array, a tensor, a data frame or a series.
        expected: What it has to be.
        check_dtype: Whether columns of tables need the same type.
    """
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(actual, expected, check_exact=True, check_dtype=check_dtype)
    elif isinstance(expected, torch.Tensor) and isinstance(actual, torch.Tensor):
        torch.testing.assert_close(actual, expected, atol=0, rtol=0, equal_nan=True)
    else:
        np.testing.assert_array_equal(_to_numpy(actual), _to_numpy(expected))


def is_identical(first: Any, second: Any) -> bool:
    """Return whether two arrays or tensors have the same shape and the same bits."""
    return np.array_equal(_to_numpy(first), _to_numpy(second))


def _assert_frames_close(actual: pd.DataFrame, expected: pd.DataFrame, **options: Any) -> None:
    assert list(actual.columns) == list(expected.columns)
    pd.testing.assert_index_equal(actual.index, expected.index)
    for place, name in enumerate(expected.columns):
        found, wanted = actual.iloc[:, place], expected.iloc[:, place]
        if not pd.api.types.is_float_dtype(wanted):
            pd.testing.assert_series_equal(found, wanted, check_exact=True, check_dtype=False)
            continue
        found, wanted = (column.to_numpy(float, na_value=np.nan) for column in (found, wanted))
        if options["size"] is None and not np.nan_to_num(wanted).any():
            assert_identical(np.nan_to_num(found), 0)
            assert_identical(np.isnan(found), np.isnan(wanted))
            continue
        try:
            assert_close_to(found, wanted, **options)
        except AssertionError as error:
            raise AssertionError(f"column {name}: {error}") from None


def _to_numpy(numbers: Any) -> np.ndarray:
    if isinstance(numbers, torch.Tensor):
        numbers = numbers.detach()
        return (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).cpu().numpy()
    return np.asarray(numbers)


def _to_array(numbers: Any) -> np.ndarray:
    return _to_numpy(numbers).astype(float)


def _coarser(*numbers: Any) -> torch.dtype:
    """Return the coarsest floating-point precision among tensors and arrays."""
    found = torch.float64
    for each in numbers:
        dtype = getattr(each, "dtype", None)
        if isinstance(dtype, np.dtype):
            dtype = {"float32": torch.float32, "float16": torch.float16}.get(dtype.name)
        if dtype in TOLERANCES and TOLERANCES[dtype] > TOLERANCES[found]:
            found = dtype
    return found
