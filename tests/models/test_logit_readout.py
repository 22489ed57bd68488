"""The readout against TransformerLens 4's own `logit_readout`."""

from __future__ import annotations

import pytest
import torch

from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, TL_VERSION

pytestmark = pytest.mark.skipif(
    TL_VERSION.startswith("3."), reason="logit_readout came with TransformerLens 4"
)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_probabilities_and_gradients_agree_with_transformer_lens(toy_model, name, backend):
    from transformer_lens.tools.analysis import logit_readout

    model = toy_model(name, backend)
    torch.manual_seed(0)
    states = (3 * torch.randn(6, adapt(model).readout.d_model)).requires_grad_()
    own = adapt(model).readout.logits(states).softmax(-1)
    theirs = logit_readout(model, states, return_type="probs", enable_grad=True).values
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)
    gradients = [torch.autograd.grad(probs[:, 17].sum(), states)[0] for probs in (own, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
