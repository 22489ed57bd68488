"""The model with random weights: statistics of the draws, and that nothing of them stays."""

from __future__ import annotations

import pytest
import torch

from iglens_tl import ig_lens, load_model
from iglens_tl.models import adapt, reinitialized
from tests.support.cases import EVERY_MODEL, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to, assert_identical, is_identical
from tests.support.native import native_bridge, native_hooked

BACKENDS = ["hooked", "bridge"] if HAS_HOOKED else ["bridge"]


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first, second) -> dict[str, bool]:
    return {name: is_identical(first[name], second[name]) for name in first}


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_every_matrix_changes_and_every_weight_comes_back_bit_for_bit(toy_model, name, backend):
    model = toy_model(name, backend)
    before = weights_of(model)
    credits = ig_lens(model, IDS).values
    with reinitialized(model) as adapter:
        inside = weights_of(model)
        of_random = ig_lens(adapter, IDS)
    assert all(same(before, weights_of(model)).values())
    # The stacked biases of heads have two axes too, but are no matrices.
    matrices = {
        key for key, weight in before.items() if weight.ndim >= 2 and not is_stacked_bias(key)
    }
    # A matrix of equal entries is drawn as it is: its standard deviation is 0.
    changed = {key for key, equal in same(before, inside).items() if not equal}
    assert changed == {key for key in matrices if before[key].std() > 0}
    assert abs(of_random.values - credits).max() > 1e-3
    assert abs(of_random.completeness_error).max() < 1e-5
    assert_close_to(ig_lens(model, IDS).values, credits, dtype=torch.float32)


def is_stacked_bias(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("b_Q", "b_K", "b_V", "_b_K", "_b_V")


@pytest.mark.parametrize("backend", BACKENDS)
def test_draws_have_the_mean_and_spread_of_each_matrix(demo, backend):
    model = load_model("demo", backend=backend)
    before = weights_of(model)
    with reinitialized(model):
        inside = weights_of(model)
    for name, equal in same(before, inside).items():
        if equal:
            continue
        size, spread = before[name].numel(), before[name].std().item()
        assert inside[name].std().item() == pytest.approx(spread, rel=6 / size**0.5)
        shift = (inside[name].mean() - before[name].mean()).item()
        assert abs(shift) < 6 * spread / size**0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_adapter_made_before_reads_out_as_before(toy_folder, backend):
    model = load_model(toy_folder("gpt2"), backend=backend)
    adapter = adapt(model)
    expected = ig_lens(adapter, IDS).values
    with reinitialized(adapter) as inside:
        assert inside is not adapter
        assert inside.model is model
        assert abs(ig_lens(inside, IDS).values - expected).max() > 1e-3
    assert_close_to(ig_lens(adapter, IDS).values, expected, dtype=torch.float32)


def test_the_same_seed_draws_the_same_and_torchs_own_generator_stays_as_it_is(toy):
    drawn = []
    for seed, own_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(own_seed)
        state = torch.get_rng_state()
        with reinitialized(toy, seed=seed):
            drawn.append(weights_of(toy))
        assert_identical(torch.get_rng_state(), state)
    assert all(same(drawn[0], drawn[1]).values())
    assert not all(same(drawn[0], drawn[2]).values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_every_precision_draws_the_same_numbers(toy_model, dtype):
    drawn = []
    for precision in ("float32", dtype):
        model = toy_model("llama", "bridge", precision)
        with reinitialized(model):
            drawn.append(weights_of(model))
    for name, weight in drawn[0].items():
        torch.testing.assert_close(drawn[1][name].float(), weight, atol=0.02, rtol=0.02)


def test_tied_embeddings_stay_tied():
    model = load_model("demo", backend="bridge")
    assert_identical(model.W_E.T, model.W_U)
    with reinitialized(model):
        assert_identical(model.W_E.T, model.W_U)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_inside_the_block_restores_the_weights(toy, error):
    before = weights_of(toy)
    with pytest.raises(error), reinitialized(toy):
        raise error
    assert all(same(before, weights_of(toy)).values())


def test_an_interruption_while_the_weights_are_drawn_restores_them(toy, monkeypatch):
    before, draws = weights_of(toy), []

    def interrupted(*arguments, **options):
        draws.append(None)
        if len(draws) == 5:
            raise KeyboardInterrupt
        return torch.zeros(*arguments)

    monkeypatch.setattr(torch, "randn", interrupted)
    with pytest.raises(KeyboardInterrupt), reinitialized(toy):
        pytest.fail("the block must not begin")
    assert len(draws) == 5
    assert all(same(before, weights_of(toy)).values())


def test_weights_that_want_gradients_still_do(toy_folder):
    model = load_model(toy_folder("llama"))
    model.requires_grad_(True)
    with reinitialized(model):
        pass
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_native_models_are_drawn_and_restored():
    for build in [native_bridge] + [native_hooked] * HAS_HOOKED:
        model = build()
        expected = ig_lens(model, IDS).values
        with reinitialized(model) as adapter:
            assert abs(ig_lens(adapter, IDS).values - expected).max() > 1e-3
        assert_close_to(ig_lens(model, IDS).values, expected, size=1)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_seeds_that_are_none_are_errors(toy, seed):
    message = "seed must be an integer of at least 0"
    with pytest.raises(ValueError, match=message), reinitialized(toy, seed=seed):
        pytest.fail("the block must not begin")


def test_anything_but_a_model_is_an_error():
    with pytest.raises(TypeError, match="must be a HookedTransformer, "), reinitialized("demo"):
        pytest.fail("the block must not begin")
