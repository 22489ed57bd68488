"""A block's update is the sum of what its heads, neurons and source tokens write."""

from __future__ import annotations

import pytest
import torch
import transformers

from iglens_tl import load_model
from iglens_tl.models import NotApplicableError, adapt, capture, split_heads
from iglens_tl.models.adapter import bridge_class
from iglens_tl.models.components import embedding_sites, head_values, split_neurons
from tests.conftest import family
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED, IDS, TL_VERSION
from tests.support.closeness import assert_close_to, assert_far_from
from tests.support.families import Family, write_folder
from tests.support.native import native_bridge, native_hooked

EXPERTS = ("mixtral", "olmoe")
# Hugging Face computes these families' norms in float32, also in a float64 model.
FLOAT32_NORMS = ("gemma2", "gemma3", "olmo2")
LEARNED_POSITIONS = ("gpt2", "opt")
LAYERS = range(3)
LATER = torch.ones(len(IDS), len(IDS)).triu(1).bool()
"""`[query, pos]`, the positions that a query must not see."""
OWN = [
    {"normalization_type": None, "attn_only": True},
    {"normalization_type": "LN", "parallel_attn_mlp": True},
    {"normalization_type": "RMS", "output_logits_soft_cap": 5.0, "attn_scores_soft_cap": 10.0},
    {"gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 2},
    {"positional_embedding_type": "rotary", "rotary_dim": 8},
]
OWN_HOOKED = [
    *OWN,
    {"act_fn": "solu_ln"},
    {"normalization_type": "RMS", "use_normalization_before_and_after": True},
    {"positional_embedding_type": "alibi"},
    {"positional_embedding_type": "shortformer"},
]
EVERY_OWN_MODEL = [
    pytest.param(build, options, id=f"{build.__name__}-{index}")
    for build, cases in ((native_bridge, OWN), (native_hooked, OWN_HOOKED if HAS_HOOKED else []))
    for index, options in enumerate(cases)
]
DENSE = [case for case in EVERY_MODEL_AND_DTYPE if case.values[0] not in EXPERTS]
MIXTURES = [case for case in EVERY_MODEL if case.values[0] in EXPERTS]
# The statistics of a norm after the MLP change when a neuron is silenced.
WITHOUT_LATER_NORM = [case for case in EVERY_MODEL if case.values[0] not in EXPERTS + FLOAT32_NORMS]
ADDING_POSITIONS = [case for case in EVERY_MODEL if case.values[0] in LEARNED_POSITIONS]


def states(model, sites, ids=IDS):
    """Return what hooks give for one text, by site and without the batch axis."""
    taken = capture(adapt(model), torch.tensor([ids]), dict.fromkeys(sites, torch.clone))
    return {site: taken[site][0] for site in sites}


def largest_error(total, expected):
    return ((total - expected).abs().max() / expected.abs().max()).item()


def tolerance(name, dtype):
    return 1e-5 if dtype == "float32" else 1e-6 if name in FLOAT32_NORMS else 1e-10


def error_of_heads(model, layer):
    adapter = adapt(model)
    z_site, out_site = adapter.head_site(layer), adapter.attn_site(layer)
    found = states(model, [z_site, out_site])
    heads = split_heads(adapter, layer, found[z_site], found[out_site])
    written = [found[z_site][:, h] @ heads.weight[h] for h in range(len(heads.weight))]
    total = sum(written) + (0 if heads.bias is None else heads.bias)
    return largest_error(heads.scale * total, found[out_site])


def error_of_neurons(model, layer):
    adapter = adapt(model)
    site, out_site = adapter.neuron_site(layer), adapter.mlp_site(layer)
    found = states(model, [site, out_site])
    neurons = split_neurons(adapter, layer, found[site], found[out_site])
    written = found[site][:, :, None] * neurons.weight
    total = written.sum(1) + (0 if neurons.bias is None else neurons.bias)
    return largest_error(neurons.scale * total, found[out_site])


def reads(model, layer):
    """Return the values, pattern by query and z of one layer, and the sources' sum."""
    adapter = adapt(model)
    sites = [adapter.value_site(layer), adapter.pattern_site(layer), adapter.head_site(layer)]
    values, pattern, z = states(model, sites).values()
    pattern = pattern.transpose(0, 1)
    of_heads = head_values(adapter, layer, values, pattern, z)
    total = torch.stack(
        [pattern[:, :, p, None] * of_heads[p] for p in range(len(of_heads))], dim=2
    ).sum(2)
    return pattern, of_heads, z, total


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_heads_and_the_bias_add_up_to_the_attention(toy_model, name, backend, dtype):
    model = toy_model(name, backend, dtype)
    for layer in LAYERS:
        assert error_of_heads(model, layer) < tolerance(name, dtype)


@pytest.mark.parametrize(("name", "backend", "dtype"), DENSE)
def test_neurons_and_the_bias_add_up_to_the_mlp(toy_model, name, backend, dtype):
    model = toy_model(name, backend, dtype)
    for layer in LAYERS:
        assert error_of_neurons(model, layer) < tolerance(name, dtype)


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_sources_add_up_to_what_a_head_passes_on(toy_model, name, backend, dtype):
    model = toy_model(name, backend, dtype)
    for layer in LAYERS:
        pattern, of_heads, z, total = reads(model, layer)
        assert of_heads.shape == (len(IDS), *z.shape[1:])
        assert largest_error(total, z) < (1e-5 if dtype == "float32" else 1e-10)
        assert not pattern.transpose(1, 2)[LATER].any()


@pytest.mark.parametrize(("build", "options"), EVERY_OWN_MODEL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_models_built_in_transformer_lens_are_sums_as_well(build, options, dtype):
    model = build(**options).to(dtype)
    accepted = 1e-5 if dtype == torch.float32 else 1e-10
    for layer in LAYERS:
        assert error_of_heads(model, layer) < accepted
        pattern, _, z, total = reads(model, layer)
        assert largest_error(total, z) < accepted
        assert not pattern.transpose(1, 2)[LATER].any()
        if "attn_only" in options:
            assert adapt(model).neuron_site(layer) is None
        else:
            assert error_of_neurons(model, layer) < accepted


@pytest.mark.parametrize(("build", "options"), EVERY_OWN_MODEL)
def test_embeddings_of_models_built_in_transformer_lens_add_up(build, options):
    model = build(**options)
    sites = embedding_sites(adapt(model))
    found = states(model, [site for _, site in sites] + ["blocks.0.hook_resid_pre"])
    total = sum(found[site] for _, site in sites)
    torch.testing.assert_close(total, found["blocks.0.hook_resid_pre"])
    learned = options.get("positional_embedding_type", "standard") == "standard"
    assert [label for label, _ in sites] == (["embed", "pos_embed"] if learned else ["embed"])


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_the_embeddings_of_tokens_and_positions_add_up_to_the_state(
    toy_model, name, backend, dtype
):
    model = toy_model(name, backend, dtype)
    sites = embedding_sites(adapt(model))
    found = states(model, [site for _, site in sites] + ["blocks.0.hook_resid_pre"])
    total = sum(found[site] for _, site in sites)
    assert_close_to(total, found["blocks.0.hook_resid_pre"])
    learned = name in LEARNED_POSITIONS
    assert [label for label, _ in sites] == (["embed", "pos_embed"] if learned else ["embed"])


@pytest.mark.parametrize(("name", "backend"), ADDING_POSITIONS)
def test_one_part_of_the_embedding_knows_only_tokens_the_other_only_positions(
    toy_model, name, backend
):
    model = toy_model(name, backend)
    sites = dict(embedding_sites(adapt(model)))
    two = capture(
        adapt(model),
        torch.tensor([[17, 17, 42, 5], [5, 9, 9, 61]]),
        dict.fromkeys(sites.values(), torch.clone),
    )
    tokens, positions = two[sites["embed"]], two[sites["pos_embed"]]
    assert_close_to(tokens[0, 0], tokens[0, 1])
    assert_close_to(tokens[0, 3], tokens[1, 0])
    assert_close_to(positions[0], positions[1])
    assert_far_from(positions[0, 0], positions[0, 1])


@pytest.mark.parametrize(("name", "backend"), WITHOUT_LATER_NORM)
def test_a_neuron_writes_what_is_missing_without_it(toy_model, name, backend):
    model = toy_model(name, backend)
    adapter = adapt(model)
    site, out_site = adapter.neuron_site(1), adapter.mlp_site(1)
    found = states(model, [site, out_site])
    neurons = split_neurons(adapter, 1, found[site], found[out_site])

    def without_neuron(activation, hook):
        activation = activation.clone()
        activation[..., 7] = 0
        return activation

    with model.hooks(fwd_hooks=[(site, without_neuron)]):
        ablated = states(model, [out_site])[out_site]
    written = neurons.scale * found[site][:, 7, None] * neurons.weight[7]
    error = (found[out_site] - ablated - written).abs().max()
    assert error < 1e-5 * found[out_site].abs().max()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon"])
def test_a_head_reads_at_a_source_what_is_missing_without_its_value(toy_model, name):
    model = toy_model(name, "bridge")
    adapter = adapt(model)
    pattern, of_heads, z, _ = reads(model, 1)

    def without_value(values, hook):
        values = values.clone()
        values[:, 2] = 0
        return values

    with model.hooks(fwd_hooks=[(adapter.value_site(1), without_value)]):
        ablated = states(model, [adapter.head_site(1)])[adapter.head_site(1)]
    torch.testing.assert_close(
        z - ablated, pattern[:, :, 2, None] * of_heads[2], atol=1e-4, rtol=1e-4
    )


def test_flattened_values_are_taken_apart(toy):
    adapter = adapt(toy)
    sites = [adapter.value_site(1), adapter.pattern_site(1), adapter.head_site(1)]
    values, pattern, z = states(toy, sites).values()
    pattern = pattern.transpose(0, 1)
    whole = head_values(adapter, 1, values, pattern, z)
    assert_close_to(head_values(adapter, 1, values.flatten(1), pattern, z), whole)
    some = torch.tensor([2, 5])
    assert_close_to(head_values(adapter, 1, values, pattern[some], z[some]), whole)


@pytest.mark.parametrize(("name", "backend"), MIXTURES)
def test_experts_are_not_neurons(toy_model, name, backend):
    adapter = adapt(toy_model(name, backend))
    with pytest.raises(NotApplicableError, match=r"layer 1 .*mixture of experts.*by='sublayer'"):
        adapter.neuron_site(1)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_parts_that_do_not_add_up_are_an_error(toy_model, name):
    model = toy_model(name, "bridge")
    adapter = adapt(model)
    sites = [adapter.neuron_site(1), adapter.mlp_site(1)]
    activations, mlp_out = states(model, sites).values()
    with pytest.raises(NotApplicableError, match="neurons of layer 1 do not add up"):
        split_neurons(adapter, 1, activations, mlp_out * 1.5 + 1)
    sites = [adapter.value_site(1), adapter.pattern_site(1), adapter.head_site(1)]
    values, pattern, z = states(model, sites).values()
    with pytest.raises(NotApplicableError, match="layer 1 read at each position does not add up"):
        head_values(adapter, 1, values, pattern.transpose(0, 1), z * 1.01)
    with pytest.raises(NotApplicableError, match=r"shape \(3, 8\) .* 4 heads of width 8"):
        head_values(adapter, 1, values[:, [0, 1, 0]], pattern.transpose(0, 1), z)


def test_half_precision_is_held_to_its_own_rounding(toy_folder):
    model = load_model(toy_folder("llama"), dtype="bfloat16")
    adapter = adapt(model)
    sites = [adapter.neuron_site(1), adapter.mlp_site(1)]
    activations, mlp_out = (state.float() for state in states(model, sites).values())
    neurons = split_neurons(adapter, 1, activations, mlp_out)
    assert neurons.weight.dtype == torch.float32
    assert 1e-4 < largest_error(neurons.scale * (activations @ neurons.weight), mlp_out) < 5e-2


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_attention_that_keeps_no_patterns_is_named(toy_folder, name):
    folder = toy_folder(name)
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    hf_model.config.architectures = [type(hf_model).__name__]
    model = bridge_class().boot_transformers(
        str(folder),
        hf_model=hf_model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        device="cpu",
    )
    # TransformerLens 4 makes every attention eager, version 3 only those that it computes itself.
    if name == "opt" and TL_VERSION.startswith("3."):
        with pytest.raises(
            NotApplicableError, match=r"sdpa attention.*attn_implementation='eager'"
        ):
            adapt(model).pattern_site(1)
    else:
        *_, z, total = reads(model, 1)
        assert largest_error(total, z) < 1e-5


def test_latent_attention_has_other_heads_than_its_output_matrix(tmp_path):
    latent = Family(
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        family("llama").options
        | {"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 16, "v_head_dim": 8}
        | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "first_k_dense_replace": 3}
        | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    )
    model = load_model(write_folder(latent, tmp_path))
    with pytest.raises(NotApplicableError, match="heads of layer 1 have shape"):
        error_of_heads(model, 1)
    assert error_of_neurons(model, 1) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox_parallel"])
def test_folded_weights_are_sums_as_well(toy_folder, name):
    model = load_model(toy_folder(name), backend="bridge")
    model.enable_compatibility_mode(disable_warnings=True)
    *_, z, total = reads(model, 1)
    assert largest_error(total, z) < 1e-5
    assert error_of_heads(model, 1) < 1e-5
    assert error_of_neurons(model, 1) < 1e-5


def test_a_model_without_patterns_is_named(toy_folder, monkeypatch):
    model = load_model(toy_folder("llama"), backend="bridge")
    points = {name: point for name, point in model.hook_dict.items() if "pattern" not in name}
    monkeypatch.setattr(type(model), "hook_dict", property(lambda model: points))
    adapter = adapt(model)
    with pytest.raises(NotApplicableError, match="has no hook blocks.1.attn.hook_pattern"):
        adapter.pattern_site(1)
