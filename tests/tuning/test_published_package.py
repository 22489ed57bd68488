"""The same parameters in the published tuned-lens package, where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iglens_tl import Translators, tuned_lens
from iglens_tl.models import adapt
from iglens_tl.tuning import TrainSettings
from iglens_tl.tuning.evaluation import unembed_hash
from iglens_tl.tuning.training import Trainer
from tests.support.cases import IDS
from tests.support.closeness import assert_identical

published = pytest.importorskip("tuned_lens")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def hf_gpt2(toy_folder):
    """Return plain Hugging Face's GPT-2 toy model."""
    return AutoModelForCausalLM.from_pretrained(toy_folder("gpt2")).eval()


@pytest.fixture
def folder(tmp_path, random_translators, hf_gpt2):
    """Return a folder in the published format."""
    return random_translators().save(tmp_path / "lens", format="pt")


def test_the_package_reads_our_folder_and_predicts_the_same(toy_model, hf_gpt2, folder):
    theirs = published.TunedLens.from_model_and_pretrained(hf_gpt2, str(folder))
    ours = tuned_lens(toy_model("gpt2"), IDS, lens=folder)
    with torch.no_grad():
        outcome = hf_gpt2(torch.tensor([IDS]), output_hidden_states=True)
        logits = [theirs(outcome.hidden_states[i], idx=i)[0, :-1] for i in range(3)]
    targets = torch.tensor(IDS[1:])[:, None]
    levels = [z.double().softmax(-1).gather(1, targets)[:, 0].numpy() for z in logits]
    np.testing.assert_allclose(ours.values[:, :3], np.stack(levels, 1), atol=1e-5)


def test_we_read_the_packages_folder(hf_gpt2, folder, tmp_path, random_translators):
    theirs = published.TunedLens.from_model_and_pretrained(hf_gpt2, str(folder))
    theirs.save(tmp_path / "theirs")
    ours = Translators.load(tmp_path / "theirs")
    assert_identical(ours.weight, random_translators().weight)
    assert_identical(ours.bias, random_translators().bias)


def test_the_hash_of_the_unembedding_is_the_packages(hf_gpt2, toy_model):
    theirs = published.TunedLens.from_model(hf_gpt2).config.unembed_hash
    assert unembed_hash(adapt(toy_model("gpt2")).readout) == theirs


def test_losses_and_gradients_are_the_packages(hf_gpt2, toy_model, sequences):
    theirs = published.TunedLens.from_model(hf_gpt2)
    with torch.no_grad():
        outcome = hf_gpt2(sequences[:4], output_hidden_states=True)
    target = outcome.logits.log_softmax(-1)
    trainer = Trainer(adapt(toy_model("gpt2")), TrainSettings(), sequences[:4])
    losses = trainer.accumulate(sequences[:4])
    for i, state in enumerate(outcome.hidden_states[:-1]):
        own = theirs(state, idx=i).log_softmax(-1)
        loss = (target.exp() * (target - own)).sum(-1).mean()
        loss.backward()
        assert losses[i] == pytest.approx(loss.item(), rel=1e-5)
        expected = theirs.layer_translators[i].weight.grad
        torch.testing.assert_close(trainer.weights[i].grad, expected, atol=1e-5, rtol=1e-4)
