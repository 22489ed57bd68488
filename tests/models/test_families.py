"""Further families beside plain Hugging Face models: those that are measured, and those refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from iglens_tl import components, ig_lens, load_model
from iglens_tl.models import NotApplicableError, adapt, capture
from tests.support.cases import HAS_HOOKED, IDS, TL_VERSION
from tests.support.closeness import assert_close_to
from tests.support.families import FAMILIES, Family, write_folder
from tests.support.family_table import family_table
from tests.support.further_families import FURTHER_FAMILIES, REFUSED_FAMILIES

MAJOR = TL_VERSION.split(".")[0]
LOADABLE = [
    pytest.param(family, backend, id=f"{family.name}-{backend}")
    for family in FURTHER_FAMILIES
    for backend in ("hooked", "bridge")
    if (backend == "bridge" and MAJOR not in family.wrong_in)
    or (backend == "hooked" and HAS_HOOKED and family.hooked)
]
WRONG_HERE = [
    pytest.param(family, id=family.name)
    for family in (*FAMILIES, *FURTHER_FAMILIES)
    if MAJOR in family.wrong_in
]
REFUSED = [pytest.param(family, words, id=family.name) for family, words in REFUSED_FAMILIES]
PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense")
"""Names of the attention's output matrix in Hugging Face models."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory) -> Callable[[Family], Path]:
    root = tmp_path_factory.mktemp("further")
    return cache_by_name(lambda family: write_folder(family, root / family.name))


@pytest.fixture(scope="module")
def load(folder_of) -> Callable[[Family, str], Any]:
    return cache_by_name(lambda family, backend: load_model(folder_of(family), backend=backend))


def cache_by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its results kept; families hold dictionaries, so go by name."""
    families: dict[str, Family] = {}

    @cache
    def of_name(name: str, *rest: str) -> Any:
        return function(families[name], *rest)

    def of_family(family: Family, *rest: str) -> Any:
        families[family.name] = family
        return of_name(family.name, *rest)

    return of_family


def plain_run(folder: Path, *, n_heads: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """Run plain Hugging Face on the text.

    Returns:
        The log-probability of every next token, and for each layer what its heads pass to the
        output matrix, `[pos, head, d_head]`.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="eager"
    ).eval()
    passed_on = []

    def keep(module: Any, inputs: tuple[Tensor]) -> None:
        passed_on.append(inputs[0][0].unflatten(-1, (n_heads, -1)))

    if n_heads is not None:
        for name, module in model.named_modules():
            *parents, last = name.split(".")
            if last in PROJECTIONS and "att" in ".".join(parents[-2:]):
                module.register_forward_pre_hook(keep)
    return log_probs_of_next_tokens(model), passed_on


def log_probs_of_next_tokens(hf_model: Any) -> Tensor:
    """Run a Hugging Face model on the text and return what it predicts of every next token."""
    with torch.no_grad():
        logits = hf_model(torch.tensor([IDS])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]


@pytest.mark.parametrize(("family", "backend"), LOADABLE)
def test_credits_sum_to_what_plain_hugging_face_predicts(folder_of, load, family, backend):
    model = load(family, backend)
    expected, _ = plain_run(folder_of(family))
    result = ig_lens(model, IDS)
    assert_close_to(np.log(result.final), expected, tolerance=1e-4)
    np.testing.assert_allclose(result.values.sum(1) + result.baseline, result.final, atol=1e-12)
    integrated = ig_lens(model, IDS, estimator="gradient")
    np.testing.assert_allclose(integrated.values, result.values, atol=1e-4)


@pytest.mark.parametrize(("family", "backend"), LOADABLE)
@pytest.mark.parametrize("by", ["sublayer", "head", "neuron"])
def test_parts_sum_to_the_credits_or_are_refused(load, family, backend, by):
    model = load(family, backend)
    if by == "sublayer" or by in family.splits:
        result = components(model, IDS, by=by)
        np.testing.assert_allclose(result.values.sum(1), result.final - result.baseline, atol=1e-4)
    else:
        with pytest.raises(NotApplicableError, match=rf"(?s)\A{family.name}\b[^\n]*split[^\n]*\Z"):
            components(model, IDS, by=by)


@pytest.mark.parametrize(
    ("family", "backend"), [case for case in LOADABLE if "head" in case.values[0].splits]
)
def test_heads_pass_on_what_hugging_faces_heads_do(folder_of, load, family, backend):
    adapter = adapt(load(family, backend))
    sites = [adapter.head_site(layer) for layer in range(adapter.n_layers)]
    found = capture(adapter, torch.tensor([IDS]), dict.fromkeys(sites, torch.clone))
    n_heads = found[sites[0]].shape[2]
    assert n_heads == family.config().num_attention_heads
    _, expected = plain_run(folder_of(family), n_heads=n_heads)
    assert len(expected) == len(sites)
    for site, passed_on in zip(sites, expected, strict=True):
        error = (found[site][0] - passed_on).abs().max()
        assert error < 1e-5 * passed_on.abs().max(), site


@pytest.mark.parametrize("family", WRONG_HERE)
def test_a_bridge_that_computes_something_else_is_refused_at_load(folder_of, family):
    with pytest.raises(ValueError, match=rf"{family.name}\b.*transformer-lens {TL_VERSION}"):
        load_model(folder_of(family))


@pytest.mark.parametrize(("family", "words"), REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_sentence_as_it_loads(folder_of, family, words):
    folder = folder_of(family)
    label = rf"{family.name} \({family.architecture}\)"
    message = rf"{label} is not supported: [^\n]*{words}[^\n]*; [^\n]+\Z"
    for source in (folder, transformers.AutoModelForCausalLM.from_pretrained(folder)):
        with pytest.raises(ValueError, match=message) as caught:
            load_model(source)
        assert len(str(caught.value)) < 700


@pytest.mark.parametrize("parallel", [True, False])
def test_eager_attention_that_the_user_chose_is_measured_as_it_runs(folder_of, parallel):
    name = "falcon_alibi" if parallel else "falcon_rw"
    family = next(family for family, _ in REFUSED_FAMILIES if family.name == name)
    read = transformers.AutoModelForCausalLM.from_pretrained
    usual = log_probs_of_next_tokens(read(folder_of(family)))
    hf_model = read(folder_of(family), attn_implementation="eager")
    eager = log_probs_of_next_tokens(hf_model)
    np.testing.assert_allclose(np.log(ig_lens(hf_model, IDS).final), eager, atol=1e-4)
    assert (eager - usual).abs().max() > 1e-2


@pytest.mark.skipif(MAJOR != "3", reason="TransformerLens 4 shows the state within these blocks")
def test_blocks_in_sequence_without_a_state_between_are_not_called_parallel(load):
    family = next(family for family in FURTHER_FAMILIES if family.name == "olmo_hybrid")
    with pytest.raises(NotApplicableError, match="one after the other, .*no hook hook_resid_mid"):
        ig_lens(load(family, "bridge"), IDS, by="sublayer")


@pytest.mark.parametrize(("family", "backend"), LOADABLE)
def test_parallel_blocks_are_told_from_others(load, family, backend):
    assert (adapt(load(family, backend)).block_kind == "parallel") == family.parallel


def test_names_are_short_and_paths_stay_in_the_adapter(folder_of, load):
    family = FURTHER_FAMILIES[0]
    adapter = adapt(load(family, "bridge"))
    assert (adapter.name, adapter.path) == (family.name, str(folder_of(family)))
    assert str(folder_of(family).parent) not in str(ig_lens(adapter, IDS).provenance)


def test_the_table_names_every_family_and_where_it_loads():
    table = family_table()
    assert "| `LlamaForCausalLM` | yes | yes | yes | yes | yes |\n" in table
    assert "| `CohereForCausalLM` | no | no | yes | yes | yes |\n" in table
    for family in (*FAMILIES, *FURTHER_FAMILIES):
        assert f"`{family.architecture}`" in table
