"""The training loss and its gradient against plain torch."""

from __future__ import annotations

import pytest
import torch

from iglens_tl.models import adapt
from iglens_tl.readout import FinalNorm, OutputTransform, Readout
from iglens_tl.tuning.loss import DivergenceLoss
from tests.support.divergence import plain_divergence


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("transform", [{}, {"scale": 0.3}, {"softcap": 3.0, "scale": 1.7}])
def test_loss_and_gradient_are_those_of_plain_torch(centered, transform):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    readout = Readout(
        normal(8, 31),
        normal(31),
        FinalNorm(centered, 1e-5, normal(8), normal(8)),
        OutputTransform(**transform),
        torch.float64,
    )
    states, last = normal(12, 8).requires_grad_(), normal(12, 8)
    expected = plain_divergence(readout, states, last)
    (gradient,) = torch.autograd.grad(expected, states)
    loss = DivergenceLoss(readout)
    found = loss.sum(states, loss.target(last)) / 12
    (own,) = torch.autograd.grad(found, states)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(own, gradient, atol=1e-12, rtol=0)


def test_the_divergence_of_a_state_from_itself_is_zero(toy):
    adapter = adapt(toy)
    states = torch.randn(5, 32)
    loss = DivergenceLoss(adapter.readout)
    total, gradient = loss.value_and_gradient(
        adapter.readout.normalize(states), loss.target(states)
    )
    assert abs(float(total)) < 1e-5
    assert float(gradient.abs().max()) < 1e-5


def test_half_precision_products_stay_close(toy):
    adapter = adapt(toy)
    states, last = torch.randn(16, 32), torch.randn(16, 32)
    exact, half = DivergenceLoss(adapter.readout), DivergenceLoss(adapter.readout, half=True)
    rows = adapter.readout.normalize(states)
    total, gradient = exact.value_and_gradient(rows, exact.target(last))
    near, near_gradient = half.value_and_gradient(rows, half.target(last))
    assert float(near) == pytest.approx(float(total), rel=2e-2)
    torch.testing.assert_close(near_gradient, gradient, atol=2e-2, rtol=0.1)
