"""Hugging Face models in memory: measured over their own weights, and left as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from iglens_tl import ig_lens, load_model
from iglens_tl.models import adapt
from tests.support.cases import HAS_HOOKED, IDS, loadable
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.families import D_VOCAB, FAMILIES, build_tokenizer

BY_NAME = {family.name: family for family in FAMILIES}
FAMILIES_OF_THE_BRIDGE = loadable("bridge")
FUSED = ("gpt_neox_parallel", "gpt_neox_sequential", "falcon")
"""Families whose queries, keys and values TransformerLens cuts out of one matrix, into copies."""


def own_probs(hf_model, ids=IDS) -> np.ndarray:
    """Return plain Hugging Face's probabilities of the next tokens of a text."""
    with torch.no_grad():
        probs = hf_model(torch.tensor([ids])).logits[0, :-1].double().softmax(-1)
    return probs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def storages(tensors) -> set[int]:
    """Return where tensors lie in memory."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("name", FAMILIES_OF_THE_BRIDGE)
def test_a_hugging_face_model_is_measured_and_stays_as_it_was(name, tmp_path):
    hf_model = BY_NAME[name].build()
    hf_model.train()
    hf_model.lm_head.eval()
    before = {key: value.clone() for key, value in hf_model.state_dict().items()}
    modes = [module.training for module in hf_model.modules()]
    gradients = [weight.requires_grad for weight in hf_model.parameters()]
    types = [type(module) for module in hf_model.modules()]
    config = hf_model.config.to_dict()

    final = ig_lens(hf_model, IDS).final

    assert [module.training for module in hf_model.modules()] == modes
    assert [weight.requires_grad for weight in hf_model.parameters()] == gradients
    assert [type(module) for module in hf_model.modules()] == types
    assert hf_model.config.to_dict() == config
    hf_model.eval()
    np.testing.assert_allclose(final, own_probs(hf_model), atol=2e-6)
    after = hf_model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert_identical(after[key], value)
    hf_model.save_pretrained(tmp_path)
    again = type(hf_model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert_close_to(again(torch.tensor([IDS])).logits, hf_model(torch.tensor([IDS])).logits)


@pytest.mark.parametrize("name", FAMILIES_OF_THE_BRIDGE)
def test_the_bridge_has_no_second_copy_of_the_weights(name):
    hf_model = BY_NAME[name].build()
    bridge = load_model(hf_model, tokenizer=build_tokenizer())
    own = storages(hf_model.parameters())
    copied = [
        key
        for key, weight in bridge.named_parameters()
        if weight.untyped_storage().data_ptr() not in own and bool(weight.any())
    ]
    if name in FUSED:
        # TransformerLens cuts queries, keys and values out of one matrix.
        copied = [key for key in copied if key.split(".")[-3] not in ("q", "k", "v")]
    assert copied == []
    assert own <= storages(bridge.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox_parallel", "falcon"])
def test_training_the_model_further_is_seen(name):
    hf_model = BY_NAME[name].build()
    first = ig_lens(hf_model, IDS).final
    with torch.no_grad():
        for weight in hf_model.parameters():
            weight.mul_(0.9)
    second = ig_lens(hf_model, IDS).final
    np.testing.assert_allclose(second, own_probs(hf_model), atol=2e-6)
    assert np.abs(second - first).max() > 1e-3
    hf_model.lm_head.weight = nn.Parameter(torch.randn_like(hf_model.lm_head.weight))
    np.testing.assert_allclose(ig_lens(hf_model, IDS).final, own_probs(hf_model), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_the_model_keeps_its_precision(name, dtype):
    if name not in FAMILIES_OF_THE_BRIDGE:
        pytest.fail(f"{name} is no family of the bridge")
    hf_model = BY_NAME[name].build(dtype=dtype)
    result = ig_lens(hf_model, IDS)
    assert result.provenance.model["dtype"] == str(dtype).removeprefix("torch.")
    atol = 1e-6 if dtype == torch.float64 else 5e-2
    np.testing.assert_allclose(result.final, own_probs(hf_model), atol=atol)


def test_the_bridge_is_built_once_while_nothing_changes():
    hf_model = BY_NAME["llama"].build()
    assert adapt(hf_model).model is adapt(hf_model).model


def test_the_bridge_dies_with_the_model():
    import gc
    import weakref

    hf_model = BY_NAME["llama"].build()
    alive = weakref.ref(adapt(hf_model).model)
    del hf_model
    gc.collect()
    assert alive() is None


def test_a_text_needs_the_tokenizer_and_ids_do_not():
    hf_model = BY_NAME["llama"].build()
    with pytest.raises(ValueError, match=r"has no tokenizer.*load_model\(hf_model, tokenizer="):
        ig_lens(hf_model, "w4 w5 w6")
    text = "w17 w42 w5 w88"
    tokenizer = build_tokenizer()
    result = ig_lens(load_model(hf_model, tokenizer=tokenizer), text)
    ids = tokenizer(text)["input_ids"]
    np.testing.assert_allclose(result.final, own_probs(hf_model, ids), atol=2e-6)


def test_a_tokenizer_is_copied_and_used_as_it_is():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.add_tokens(["w4w5"])
    settings = dict(tokenizer.init_kwargs)
    bridge = load_model(BY_NAME["llama"].build(), tokenizer=tokenizer)
    assert tokenizer.pad_token is None
    assert tokenizer.init_kwargs == settings
    assert bridge.tokenizer is not tokenizer
    assert len(bridge.tokenizer) == len(tokenizer)


def test_ids_of_a_text_are_those_of_the_same_model_from_its_folder(toy_folder):
    folder = toy_folder("llama")
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours, theirs = load_model(hf_model, tokenizer=tokenizer), load_model(folder, backend="bridge")
    text = "w17 w42 w5 w88"
    assert ours.to_tokens(text).tolist() == theirs.to_tokens(text).tolist()
    one, other = ig_lens(ours, text), ig_lens(theirs, text)
    np.testing.assert_allclose(one.values, other.values, atol=2e-6)
    assert one.provenance.model["name"] == other.provenance.model["name"]


def test_other_objects_are_no_tokenizer():
    with pytest.raises(
        TypeError, match="tokenizer must be a Hugging Face tokenizer, .* got builtins.str"
    ):
        load_model(BY_NAME["llama"].build(), tokenizer="gpt2")


def test_hooks_and_functions_of_the_user_act_in_what_is_measured():
    hf_model = BY_NAME["llama"].build()
    plain = ig_lens(hf_model, IDS).final
    layer = hf_model.model.layers[1].mlp
    handle = layer.register_forward_hook(lambda module, args, output: output * 0.5)
    hooked = ig_lens(hf_model, IDS).final
    np.testing.assert_allclose(hooked, own_probs(hf_model), atol=2e-6)
    assert np.abs(hooked - plain).max() > 1e-3
    handle.remove()
    np.testing.assert_allclose(ig_lens(hf_model, IDS).final, plain, atol=1e-7)
    own_forward = layer.forward
    layer.forward = lambda states: own_forward(states) * 2
    doubled = ig_lens(hf_model, IDS).final
    np.testing.assert_allclose(doubled, own_probs(hf_model), atol=2e-6)
    assert np.abs(doubled - plain).max() > 1e-3


def test_an_object_whose_method_is_a_hook_is_not_copied():
    class Recorder:
        def __init__(self):
            self.calls = 0

        def record(self, *_):
            self.calls += 1

    recorder = Recorder()
    hf_model = BY_NAME["llama"].build()
    hf_model.model.layers[0].register_forward_hook(recorder.record)
    ig_lens(hf_model, IDS)
    seen = recorder.calls
    assert seen
    ig_lens(hf_model, IDS)
    assert recorder.calls > seen


def test_a_hook_at_the_unembedding_is_an_error_and_not_ignored():
    hf_model = BY_NAME["llama"].build()
    ig_lens(hf_model, IDS)
    hf_model.lm_head.register_forward_hook(lambda module, args, output: output * 1.5)
    with pytest.raises(ValueError, match="differ"):
        ig_lens(hf_model, IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float64"}, r"dtype='float64' is for models that are loaded by name"),
        ({"device_map": "auto"}, r"device_map='auto' is for models that are loaded by name"),
        ({"revision": "main"}, r"revision='main' is for models that are loaded by name"),
    ],
)
def test_a_model_in_memory_is_not_converted(options, message):
    with pytest.raises(ValueError, match=message):
        load_model(BY_NAME["llama"].build(), **options)


def test_naming_what_the_model_is_anyway_is_accepted():
    load_model(BY_NAME["llama"].build(), device="cpu", dtype="float32")


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_of_a_model_in_memory_has_its_own_weights():
    hf_model = BY_NAME["llama"].build()
    model = load_model(hf_model, tokenizer=build_tokenizer(), backend="hooked")
    assert adapt(model).backend == "hooked"
    assert not storages(hf_model.parameters()) & storages(model.parameters())
    np.testing.assert_allclose(ig_lens(model, IDS).final, own_probs(hf_model), atol=2e-6)


def test_models_without_unembedding_are_refused_with_the_remedy():
    config = BY_NAME["llama"].config()
    with pytest.raises(
        ValueError, match=r"LlamaModel is not supported: it has no unembedding; give the model …For"
    ):
        ig_lens(transformers.LlamaModel(config), IDS)


def test_a_model_that_a_bridge_took_apart_is_refused_with_the_remedy():
    from transformer_lens.model_bridge import TransformerBridge

    hf_model = BY_NAME["llama"].build()
    hf_model.config.architectures = ["LlamaForCausalLM"]
    tokenizer = build_tokenizer()
    tokenizer.init_kwargs["name_or_path"] = ""
    tokenizer.init_kwargs["add_bos_token"] = True
    TransformerBridge.boot_transformers("toy", hf_model=hf_model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ValueError, match="already belong to a TransformerBridge; give the bridge"):
        ig_lens(hf_model, IDS)


def test_quantised_models_are_refused_in_one_sentence():
    hf_model = BY_NAME["llama"].build()
    hf_model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ValueError, match=r"weights are quantised \(bitsandbytes\).*unquantised"):
        ig_lens(hf_model, IDS)


def test_models_without_weights_in_memory_are_refused_in_one_sentence():
    with torch.device("meta"):
        hf_model = transformers.LlamaForCausalLM(BY_NAME["llama"].config())
    with pytest.raises(ValueError, match="not in memory.*load the model without offloading"):
        ig_lens(hf_model, IDS)


def test_weights_that_are_nan_are_named():
    hf_model = BY_NAME["llama"].build()
    with torch.no_grad():
        hf_model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(
        ValueError, match=r"weights are NaN or infinite \(first in model.layers.1.mlp"
    ):
        ig_lens(hf_model, IDS)


def test_an_attribute_that_cannot_be_copied_is_named():
    import threading

    hf_model = BY_NAME["llama"].build()
    hf_model.lock = threading.Lock()
    with pytest.raises(ValueError, match="cannot be copied.*lock.*remove what was attached"):
        ig_lens(hf_model, IDS)


def test_activations_that_hang_on_a_module_do_not_matter():
    hf_model = BY_NAME["llama"].build()
    hf_model.model.norm.seen = hf_model(torch.tensor([IDS])).logits
    np.testing.assert_allclose(ig_lens(hf_model, IDS).final, own_probs(hf_model), atol=2e-6)


def test_the_vocabulary_is_the_models():
    assert adapt(BY_NAME["llama"].build()).d_vocab == D_VOCAB
