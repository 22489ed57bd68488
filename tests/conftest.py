"""Shared fixtures: tiny models of every family, and the two trained ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# Nothing in the tests may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
import transformers

from iglens_tl import load_model
from tests.support.families import FAMILIES, Family, write_folder
from tests.support.rounding import round_differently_in_every_pass

STORIES = Path(__file__).parents[2] / "shared" / "models" / "stories260K"

transformers.utils.logging.disable_progress_bar()
# Toy models gain nothing from threads, and the suite runs in several processes.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--cases`, a sample of the cases of parametrised tests, and `--other-rounding`."""
    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help="run at most N cases of each test, spread over all of them; by default every case",
    )
    parser.addoption(
        "--other-rounding",
        action="store_true",
        help="let every forward pass round differently, as some processors do",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let passes round differently if asked for."""
    config.addinivalue_line(
        "markers", "same_rounding: two passes over one text have to give the same bits"
    )
    if config.getoption("--other-rounding"):
        round_differently_in_every_pass()


# Before pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests of one family, or of one module, in one process; leave out other cases.

    Loading the models costs more than most tests, so that under `--dist loadgroup` no two
    processes load the same family, nor build the same fixtures of a module.
    """
    in_processes = config.pluginmanager.hasplugin("xdist")
    for item in items if in_processes else ():
        item.add_marker(pytest.mark.xdist_group(family_of(item) or item.nodeid.partition("::")[0]))
    if config.getoption("--other-rounding"):
        skip = pytest.mark.skip(reason="two passes give other bits here")
        for item in items:
            if item.get_closest_marker("same_rounding"):
                item.add_marker(skip)
    n_cases = config.getoption("--cases")
    if n_cases is None:
        return
    by_test: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = {id(item) for cases in by_test.values() for item in spread(cases, n_cases)}
    left_out = [item for item in items if id(item) not in chosen]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if id(item) in chosen]


def family_of(item: pytest.Item) -> str | None:
    """Return the name of the family whose toy model a test measures, if it names one."""
    callspec = getattr(item, "callspec", None)
    values = callspec.params.values() if callspec else ()
    names = {family.name for family in FAMILIES}
    return next((value for value in values if isinstance(value, str) and value in names), None)


def spread(cases: list[Any], n: int) -> list[Any]:
    """Return `n` of the cases, from the first to the last in equal steps."""
    if len(cases) <= n:
        return cases
    return [cases[round(i * (len(cases) - 1) / max(n - 1, 1))] for i in range(n)]


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family's name to a Hugging Face folder with its toy model."""
    root = tmp_path_factory.mktemp("families")
    by_name = {family.name: family for family in FAMILIES}

    @cache
    def folder(name: str) -> Path:
        return write_folder(by_name[name], root / name)

    return folder


@pytest.fixture(scope="session")
def toy_model(toy_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """Return a function that loads a toy model; the same arguments give the same object."""

    @cache
    def model(name: str, backend: str = "auto", dtype: str = "float32") -> Any:
        return load_model(toy_folder(name), backend=backend, dtype=dtype)

    return model


@pytest.fixture(scope="session")
def toy(toy_model: Callable[..., Any]) -> Any:
    """Return the Llama toy model, for tests that need any model."""
    return toy_model("llama")


@pytest.fixture(scope="session")
def hf_probs(toy_folder: Callable[[str], Path]) -> Callable[..., torch.Tensor]:
    """Return a function that gives plain Hugging Face's next-token probabilities."""

    @cache
    def hf_model(name: str, dtype: torch.dtype) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            toy_folder(name), dtype=dtype, experts_implementation="eager"
        ).eval()

    def probs(name: str, ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        with torch.no_grad():
            return hf_model(name, dtype)(torch.tensor([ids])).logits[0].double().softmax(-1)

    return probs


@pytest.fixture(scope="session")
def stories() -> Any:
    """Return the trained stories260K model, or skip where it is absent."""
    if not STORIES.is_dir():
        pytest.skip(f"the trained model {STORIES} is not here")
    return load_model(STORIES)


@pytest.fixture(scope="session")
def demo() -> Any:
    """Return the embedded model."""
    return load_model("demo")


def family(name: str) -> Family:
    """Return a family by name."""
    return next(family for family in FAMILIES if family.name == name)
