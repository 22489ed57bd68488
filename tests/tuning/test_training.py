"""Training a tuned lens: that it learns, resumes, stops and refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from iglens_tl import Translators, train_tuned_lens
from iglens_tl.models import adapt
from iglens_tl.tuning import (
    TrainingDivergedError,
    TrainSettings,
    evaluate_tuned_lens,
)
from iglens_tl.tuning import sequences as sequences_module
from iglens_tl.tuning.checkpoint import FILE
from iglens_tl.tuning.training import Trainer
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.divergence import plain_divergence
from tests.support.native import native_bridge

FAST = {"tokens_per_step": 128, "progress": False}


@pytest.fixture(scope="module")
def train(toy_model, sequences):
    """Return a function that trains a lens for the Llama toy model on random tokens."""

    def call(**options):
        return train_tuned_lens(toy_model("llama"), sequences, **FAST | {"steps": 6} | options)

    return call


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_step_are_those_of_the_mean_loss(
    toy_model, sequences, monkeypatch, name, bias
):
    """Also where tokens come in several forward passes and chunks."""
    model = toy_model(name)
    adapter = adapt(model)
    monkeypatch.setattr(sequences_module, "TOKENS_PER_PASS", 48)
    batch = sequences[:8]
    trainer = Trainer(adapter, TrainSettings(bias=bias), batch)
    trainer.loss.chunk_rows = 20
    losses = trainer.accumulate(batch)
    _, cache = model.run_with_cache(batch)
    last = cache["blocks.2.hook_resid_post"].flatten(0, 1)
    for layer in range(3):
        h = cache[f"blocks.{layer}.hook_resid_pre"].flatten(0, 1)
        weight = torch.zeros(32, 32, requires_grad=True)
        vector = torch.zeros(32, requires_grad=True)
        expected = plain_divergence(adapter.readout, h + h @ weight.T + vector, last)
        expected.backward()
        assert losses[layer] == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(trainer.weights[layer].grad, weight.grad, atol=1e-5, rtol=1e-4)
        if bias:
            torch.testing.assert_close(
                trainer.biases[layer].grad, vector.grad, atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_training_is_the_one_of_torchs_optimizer_and_schedule(toy_model, sequences, optimizer):
    model, steps = toy_model("gpt2"), 10
    adapter = adapt(model)
    batch = sequences[:8]
    found = train_tuned_lens(
        model, batch, steps=steps, tokens_per_step=128, optimizer=optimizer, progress=False
    )
    parameters = [torch.zeros(32, 32, requires_grad=True) for _ in range(3)]
    parameters += [torch.zeros(32, requires_grad=True) for _ in range(3)]
    if optimizer == "sgd":
        own = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
        factors = [1 - step / steps for step in range(steps)]
    else:
        own = torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-3, amsgrad=True)
        factors = [0.0, 0.5, *(1 - step / 8 for step in range(8))]
    _, cache = model.run_with_cache(batch)
    last = cache["blocks.2.hook_resid_post"].flatten(0, 1)
    for factor in factors:
        for group in own.param_groups:
            group["lr"] = factor * (0.1 if optimizer == "sgd" else 1e-3)
        for layer in range(3):
            h = cache[f"blocks.{layer}.hook_resid_pre"].flatten(0, 1)
            estimate = h + functional.linear(h, parameters[layer], parameters[layer + 3])
            plain_divergence(adapter.readout, estimate, last).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        own.step()
        own.zero_grad()
    atol = 1e-5 if optimizer == "sgd" else 2e-4
    torch.testing.assert_close(found.weight, torch.stack(parameters[:3]), atol=atol, rtol=1e-3)
    torch.testing.assert_close(found.bias, torch.stack(parameters[3:]), atol=atol, rtol=1e-3)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_every_family_learns(toy_model, sequences, name, backend):
    model = toy_model(name, backend)
    reports = []
    found = train_tuned_lens(
        model, sequences, steps=8, tokens_per_step=512, progress=False, report=reports.append
    )
    first, last = np.array(reports[0].losses), np.array(reports[-1].losses)
    assert (last < first).all()
    frame = evaluate_tuned_lens(model, found, sequences)
    assert (frame["kl_tuned_lens"][:-1] < frame["kl_logit_lens"][:-1]).all()
    assert (found.n_layers, found.d_model) == (3, 32)


def test_the_evaluation_is_what_plain_torch_gives(toy_model, random_translators, sequences):
    model, translators = toy_model("gpt2"), random_translators()
    adapter, batch = adapt(model), sequences[:4]
    frame = evaluate_tuned_lens(model, translators, batch)
    logits, cache = model.run_with_cache(batch)
    target = logits[:, :-1].double().log_softmax(-1)
    for row, layer in enumerate((0, 1, 2)):
        h = cache[f"blocks.{layer}.hook_resid_pre"][:, :-1]
        for lens, state in (("logit", h), ("tuned", translators.apply(layer, h))):
            own = adapter.readout.logits(state).double().log_softmax(-1)
            kl = (target.exp() * (target - own)).sum(-1).mean()
            ce = -own.gather(2, batch[:, 1:, None]).mean()
            assert frame[f"kl_{lens}_lens"].iloc[row] == pytest.approx(float(kl), abs=1e-5)
            assert frame[f"ce_{lens}_lens"].iloc[row] == pytest.approx(float(ce), abs=1e-5)
    own = -target.gather(2, batch[:, 1:, None]).mean()
    assert frame.loc["L2"].tolist() == pytest.approx([0, 0, float(own), float(own)], abs=1e-5)


def test_texts_of_different_length_give_what_each_gives_alone(toy, random_translators, monkeypatch):
    texts = [IDS, IDS[:4], IDS[::-1][:7]]
    translators = random_translators()
    together = evaluate_tuned_lens(toy, translators, texts, pack=False)
    monkeypatch.setattr(sequences_module, "TOKENS_PER_PASS", 1)
    one_by_one = evaluate_tuned_lens(toy, translators, texts, pack=False)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    frames = [evaluate_tuned_lens(toy, translators, [text], pack=False) for text in texts]
    weights = np.array([len(text) - 1 for text in texts])
    mean = sum(f.to_numpy() * w for f, w in zip(frames, weights, strict=True)) / weights.sum()
    np.testing.assert_allclose(together, mean, atol=1e-5)


def test_a_seed_fixes_the_result_and_another_changes_it(train):
    assert_close_to(train(seed=1).weight, train(seed=1).weight)
    assert_far_from(train(seed=1).weight, train(seed=2).weight)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_training_gives_the_same_lens(train, tmp_path, optimizer):
    class Interrupted(Exception):
        pass

    def interrupt(report):
        if report.step == 5:
            raise Interrupted

    options = {"steps": 9, "optimizer": optimizer, "checkpoint_every": 2}
    with pytest.raises(Interrupted):
        train(**options, checkpoint=tmp_path / "run", report=interrupt)
    steps = []
    resumed = train(
        **options, checkpoint=tmp_path / "run", resume=True, report=lambda r: steps.append(r.step)
    )
    whole = train(**options)
    assert steps == [5, 6, 7, 8, 9]
    # Adam divides by the gradient's size, which makes steps of the rounding of small gradients.
    for tensor in ("weight", "bias"):
        assert_close_to(getattr(resumed, tensor), getattr(whole, tensor), tolerance=1e-3)


def test_a_checkpoint_is_neither_replaced_nor_mixed_unasked(train, sequences, toy, tmp_path):
    train(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="there is a checkpoint .* already; resume from it"):
        train(checkpoint=tmp_path)
    with pytest.raises(ValueError, match="was made with steps=6, not 7; continue with what"):
        train(checkpoint=tmp_path, resume=True, steps=7)
    with pytest.raises(ValueError, match="was made with another text; continue"):
        train_tuned_lens(toy, sequences.flip(0), steps=6, checkpoint=tmp_path, resume=True, **FAST)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged \(.*delete it"):
        train(checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume needs the folder"):
        train(resume=True)


def test_a_diverging_layer_stops_training_and_keeps_the_last_good_checkpoint(
    train, tmp_path, monkeypatch
):
    original = Trainer.accumulate

    def poisoned(self, batch):
        if self.step == 4:
            with torch.no_grad():
                self.weights[1].fill_(torch.nan)
        return original(self, batch)

    monkeypatch.setattr(Trainer, "accumulate", poisoned)
    message = r"stopped at step 5: the loss of L0 \(translator 1\).*last good checkpoint is '(.*)'"
    with pytest.raises(TrainingDivergedError, match=message) as caught:
        train(checkpoint=tmp_path, checkpoint_every=2)
    path = re.search(message, str(caught.value))[1]
    state = torch.load(path, weights_only=True)
    assert state["step"] == 4
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["parameters"])
    with pytest.raises(TrainingDivergedError, match="no checkpoint was asked for"):
        train()


def test_a_model_whose_predictions_are_nan_is_reported_as_such(sequences):
    model = native_bridge()
    with torch.no_grad():
        model.W_U.fill_(torch.nan)
    with pytest.raises(TrainingDivergedError, match="every layer, so the model's own"):
        train_tuned_lens(model, sequences, steps=2, **FAST)


def test_an_infinite_gradient_stops_training_too(toy_model, sequences):
    trainer = Trainer(adapt(toy_model("llama")), TrainSettings(), sequences)
    losses = trainer.accumulate(sequences[:2])
    trainer.weights[2].grad[0, 0] = torch.inf
    before = [parameter.clone() for parameter in trainer.parameters]
    with pytest.raises(TrainingDivergedError, match=r"gradient of L1 \(translator 2\)"):
        trainer.update(losses)
    for kept, weight in zip(before, trainer.parameters, strict=True):
        assert_identical(weight, kept)


def test_a_short_text_is_used_again_but_never_twice_in_a_step(toy, sequences):
    trainer = Trainer(adapt(toy), TrainSettings(tokens_per_step=2**18), sequences[:3])
    assert sorted(trainer.next_batch().tolist()) == sorted(sequences[:3].tolist())
    trainer = Trainer(adapt(toy), TrainSettings(tokens_per_step=32), sequences)
    seen = []
    for trainer.step in range(16):
        seen += trainer.next_batch().tolist()
    assert sorted(seen) == sorted(sequences.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; choose one of sgd, adam"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be an integer"),
        ({"tokens_per_step": True}, "tokens_per_step must be an integer"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"lr_scale": 0}, "lr_scale must be above 0"),
        ({"lr_scale": float("nan")}, "lr_scale must be above 0 and finite"),
        ({"weight_decay": -1}, "weight_decay must be at least 0"),
        ({"clip": "1"}, "clip must be a number"),
        ({"momentum": 1.0}, "momentum must lie between 0 and 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"checkpoint_every": None}, "checkpoint_every must be an integer"),
        ({"mixed_precision": True}, "needs a model on a GPU"),
        ({"seq_len": 1}, "seq_len must lie between 2 and 64"),
    ],
)
def test_settings_out_of_range_are_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        train_tuned_lens(toy, "w5 " * 100, **{"progress": False, **options})


def test_texts_need_a_tokenizer_and_ids_do_not(sequences):
    model = native_bridge()
    with pytest.raises(ValueError, match="has no tokenizer, so give token ids"):
        train_tuned_lens(model, "some text", **FAST)
    lens = train_tuned_lens(model, sequences, steps=2, **FAST)
    assert isinstance(lens, Translators)


def test_progress_shows_every_layer_on_stderr_alone(train, capsys):
    train(progress=True, steps=2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "2/2" in printed.err
    for segment in ("embed", "L0", "L1"):
        assert re.search(rf"{segment} \d+\.\d{{3}}", printed.err)


def test_the_record_says_how_the_lens_was_trained(train, toy, sequences):
    lens = train(optimizer="adam", lr_scale=2.0)
    assert lens.training["optimizer"] == "adam"
    assert lens.training["lr_scale"] == 2.0
    assert lens.training["n_tokens"] == sequences.numel()
    assert len(lens.training["last_losses"]) == 3
    assert len(lens.unembed_hash) == 64
