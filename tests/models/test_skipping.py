"""Running coalitions of blocks: exact identities, a plain loop as reference, bad input."""

from __future__ import annotations

import inspect
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl import load_model
from iglens_tl.models import adapt, capture, skipping
from iglens_tl.models.skipping import run_skipping
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to
from tests.support.fixed_batch import FIXED_BATCH, load_eager
from tests.support.native import native_bridge, native_hooked

ALL = torch.tensor(list(product([False, True], repeat=3)))
"""Every coalition of three blocks."""

POSITIONS = [4, len(IDS) - 1, 0]


def one_by_one(adapter, ids, keep, positions) -> torch.Tensor:
    """Run each coalition on its own; a skipped block's output is replaced by its input."""
    last = adapter.post_site(adapter.n_layers - 1)
    rows = []
    for row in keep.tolist():
        hooks = []
        for layer, runs in enumerate(row):
            if not runs:
                inputs = []
                pre, post = f"blocks.{layer}.hook_resid_pre", adapter.post_site(layer)
                hooks.append((pre, lambda s, hook, to=inputs: to.append(s.clone())))
                hooks.append((post, lambda s, hook, to=inputs: to[0]))
        with adapter.model.hooks(fwd_hooks=hooks):
            states = capture(adapter, torch.tensor([ids]), {last: torch.clone})[last]
        rows.append(states[0, list(positions)].to(adapter.readout.dtype))
    return torch.stack(rows)


def states_of_plain_run(adapter) -> list[torch.Tensor]:
    """Return the embedding state and the state after every block."""
    sites = [adapter.embed_site, *map(adapter.post_site, range(adapter.n_layers))]
    kept = capture(adapter, torch.tensor([IDS]), dict.fromkeys(sites, torch.clone))
    return [kept[site][0].to(adapter.readout.dtype) for site in sites]


def rows_per_block(adapter, keep) -> list[int]:
    """Return how many rows every block runs."""
    rows = [0] * adapter.n_layers

    def count(activation, hook, layer):
        rows[layer] += len(activation)

    hooks = [
        (adapter.attn_site(layer), lambda a, hook, at=layer: count(a, hook, at))
        for layer in range(adapter.n_layers)
    ]
    with adapter.model.hooks(fwd_hooks=hooks):
        run_skipping(adapter, IDS, keep, [0])
    return rows


def hook_count(model) -> int:
    points = {id(point): point for point in model.hook_dict.values()}
    return sum(len(point.fwd_hooks) for point in points.values())


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_all_coalitions_give_what_each_gives_alone(toy_model, name, backend, dtype):
    adapter = adapt(toy_model(name, backend, dtype))
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    assert states.dtype == adapter.readout.dtype
    expected = one_by_one(adapter, IDS, ALL, POSITIONS)
    tolerance = 1e-5 if dtype == "float32" else 1e-6  # some norms compute in float32 anyway
    assert_close_to(states, expected, tolerance=tolerance)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_first_blocks_alone_give_the_state_at_their_exit(toy_model, name, backend):
    adapter = adapt(toy_model(name, backend))
    first_blocks = torch.ones(4, 3).tril(-1).bool()
    states = run_skipping(adapter, IDS, first_blocks, range(len(IDS)))
    plain = states_of_plain_run(adapter)
    # From the embedding state, with no block, to the last state of the plain run, with all.
    for state, expected in zip(states, plain, strict=True):
        assert_close_to(state, expected, dtype=torch.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_models_give_states_in_the_readouts_precision(toy_model, dtype):
    adapter = adapt(toy_model("llama", "bridge", dtype))
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    assert states.dtype == adapter.readout.dtype == torch.float32
    torch.testing.assert_close(
        states, one_by_one(adapter, IDS, ALL, POSITIONS), atol=0.05, rtol=0.05
    )


@pytest.mark.parametrize("family", FIXED_BATCH, ids=lambda family: family.name)
def test_models_that_fix_the_batch_at_the_first_block_run_every_row(family, tmp_path):
    adapter = adapt(load_eager(family, tmp_path))
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    expected = one_by_one(adapter, IDS, ALL, POSITIONS)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)
    assert rows_per_block(adapter, ALL) == [8, 8, 8]


@pytest.mark.parametrize(
    "options",
    [
        {"positional_embedding_type": "alibi"},
        {"positional_embedding_type": "shortformer"},
        {"positional_embedding_type": "rotary", "rotary_dim": 8},
        {"attention_dir": "bidirectional"},
        {"use_local_attn": True, "window_size": 4, "attn_types": ["global", "local", "global"]},
        {"attn_only": True, "normalization_type": None},
    ],
    ids=lambda options: next(iter(options.values())),
)
@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_every_attention_of_a_hooked_transformer_takes_a_batch_that_changes(options):
    adapter = adapt(native_hooked(**options))
    expected = one_by_one(adapter, IDS, ALL, POSITIONS)
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    assert_close_to(states, expected)
    assert sum(rows_per_block(adapter, ALL)) == 7


EVERY_FIVE = torch.tensor(list(product([False, True], repeat=5)))


@pytest.fixture(scope="module")
def five_blocks():
    return adapt(native_bridge(n_layers=5))


@pytest.fixture(scope="module")
def expected_of_five(five_blocks):
    """Return the state of each coalition of five blocks, run alone."""
    states = one_by_one(five_blocks, IDS, EVERY_FIVE, POSITIONS)
    return dict(zip(map(tuple, EVERY_FIVE.tolist()), states, strict=True))


def masks(n_rows, n_layers=5):
    row = st.lists(st.booleans(), min_size=n_layers, max_size=n_layers)
    return st.lists(row, min_size=1, max_size=n_rows).map(torch.tensor)


@settings(max_examples=25, deadline=None)
@given(keep=masks(12), rows_per_pass=st.integers(1, 5))
def test_any_rows_in_any_order_and_any_passes_give_what_each_gives_alone(
    five_blocks, expected_of_five, keep, rows_per_pass
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skipping, "_TOKENS_PER_PASS", rows_per_pass * len(IDS))
        states = run_skipping(five_blocks, IDS, keep, POSITIONS)
    expected = torch.stack([expected_of_five[tuple(row)] for row in keep.tolist()])
    # The first block's norm enlarges these small embeddings, and their rounding.
    assert_close_to(states, expected, tolerance=1e-3)


@settings(max_examples=25, deadline=None)
@given(keep=masks(12))
def test_blocks_run_once_for_each_distinct_prefix_that_keeps_them(five_blocks, keep):
    expected = [
        max(1, len({tuple(row[: layer + 1]) for row in keep.tolist() if row[layer]}))
        for layer in range(5)
    ]
    assert rows_per_block(five_blocks, keep) == expected


def test_games_of_all_coalitions_leave_one_out_and_first_blocks_share_their_work(five_blocks):
    assert sum(rows_per_block(five_blocks, EVERY_FIVE)) == 2**5 - 1
    leave_one_out = ~torch.eye(5).bool()
    assert sum(rows_per_block(five_blocks, leave_one_out)) == 1 + 2 + 3 + 4 + 4
    first_blocks = torch.ones(6, 5).tril(-1).bool()
    assert rows_per_block(five_blocks, first_blocks) == [1] * 5


def test_rows_may_repeat_in_any_order(toy):
    adapter = adapt(toy)
    order = torch.tensor([5, 0, 7, 5, 5, 2, 0])
    expected = run_skipping(adapter, IDS, ALL, POSITIONS)[order]
    assert_close_to(run_skipping(adapter, IDS, ALL[order], POSITIONS), expected)


def test_no_position_gives_no_state(toy):
    assert run_skipping(adapt(toy), IDS, ALL, []).shape == (8, 0, 32)


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_attn_out", "hook_resid_post"])
def test_hooks_of_the_user_stay_active_where_a_block_runs(toy_folder, backend, place):
    model = load_model(toy_folder("llama"), backend=backend)
    adapter = adapt(model)
    plain = run_skipping(adapter, IDS, ALL, POSITIONS)
    model.add_hook(f"blocks.1.{place}", lambda states, hook: states + 0.5)
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    torch.testing.assert_close(states, one_by_one(adapter, IDS, ALL, POSITIONS), atol=1e-5, rtol=0)
    unmoved = (states - plain).abs().amax((-2, -1)) < 1e-4
    # Only the input of a block also reaches what a skipped block passes on.
    assert unmoved.tolist() == [place != "hook_resid_pre" and not runs for _, runs, _ in ALL]
    assert hook_count(model) == 1
    model.reset_hooks()
    assert_close_to(run_skipping(adapter, IDS, ALL, POSITIONS), plain)


@pytest.mark.parametrize("backend", ["hooked", "bridge"] if HAS_HOOKED else ["bridge"])
def test_a_hook_that_fails_leaves_no_hook_and_no_mode_behind(toy_folder, backend):
    model = load_model(toy_folder("llama"), backend=backend)
    adapter = adapt(model)
    model.train()

    def fail(activation, hook):
        raise RuntimeError("interrupted")

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", fail)]),
        pytest.raises(RuntimeError, match="interrupted"),
    ):
        run_skipping(adapter, IDS, ALL, POSITIONS)
    assert hook_count(model) == 0
    assert model.training
    assert torch.is_grad_enabled()
    states = run_skipping(adapter, IDS, ALL, POSITIONS)
    assert model.training
    assert hook_count(model) == 0
    assert not states.requires_grad


def test_dropout_is_off(toy_folder):
    model = load_model(toy_folder("gpt2"), backend="bridge")
    expected = run_skipping(adapt(model), IDS, ALL, POSITIONS)
    model.train()
    assert_close_to(run_skipping(adapt(model), IDS, ALL, POSITIONS), expected)


def test_weights_that_want_gradients_give_states_without(toy_folder):
    model = load_model(toy_folder("llama"))
    model.requires_grad_(True)
    assert not run_skipping(adapt(model), IDS, ALL, POSITIONS).requires_grad


@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_resid_post"])
def test_a_hook_that_replaces_the_batch_is_an_error_that_names_the_place(toy_folder, place):
    adapter = adapt(load_model(toy_folder("llama")))
    hook = (f"blocks.1.{place}", lambda states, hook: torch.zeros_like(states[:1]))
    with (
        adapter.model.hooks(fwd_hooks=[hook]),
        pytest.raises(ValueError, match=rf"1 rows at blocks.1.{place} where .* for 2; remove"),
    ):
        run_skipping(adapter, IDS, ALL, POSITIONS)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (ALL.float(), r"keep must be a boolean tensor \[row, layer\], got torch.float32 of shape"),
        (ALL[0], r"keep must be a boolean tensor .* of shape \[3\]"),
        (ALL[:, :2], "keep has 2 columns, but .* has 3 blocks"),
        (ALL[:0], "keep has no row"),
    ],
)
def test_masks_that_fit_no_model_are_errors(toy, keep, message):
    # Without the type checks of the test run, which users do not have.
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(run_skipping)(adapt(toy), IDS, keep, POSITIONS)


@pytest.mark.parametrize("position", [-1, len(IDS)])
def test_positions_outside_the_text_are_errors(toy, position):
    message = rf"position {position} lies outside the text of 10 tokens: .* from 0 to 9"
    with pytest.raises(ValueError, match=message):
        run_skipping(adapt(toy), IDS, ALL, [0, position])


def test_a_text_without_tokens_is_an_error(toy):
    with pytest.raises(ValueError, match="the text has no token"):
        run_skipping(adapt(toy), [], ALL, [])
