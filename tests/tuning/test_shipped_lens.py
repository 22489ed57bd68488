"""The tuned lens that is shipped for the embedded model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from experiments.tuned_lens.train_demo import held_out_texts, markdown, training_texts
from iglens_tl import Translators, load_model, tuned_lens
from iglens_tl.models import adapt
from iglens_tl.models.loading import DEMO_FOLDER
from iglens_tl.tuning import check_translators, evaluate_tuned_lens, resolve_translators
from iglens_tl.tuning.hub import DEMO_LENS
from tests.support.cases import HAS_HOOKED


@pytest.fixture(scope="module")
def losses(demo):
    """Return the losses on a small held-out sample."""
    texts = held_out_texts(0.02)
    return evaluate_tuned_lens(demo, Translators.load(DEMO_LENS), texts, pack=False)


def test_it_beats_the_logit_lens_at_every_layer_but_the_last(losses):
    assert len(losses) == 9
    assert (losses["kl_tuned_lens"][:-1] < 0.6 * losses["kl_logit_lens"][:-1]).all()
    assert (losses["ce_tuned_lens"][:-1] < losses["ce_logit_lens"][:-1]).all()
    assert losses["kl_tuned_lens"].iloc[-1] == losses["kl_logit_lens"].iloc[-1] == 0


def test_it_comes_closer_to_the_model_with_every_layer(losses):
    assert (np.diff(losses["kl_tuned_lens"]) < 0).all()


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
def test_auto_finds_it_and_it_answers(backend):
    model = load_model("demo", backend=backend)
    result = tuned_lens(model, "The capital of Vietnam is", answer=" Hanoi")
    assert result.ranks[0, -1] == 1
    assert result.provenance.options["trained_for"] == "demo"


def test_auto_finds_it_for_the_embedded_model_by_its_folder():
    adapter = adapt(load_model(DEMO_FOLDER))
    found = resolve_translators(adapter)
    check_translators(adapter, found)
    assert found.training["seed"] == 7


def test_it_is_small_and_in_half_precision():
    assert Translators.load(DEMO_LENS).weight.dtype == torch.float16
    assert sum(path.stat().st_size for path in DEMO_LENS.iterdir()) < 1_000_000
    config = json.loads((DEMO_LENS / "config.json").read_text())
    assert config["base_model_name_or_path"] == "demo"


def test_no_held_out_text_is_trained_on():
    assert not set(held_out_texts(0.02)) & set(training_texts(20_000))


def test_the_table_is_markdown(losses):
    lines = markdown(losses).splitlines()
    assert lines[0].startswith("| segment | kl_logit_lens |")
    assert len(lines) == 11
