"""The Jacobian lens: TransformerLens' matrices, read through our readout."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from iglens_tl import (
    JacobianLens,
    LogitLens,
    compare,
    fit_jacobian_lens,
    jacobian_lens,
    load_model,
    logit_lens,
    trace_prompt,
)
from iglens_tl.models import adapt, capture
from iglens_tl.models.gradients import run_from_states
from tests.support.cases import HAS_HOOKED, IDS, loadable
from tests.support.closeness import assert_close_to, assert_identical

tools = pytest.importorskip("transformer_lens.tools.analysis")
if not hasattr(tools, "JacobianLens"):
    pytest.skip("no Jacobian lens in this TransformerLens", allow_module_level=True)

TEXTS = ["w17 w42 w5 w88 w23 w9 w61", "w30 w12 w44 w7 w8 w50"]
BRIDGES = loadable("bridge")


def identity(adapter, layers=(0, 1)):
    width = adapter.readout.d_model
    return tools.JacobianLens(
        {layer: torch.eye(width) for layer in layers}, n_prompts=1, d_model=width
    )


@pytest.fixture
def bridge(toy_model):
    return toy_model("llama", "bridge")


@pytest.fixture(scope="module")
def fitted(toy_model):
    return fit_jacobian_lens(toy_model("llama", "bridge"), TEXTS, skip_first=1, corpus="words")


@pytest.mark.parametrize("name", BRIDGES)
def test_identity_matrices_make_it_the_logit_lens(toy_model, name):
    model = toy_model(name, "bridge")
    trace = trace_prompt(model, IDS)
    result = JacobianLens(lens=identity(adapt(model)))(trace)
    expected = LogitLens(layers=[0, 1])(trace)
    assert result.segments == ("L0", "L1", "L2")
    assert_close_to(result.values, expected.values[:, 1:], dtype=torch.float32)
    assert_identical(result.ranks, expected.ranks[:, 1:])
    for statistic in ("entropy", "kl_to_final"):
        np.testing.assert_allclose(
            result.statistics[statistic], expected.statistics[statistic][:, 1:], atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox_parallel", "granite"])
def test_it_agrees_with_transformer_lens_own_readout(toy_model, name):
    model = toy_model(name, "bridge")
    lens = fit_jacobian_lens(model, TEXTS[:1], skip_first=1)
    result = jacobian_lens(model, IDS, lens=lens, value="logprob")
    theirs = lens.readout(model, torch.tensor([IDS]), return_full_logits=True)
    for segment, layer in enumerate((0, 1, 2)):
        log_probs = theirs.lens_logits[layer].double().log_softmax(-1)[:-1]
        expected = log_probs.gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
        np.testing.assert_allclose(result.values[:, segment], expected, atol=1e-4)


def test_the_matrices_are_mean_jacobians_of_the_last_blocks_output(bridge):
    """One text, one source position: the sum over later positions of the derivatives there."""
    adapter = adapt(bridge)
    text = "w17 w42 w5"
    lens = fit_jacobian_lens(bridge, [text], skip_first=2, layers=[1])
    ids = bridge.to_tokens(text)[0].tolist()
    site, last = adapter.post_site(1), adapter.post_site(2)
    states = capture(adapter, torch.tensor([ids]), {site: torch.clone})[site]
    kept = run_from_states(adapter, ids, states, start=site, keep=[site, last])
    # Positions 2 … n−2 are both source and target: of four tokens only position 2.
    assert len(ids) == 4
    for row in (0, 17):
        (gradient,) = torch.autograd.grad(kept[last][0, 2, row], kept[site], retain_graph=True)
        torch.testing.assert_close(lens.jacobians[1][row], gradient[0, 2], atol=1e-5, rtol=1e-4)


def test_a_lens_for_some_layers_reads_those_and_the_last(bridge):
    result = jacobian_lens(bridge, IDS, lens=identity(adapt(bridge), layers=(1,)), top_k=0)
    assert result.segments == ("L1", "L2")
    assert result.ranks is None
    assert_close_to(result.final, logit_lens(bridge, IDS).final, dtype=torch.float32)


def test_files_are_read_and_recorded(bridge, fitted, tmp_path):
    path = tmp_path / "lens.pt"
    fitted.save(str(path), dtype=torch.float32)
    own = jacobian_lens(bridge, IDS, lens=fitted)
    for given in (path, str(path), tmp_path):
        result = jacobian_lens(bridge, IDS, lens=given)
        np.testing.assert_allclose(result.values, own.values, atol=1e-6)
    assert own.provenance.options["corpus"] == "words"
    assert own.provenance.options["fitted_on_texts"] == 2
    assert "first third" in own.provenance.notes[0]


def test_it_shares_the_pass_of_a_comparison(bridge, fitted):
    comparison = compare(bridge, IDS, lenses={"logit_lens": {}, "jacobian_lens": {"lens": fitted}})
    assert comparison.forward_passes == 1
    own = jacobian_lens(bridge, IDS, lens=fitted)
    np.testing.assert_allclose(comparison["jacobian_lens"].values, own.values, atol=1e-6)


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_is_left_out_of_a_comparison(toy_model):
    model = toy_model("llama", "hooked")
    with pytest.raises(ValueError, match="needs a TransformerBridge.*backend='bridge'"):
        jacobian_lens(model, IDS)
    assert (
        "TransformerBridge"
        in compare(model, IDS, lenses=["logit_lens", "jacobian_lens"]).skipped["jacobian_lens"]
    )


def test_processed_weights_are_refused(toy_folder):
    model = load_model(toy_folder("gpt2"), backend="bridge")
    model.enable_compatibility_mode()
    with pytest.raises(ValueError, match="compatibility mode"):
        jacobian_lens(model, IDS, lens=identity(adapt(model)))


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_bad_files_are_refused_and_run_nothing(bridge, fitted, tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"J": Trap(str(trap))}, tmp_path / "code.pt")
    with (tmp_path / "plain.pt").open("wb") as file:
        pickle.dump(Trap(str(trap)), file, protocol=2)
    fitted.save(str(tmp_path / "whole.pt"))
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"something": torch.ones(2)}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("code", "plain", "truncated", "empty", "foreign", "list"):
        with pytest.raises(ValueError, match=f"no Jacobian lens could be read from.*{name}.pt"):
            jacobian_lens(bridge, IDS, lens=tmp_path / f"{name}.pt")
    assert not trap.exists()
    with pytest.raises(ValueError, match="there is no file"):
        jacobian_lens(bridge, IDS, lens=tmp_path / "absent.pt")


def test_lenses_of_other_models_are_refused(bridge):
    width = adapt(bridge).readout.d_model
    narrow = tools.JacobianLens({0: torch.eye(5)}, n_prompts=1, d_model=5)
    with pytest.raises(ValueError, match="d_model=5"):
        jacobian_lens(bridge, IDS, lens=narrow)
    with pytest.raises(ValueError, match="source layers"):
        jacobian_lens(bridge, IDS, lens=identity(adapt(bridge), layers=(0, 2)))
    broken = tools.JacobianLens(
        {1: torch.full((width, width), torch.nan)}, n_prompts=1, d_model=width
    )
    with pytest.raises(ValueError, match="layer 1 .* NaN"):
        jacobian_lens(bridge, IDS, lens=broken)


@pytest.mark.parametrize("lens", [3, None, torch.eye(2)])
def test_other_things_are_no_lens(bridge, lens):
    with pytest.raises(TypeError, match="fit_jacobian_lens"):
        jacobian_lens(bridge, IDS, lens=lens)


def test_an_older_transformer_lens_is_named(bridge, monkeypatch):
    monkeypatch.delattr(tools, "JacobianLens")
    with pytest.raises(ValueError, match=r"TransformerLens \d.* has no Jacobian lens"):
        jacobian_lens(bridge, IDS)
    monkeypatch.setitem(sys.modules, "transformer_lens.tools.analysis", None)
    with pytest.raises(ValueError, match=r"TransformerLens \d.* has no Jacobian lens"):
        fit_jacobian_lens(bridge, TEXTS)


@pytest.mark.parametrize("texts", ["w17 w42", [], [3], None])
def test_texts_must_be_a_list_of_strings(bridge, texts):
    with pytest.raises(TypeError, match="texts must be a list of"):
        fit_jacobian_lens(bridge, texts)


@pytest.mark.filterwarnings("ignore:skipping prompt")
def test_too_short_texts_fit_nothing(bridge):
    with pytest.raises(ValueError, match="too short"):
        fit_jacobian_lens(bridge, ["w17 w42"])


def test_fitting_leaves_the_model_as_it_was(toy_folder):
    model = load_model(toy_folder("llama"), backend="bridge")
    model.requires_grad_(True)
    with torch.no_grad():
        fit_jacobian_lens(model, TEXTS[:1], skip_first=1, layers=[1])
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
