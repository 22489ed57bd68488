"""Tuned lenses in files: all formats, the hub's rules, and files that must not be trusted."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from iglens_tl.tuning import Translators, load_translators, save_translators
from iglens_tl.tuning.storage import from_state, to_state
from tests.support.closeness import assert_identical


def assert_same(one: Translators, other: Translators) -> None:
    assert_identical(one.weight, other.weight)
    assert (one.bias is None) == (other.bias is None)
    if one.bias is not None:
        assert_identical(one.bias, other.bias)


@pytest.mark.parametrize("format", ["safetensors", "pt"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_saved_lens_is_loaded_unchanged(tmp_path, random_translators, format, bias, dtype):
    saved = dataclasses.replace(
        random_translators(bias=bias).to(dtype),
        revision="main",
        unembed_hash="abc",
        training={"steps": 3, "optimizer": "sgd"},
    )
    loaded = load_translators(save_translators(saved, tmp_path / "lens", format=format))
    assert_same(saved, loaded)
    assert loaded.weight.dtype == dtype
    for name in ("base_model", "revision", "unembed_hash", "training", "fingerprint"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert loaded.origin == str(tmp_path / "lens")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_states_and_translators_are_the_same_thing(n_layers, d_model, bias):
    weight = torch.randn(n_layers, d_model, d_model)
    vectors = torch.randn(n_layers, d_model) if bias else None
    state = dict(reversed(to_state(weight, vectors).items()))
    read_weight, read_bias = from_state(state, n_layers)
    assert_identical(read_weight, weight)
    assert (read_bias is None) == (vectors is None)
    if vectors is not None:
        assert_identical(read_bias, vectors)


def test_the_published_format_has_the_published_keys(tmp_path, random_translators):
    random_translators().save(tmp_path / "lens", format="pt")
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    assert config == {
        "base_model_name_or_path": "somebody/something",
        "d_model": 32,
        "num_hidden_layers": 3,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": None,
        "lens_type": "linear_tuned_lens",
    }
    state = torch.load(tmp_path / "lens" / "params.pt", weights_only=True)
    assert list(state) == [f"{i}.{kind}" for kind in ("weight", "bias") for i in range(3)]


@pytest.mark.parametrize("word", ["translator", "probe", "adapter"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_older_layout_counts_the_embedding_apart(tmp_path, random_translators, word, bias):
    expected = random_translators(bias=bias)
    state = {"unembedding.weight": torch.zeros(97, 32), "layer_norm.weight": torch.ones(32)}
    for i in range(3):
        name = f"input_{word}" if i == 0 else f"layer_{word}s.{i - 1}"
        state[f"{name}.weight"] = expected.weight[i]
        if expected.bias is not None:
            state[f"{name}.bias"] = expected.bias[i]
    torch.save(state, tmp_path / "params.pt")
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 32, "num_layers": 3}))
    assert_same(load_translators(tmp_path), expected)


def test_a_whole_module_in_todays_numbering_is_read(tmp_path, random_translators):
    expected = random_translators()
    state = {f"layer_translators.{name}": t for name, t in to_state(*_tensors(expected)).items()}
    state["unembed.unembedding.weight"] = torch.zeros(97, 32)
    torch.save(state, tmp_path / "params.pt")
    (tmp_path / "config.json").write_text(json.dumps({"d_model": 32, "num_hidden_layers": 3}))
    assert_same(load_translators(tmp_path), expected)


def test_saving_in_another_format_leaves_no_stale_parameters(tmp_path, random_translators):
    folder = tmp_path / "lens"
    dataclasses.replace(random_translators(seed=1), training={"a": 1}).save(folder)
    newer = random_translators(seed=2)
    newer.save(folder, format="pt")
    assert_same(Translators.load(folder), newer)
    assert Translators.load(folder).training == {}
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "params.pt"]


class _Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_parameter_file_is_never_run(tmp_path, random_translators, protocol):
    folder = random_translators().save(tmp_path / "lens", format="pt")
    content = {"0.weight": _Malicious(tmp_path / "run")}
    if protocol == "torch":
        torch.save(content, folder / "params.pt")
    else:
        (folder / "params.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"params.pt' .* nothing in it was run; download"):
        load_translators(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("format", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, random_translators, format, keep):
    folder = random_translators().save(tmp_path / "lens", format=format)
    path = folder / f"params.{format}"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=f"params.{format}' is damaged, truncated"):
        load_translators(folder)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_sentence(content):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name, "config.json").write_text('{"d_model": 2, "num_hidden_layers": 1}')
        Path(name, "params.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="params.safetensors' "):
            load_translators(name)


_GOOD = {"0.weight": torch.zeros(2, 2), "1.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "holds no parameters"),
        ({"unembedding.weight": torch.zeros(5, 2)}, "holds no translators"),
        (_GOOD | {"model.embed.weight": torch.zeros(2)}, "no parameter of a linear tuned lens"),
        (_GOOD | {"3.weight": torch.zeros(2, 2)}, "translator 3 but no translator 2"),
        (_GOOD | {"1.bias": torch.zeros(2)}, "biases for some translators only"),
        (_GOOD | {"2.bias": torch.zeros(2)}, "no weight for translator 2"),
        (_GOOD | {"1.weight": torch.zeros(3, 3)}, r"shape \(3, 3\) for translator 1"),
        ({"0.weight": torch.zeros(2, 3)}, "where a square is expected"),
        ({"0.weight": torch.zeros(2, 2).long()}, "type torch.int64"),
        ({"0.weight": torch.full((2, 2), torch.nan)}, "NaN or infinite"),
        ({"0.weight": torch.zeros(2, 2)}, "has 1 translators but config.json says 2"),
        ({f"{i}.weight": torch.zeros(3, 3) for i in range(2)}, "3 dimensions but .* says 2"),
        ({"layer_translators.0.weight": torch.zeros(2, 2)}, "no translator for the embedding"),
    ],
)
def test_foreign_parameters_are_refused(tmp_path, state, message):
    (tmp_path / "config.json").write_text('{"d_model": 2, "num_hidden_layers": 2}')
    save_file(state, tmp_path / "params.safetensors")
    with pytest.raises(ValueError, match=f"params.safetensors' .*{message}.*; download or save"):
        load_translators(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"0.weight": [1.0]}, torch.zeros(2)])
def test_a_file_that_holds_no_tensors_by_name_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text("{}")
    torch.save(content, tmp_path / "params.pt")
    with pytest.raises(ValueError, match="params.pt' holds"):
        load_translators(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "has no config.json"),
        ("{", "config.json' is no JSON"),
        ("[]", "holds no JSON object"),
        ('{"lens_type": "mlp"}', "describes a lens of type 'mlp'"),
        ('{"d_model": "x"}', "d_model must be a positive integer, got 'x'"),
        ("{}", "has no parameters"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_translators(tmp_path)


def test_bad_places_are_refused(tmp_path, random_translators):
    with pytest.raises(ValueError, match="there is no folder '/no/such/lens'"):
        load_translators("/no/such/lens")
    with pytest.raises(ValueError, match="there is no folder ''"):
        load_translators("")
    with pytest.raises(ValueError, match="cannot make the folder"):
        random_translators().save(tmp_path / "a" / "b")
    with pytest.raises(ValueError, match="unknown format 'zip'"):
        random_translators().save(tmp_path, format="zip")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Replace the hub by a folder and return it with the list of what was asked for."""
    asked: list[dict] = []

    def download(**request):
        asked.append(request)
        path = tmp_path / request["filename"]
        if not path.is_file():
            raise EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in ("TUNED_LENS_REPO_ID", "TUNED_LENS_REPO_TYPE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path, asked


@pytest.mark.parametrize("folder", ["EleutherAI/pythia-70m", "pythia-70m"])
def test_a_published_lens_is_found_with_and_without_the_organisation(
    hub, random_translators, folder
):
    root, asked = hub
    place = root / "lens" / folder
    place.parent.mkdir(parents=True)
    expected = random_translators()
    expected.save(place, format="pt")
    loaded = load_translators("EleutherAI/pythia-70m", revision="v1")
    assert_same(loaded, expected)
    assert loaded.origin == "EleutherAI/pythia-70m"
    assert asked[0] == {
        "repo_id": "AlignmentResearch/tuned-lens",
        "repo_type": "space",
        "revision": "v1",
        "filename": "lens/EleutherAI/pythia-70m/config.json",
    }


def test_the_place_of_published_lenses_can_be_changed(hub, random_translators, monkeypatch):
    root, asked = hub
    (root / "lens").mkdir()
    random_translators().save(root / "lens" / "gpt2")
    monkeypatch.setenv("TUNED_LENS_REPO_ID", "somebody/lenses")
    monkeypatch.setenv("TUNED_LENS_REPO_TYPE", "model")
    assert_same(load_translators("gpt2"), random_translators())
    assert {(a["repo_id"], a["repo_type"]) for a in asked} == {("somebody/lenses", "model")}


def test_a_lens_that_nobody_published_is_reported(hub):
    with pytest.raises(ValueError, match="no tuned lens of 'a/b' in the space 'AlignmentResearch"):
        load_translators("a/b")


def test_an_unreachable_hub_is_reported(monkeypatch):
    def download(**request):
        raise LocalEntryNotFoundError("there is no network\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match="cannot get the tuned lens of 'gpt2'.*: there is no net"):
        load_translators("gpt2")


def _tensors(translators: Translators) -> tuple[torch.Tensor, torch.Tensor | None]:
    return translators.weight, translators.bias
