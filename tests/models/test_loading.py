"""Loading by name, folder and backend, and what goes wrong with it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from iglens_tl import ig_lens, load_model
from iglens_tl.models import adapt
from iglens_tl.models.hugging_face import require_measurable
from tests.support.cases import EVERY_MODEL, HAS_HOOKED, IDS, TL_VERSION
from tests.support.families import _LLAMA_LIKE, FAMILIES, build_tokenizer

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_loaded_model_computes_hugging_faces_probabilities(toy_model, hf_probs, name, backend):
    model = toy_model(name, backend)
    assert adapt(model).backend == backend
    assert not model.training
    with torch.no_grad():
        probs = model(torch.tensor([IDS]))[0].double().softmax(-1)
    torch.testing.assert_close(probs, hf_probs(name, IDS), atol=1e-5, rtol=0)


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_auto_prefers_a_hooked_transformer_and_falls_back_to_a_bridge(toy_model):
    assert adapt(toy_model("llama", "auto")).backend == "hooked"
    assert adapt(toy_model("gemma2", "auto")).backend == "bridge"


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_an_architecture_without_hooked_transformer_says_so(toy_folder):
    with pytest.raises(ValueError, match=r"Gemma2ForCausalLM.*backend='bridge'"):
        load_model(toy_folder("gemma2"), backend="hooked")


@pytest.mark.skipif(HAS_HOOKED, reason="TransformerLens 3 has HookedTransformer")
def test_without_hooked_transformer_forcing_it_names_the_remedy(toy_folder):
    with pytest.raises(ValueError, match=r"has no HookedTransformer; use backend='bridge'"):
        load_model(toy_folder("llama"), backend="hooked")


@pytest.mark.skipif(not TL_VERSION.startswith("3."), reason="fixed in TransformerLens 4")
def test_a_bridge_that_computes_something_else_than_hugging_face_is_refused(toy_folder):
    with pytest.raises(ValueError, match=r"TransformerBridge of transformer-lens 3.*differ.*0\.\d"):
        load_model(toy_folder("cohere"))


@pytest.mark.parametrize("label", ["my-llama", "gemma-2-b", "t5 bert", "run.3"])
def test_the_folders_name_does_not_matter(toy_folder, tmp_path, label):
    folder = tmp_path / label
    shutil.copytree(toy_folder("qwen2"), folder)
    model = load_model(folder)
    assert model.cfg.model_name == str(folder)
    assert ig_lens(model, IDS).provenance.model["name"] == label


@pytest.mark.parametrize("dtype", ["float64", torch.float64, "bfloat16", "float16"])
def test_the_weights_have_the_wanted_precision(toy_folder, dtype):
    model = load_model(toy_folder("llama"), dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


def test_short_names_of_transformer_lens_reach_the_hub_name():
    from iglens_tl.models.loading import _official_name

    assert _official_name("gpt2-small") == "gpt2"
    assert _official_name("some/other-model") == "some/other-model"


def test_long_contexts_are_capped_for_hooked_transformers(toy_folder, tmp_path):
    if not HAS_HOOKED:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    folder = tmp_path / "long"
    shutil.copytree(toy_folder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 131072
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder, backend="hooked").cfg.n_ctx == 2048


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "auto2"}, "unknown backend 'auto2'; choose auto, hooked or bridge"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; choose one of float32"),
        ({"dtype": torch.int8}, "unknown dtype torch.int8"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not available here; use 'cpu'"),
        ({"device": "gpu"}, "device 'gpu' is not available here"),
    ],
)
def test_unknown_options_are_named(toy_folder, options, message):
    with pytest.raises(ValueError, match=message):
        load_model(toy_folder("llama"), **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no folder './nowhere'"),
        ("/no/such/folder", "there is no folder '/no/such/folder'"),
        ("", "there is no folder ''"),
        ("no-such-model", "cannot load the Hugging Face hub model 'no-such-model'"),
    ],
)
def test_unknown_models_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        load_model(name)


def test_a_name_of_a_wrong_type_is_refused():
    with pytest.raises(TypeError, match="must be a string or a path, got int"):
        load_model(3)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("*.safetensors", r"has no weights \(\*\.safetensors\)"),
        ("tokenizer*", r"has no tokenizer \(tokenizer\.json\)"),
        ("config.json", r"has no configuration \(config\.json\)"),
    ],
)
def test_incomplete_folders_say_what_is_missing(toy_folder, tmp_path, removed, message):
    folder = tmp_path / "incomplete"
    shutil.copytree(toy_folder("llama"), folder)
    for path in folder.glob(removed):
        path.unlink()
    with pytest.raises(ValueError, match=message):
        load_model(folder)


def test_a_foreign_tokenizer_is_named_as_what_cannot_be_read(toy_folder, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(toy_folder("llama"), folder)
    (folder / "tokenizer.json").write_text('{"vocab": {"a": 0}}')
    with pytest.raises(ValueError, match="its tokenizer cannot be read .*; save it with"):
        load_model(folder)


def test_a_folder_with_nan_weights_says_so(tmp_path):
    hf_model = BY_NAME["llama"].build()
    with torch.no_grad():
        hf_model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    hf_model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"weights are NaN or infinite \(first in model.layers.1"):
        load_model(tmp_path)


def test_weights_that_the_files_lack_are_not_drawn_at_random(toy_folder, tmp_path):
    folder = tmp_path / "partial"
    shutil.copytree(toy_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"hold no model.layers.1.mlp.up_proj.weight, which would"):
        load_model(folder)


def test_quantised_folders_are_refused_before_their_weights_are_read(toy_folder, tmp_path):
    folder = tmp_path / "quantised"
    shutil.copytree(toy_folder("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"weights are quantised \(bitsandbytes\)"):
        load_model(folder)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
@pytest.mark.parametrize("backend", ["auto", "bridge"])
def test_a_device_map_of_one_device_loads(toy_folder, hf_probs, device_map, backend):
    model = load_model(toy_folder("llama"), device_map=device_map, backend=backend)
    with torch.no_grad():
        probs = model(torch.tensor([IDS]))[0].double().softmax(-1)
    torch.testing.assert_close(probs, hf_probs("llama", IDS), atol=1e-5, rtol=0)


def test_weights_on_the_disk_are_refused_in_one_sentence(toy_folder):
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(toy_folder("llama"))
    hf_model.hf_device_map = {"model.layers.2": "disk", "": "cpu"}
    with pytest.raises(ValueError, match="some of its weights are not in memory"):
        load_model(hf_model)


def test_weights_on_several_devices_are_refused_in_one_sentence(toy_folder, monkeypatch):
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(toy_folder("llama"))
    devices = [SimpleNamespace(device="cuda:0"), SimpleNamespace(device="cuda:1")]
    monkeypatch.setattr(hf_model, "parameters", lambda: iter(devices))
    with pytest.raises(ValueError, match=r"lie on 2 devices \(cuda:0, cuda:1\).* load it with"):
        require_measurable(hf_model, "toy")


def test_device_and_device_map_exclude_one_another(toy_folder):
    with pytest.raises(ValueError, match="give device or device_map, not both"):
        load_model(toy_folder("llama"), device="cpu", device_map="cpu")


def test_the_revision_reaches_configuration_tokenizer_and_weights(toy_folder, monkeypatch):
    asked = []
    for loader in (
        transformers.AutoConfig,
        transformers.AutoTokenizer,
        transformers.AutoModelForCausalLM,
    ):
        own = loader.from_pretrained

        def local(name, *, loader=loader, own=own, revision=None, **options):
            asked.append((loader.__name__, name, revision))
            return own(toy_folder("llama"), **options)

        monkeypatch.setattr(loader, "from_pretrained", local)
    load_model("some/model", revision="v2", backend="bridge")
    # The loaders call one another with the folder.
    assert {call for call in asked if call[1] == "some/model"} == {
        ("AutoConfig", "some/model", "v2"),
        ("AutoTokenizer", "some/model", "v2"),
        ("AutoModelForCausalLM", "some/model", "v2"),
    }


def test_a_folder_has_no_revision(toy_folder):
    with pytest.raises(ValueError, match="is a folder, which has no revision 'v2'; leave it out"):
        load_model(toy_folder("llama"), revision="v2")


@pytest.mark.parametrize("enabled", [True, False])
def test_no_progress_bar_is_shown_unless_asked_for(toy_folder, capfd, enabled):
    logging = transformers.utils.logging
    (logging.enable_progress_bar if enabled else logging.disable_progress_bar)()
    try:
        load_model(toy_folder("llama"), backend="bridge")
        assert logging.is_progress_bar_enabled() == enabled
        assert "Loading weights" not in "".join(capfd.readouterr())
        load_model(toy_folder("llama"), backend="bridge", progress_bar=True)
        assert logging.is_progress_bar_enabled() == enabled
        assert "Loading weights" in "".join(capfd.readouterr())
    finally:
        logging.disable_progress_bar()


UNREAD = {
    "neox": (
        "GPTNeoXForCausalLM",
        {**_LLAMA_LIKE, "num_key_value_heads": 4, "attention_bias": False},
    ),
    "falcon": (
        "FalconForCausalLM",
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
        },
    ),
    "phi": ("PhiForCausalLM", {**_LLAMA_LIKE, "qk_layernorm": True}),
    "persimmon": ("PersimmonForCausalLM", {**_LLAMA_LIKE, "num_key_value_heads": 4}),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_transformer_lens_cannot_read_is_refused_in_one_sentence(name, tmp_path):
    architecture, options = UNREAD[name]
    config_class = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    torch.manual_seed(0)
    hf_model = getattr(transformers, architecture)(config_class(**options))
    hf_model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    for source in (hf_model, tmp_path):
        with pytest.raises(
            ValueError, match=rf"{architecture}.*cannot read it \(.*; use "
        ) as caught:
            load_model(source)
        message = str(caught.value)
        assert len(message) < 700
        assert "\n" not in message
        assert "'AfmoeForCausalLM'" not in message
        # No traceback of another library in front of the sentence.
        assert caught.value.__suppress_context__


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_folders_are_refused(toy_folder, tmp_path, damaged):
    folder = tmp_path / "damaged"
    shutil.copytree(toy_folder("llama"), folder)
    (folder / damaged).write_bytes(b"{ not what it says")
    with pytest.raises(ValueError, match="cannot load the folder"):
        load_model(folder)


def test_a_file_is_no_model(tmp_path):
    file = tmp_path / "model.bin"
    file.touch()
    with pytest.raises(ValueError, match="is a file; give the folder"):
        load_model(file)


def test_every_family_of_the_readme_has_a_toy_model():
    assert len({family.name for family in FAMILIES}) == 19
