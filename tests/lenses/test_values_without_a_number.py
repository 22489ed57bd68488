"""A value that is no number is blamed on what gave it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from iglens_tl import Value, ig_lens, logit_lens
from tests.support.cases import IDS


@dataclass(frozen=True)
class LogOfDifference(Value):
    """The logarithm of the difference of two logits: no number where it is negative."""

    name = "log_of_difference"
    unit = "nats"

    def evaluate(self, logits, targets):
        del targets
        return (logits[..., 5] - logits[..., 9]).log()

    def gradient(self, logits, targets):
        del targets
        found = torch.zeros_like(logits)
        difference = logits[..., 5] - logits[..., 9]
        found[..., 5], found[..., 9] = 1 / difference, -1 / difference
        return found


@pytest.mark.parametrize("lens", [ig_lens, logit_lens])
def test_a_users_value_that_is_no_number_is_named_and_not_the_baseline(toy, lens):
    with pytest.raises(
        ValueError, match="'log_of_difference' is nan .* whose logits are finite"
    ) as e:
        lens(toy, IDS, value=LogOfDifference())
    assert "baseline" not in str(e.value)
