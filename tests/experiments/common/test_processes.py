"""Work spread over processes."""

from __future__ import annotations

import math

import pytest

from experiments.common.processes import map_processes


@pytest.mark.parametrize("processes", [1, 2])
def test_items_come_back_in_order_from_any_number_of_processes(processes):
    assert map_processes(math.factorial, range(6), processes=processes) == [1, 1, 2, 6, 24, 120]
