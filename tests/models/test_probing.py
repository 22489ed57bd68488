"""Differences from Hugging Face that only long texts or logits show."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from iglens_tl import load_model
from iglens_tl.models import adapt, probing
from iglens_tl.models.adapter import bridge_class
from tests.support.cases import HAS_HOOKED, TL_VERSION
from tests.support.families import FAMILIES, build_tokenizer, write_folder

BY_NAME = {family.name: family for family in FAMILIES}
LONG = torch.randint(0, 97, (1, 60), generator=torch.Generator().manual_seed(1))
HOOKED_ONLY = pytest.mark.skipif(
    not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer"
)

WINDOW = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 1e4,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 1e4,
    },
}


def variant(name, **options):
    family = BY_NAME[name]
    return replace(family, options=family.options | options)


def write_untrained(family, folder, **options):
    """Write a model as transformers initialises it, whose probabilities are all small."""
    torch.manual_seed(0)
    config = family.config()
    for key, value in options.items():
        setattr(config, key, value)
    getattr(transformers, family.architecture)(config).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def log_probs(model, tokens=LONG):
    with torch.no_grad():
        output = model(tokens)
    return getattr(output, "logits", output)[0].double().log_softmax(-1)


def plain(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_a_sliding_window_longer_than_a_dozen_tokens_is_not_ignored(name, tmp_path):
    folder = write_folder(variant(name, **WINDOW), tmp_path / "model")
    model = load_model(folder)
    torch.testing.assert_close(log_probs(model), log_probs(plain(folder)), atol=2e-5, rtol=0)
    without = load_model(write_folder(BY_NAME[name], tmp_path / "full"))
    assert (log_probs(without) - log_probs(model)).abs().max() > 0.1


@HOOKED_ONLY
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_forcing_a_class_that_ignores_the_window_is_refused(name, tmp_path):
    folder = write_folder(variant(name, **WINDOW), tmp_path / "model")
    assert adapt(load_model(folder)).backend == "bridge"
    with pytest.raises(ValueError, match=r"HookedTransformer.*text of 32 tokens.*backend='bridge'"):
        load_model(folder, backend="hooked")


@HOOKED_ONLY
def test_a_window_too_long_to_run_is_left_to_the_bridge(tmp_path, monkeypatch):
    folder = write_folder(variant("mistral", sliding_window=16), tmp_path / "model")
    assert adapt(load_model(folder)).backend == "hooked"
    monkeypatch.setitem(probing._MOST_OPERATIONS, "cpu", 1e6)
    assert adapt(load_model(folder)).backend == "bridge"
    with pytest.raises(ValueError, match="names a length of 16 tokens, and it is too large here"):
        load_model(folder, backend="hooked")


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_rotary_variants_are_right_in_untrained_models_too(name, rope, tmp_path):
    family = variant(name, rope_parameters=ROPES[rope])
    folder = write_untrained(family, tmp_path / "model")
    model = load_model(folder)
    # The smallest error of a wrong rotary embedding moves these logits by 7e-4.
    torch.testing.assert_close(log_probs(model), log_probs(plain(folder)), atol=2e-6, rtol=0)


@HOOKED_ONLY
@pytest.mark.parametrize(
    ("name", "rope"), [("llama", "linear"), ("llama", "yarn"), ("qwen2", "llama3")]
)
def test_a_wrong_rotary_embedding_of_an_untrained_model_is_refused(name, rope, tmp_path):
    family = variant(name, rope_parameters=ROPES[rope])
    folder = write_untrained(family, tmp_path / "model")
    with pytest.raises(ValueError, match="logits by .* of their spread, on a text of"):
        load_model(folder, backend="hooked")


@pytest.mark.skipif(not TL_VERSION.startswith("3."), reason="fixed in TransformerLens 4")
def test_a_wrong_bridge_is_refused_where_all_probabilities_are_small(tmp_path):
    folder = write_untrained(BY_NAME["cohere"], tmp_path / "model", vocab_size=20_000)
    with pytest.raises(ValueError, match="TransformerBridge.*logits by .* of their spread"):
        load_model(folder)


def test_a_bridge_with_one_other_weight_is_refused_where_all_probabilities_are_small(
    tmp_path, monkeypatch
):
    boot = bridge_class().boot_transformers

    def boot_wrongly(*args, **options):
        bridge = boot(*args, **options)
        with torch.no_grad():
            weights = dict(bridge.named_parameters())
            next(weight for name, weight in weights.items() if "down_proj" in name).mul_(1.1)
        return bridge

    folder = write_untrained(BY_NAME["llama"], tmp_path / "model", vocab_size=20_000)
    load_model(folder, backend="bridge")
    monkeypatch.setattr(bridge_class(), "boot_transformers", staticmethod(boot_wrongly))
    with pytest.raises(ValueError, match="TransformerBridge.*logits by .* of their spread"):
        load_model(folder, backend="bridge")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(), set()),
        (transformers.MistralConfig(sliding_window=128), {128}),
        (transformers.Qwen2Config(use_sliding_window=False, sliding_window=128), set()),
        (transformers.LlamaConfig(rope_parameters=ROPES["llama3"]), {16}),
        (transformers.GPTNeoConfig(window_size=256), {256}),
        (transformers.Gemma3TextConfig(sliding_window=512), {512}),
        (
            transformers.Llama4TextConfig(attention_chunk_size=64, floor_scale=32),
            {32, 64},
        ),
    ],
)
def test_every_length_that_a_configuration_names_is_found(config, expected):
    assert expected <= probing.named_lengths(config)
    assert all(length in expected or length <= 6 for length in probing.named_lengths(config))


def test_texts_are_longer_than_every_named_length_but_not_than_the_context():
    torch.manual_seed(0)
    model = variant("mistral", sliding_window=16).build()
    assert probing.probe_lengths(model) == ((12, 32), ())
    model.config.sliding_window = 60
    assert probing.probe_lengths(model) == ((12, 64), ())
    model.config.sliding_window = 4096
    assert probing.probe_lengths(model) == ((12,), ())
    model.config.sliding_window = 40
    assert probing.probe_lengths(model, longest=32) == ((12,), ())
