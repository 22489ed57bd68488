"""Results of several parts in files: without loss, or refused in a sentence."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from iglens_tl import PatchingResult, SkipCurves, Validation
from iglens_tl.results import Provenance, Target, Text
from tests.support.closeness import assert_identical
from tests.support.results import HOSTILE, make_result

PROVENANCE = Provenance(
    model={"name": "toy", "n_layers": 3},
    options={"value": "prob", "n_draws": None},
    checks={"largest_difference": 1e-7},
    versions={"torch": "2"},
    created="2026-11-27T12:00:00+00:00",
    notes=("a note", HOSTILE),
)


def make_patching() -> PatchingResult:
    rng = np.random.default_rng(0)
    return PatchingResult(
        site="resid_post",
        direction="noising",
        unit="nats",
        clean=Text((1, 5, 7), (HOSTILE, " é", "\n")),
        corrupted=Text((1, 6, 7), ("<s>", "\x00", "\n")),
        target=Target(0, 2, 9, HOSTILE),
        values=rng.normal(size=(2, 3)) / 3,
        clean_value=0.1 + 0.2,
        corrupted_value=-1e-3,
        embed_value=1 / 3,
        provenance=PROVENANCE,
    )


def make_curves() -> SkipCurves:
    rng = np.random.default_rng(1)
    targets = make_result().targets
    orders = ("ig_lens", "oracle", "random")
    deletion, insertion = (
        {order: rng.normal(size=(len(targets), 5)) for order in orders} for _ in range(2)
    )
    return SkipCurves("probability", targets, deletion, insertion)


def make_validation() -> Validation:
    table = pd.DataFrame(
        {
            "credits": ["ig_lens", "ig_lens, random target"],
            "effects": ["skip", "skip"],
            "metric": ["spearman", "spearman"],
            "mean": pd.array([1 / 3, None], dtype="Float64"),
            "low": pd.array([0.1, None], dtype="Float64"),
            "high": pd.array([0.7, None], dtype="Float64"),
            "items": [4, 0],
            "note": ["", HOSTILE],
        }
    )
    by_item = pd.DataFrame(
        {"token": [HOSTILE, "\n"], "spearman": pd.array([0.5, None], dtype="Float64")}
    )
    credits = replace(make_result(seed=3), provenance=PROVENANCE)
    effects = replace(credits, lens="layer_effects", kind="effect")
    effects = replace(effects, statistics={"standard_error": np.full(effects.values.shape, np.nan)})
    return Validation(
        table, by_item, make_curves(), {"ig_lens": credits}, {"skip": effects}, PROVENANCE
    )


MAKERS = {"PatchingResult": make_patching, "SkipCurves": make_curves, "Validation": make_validation}


def assert_equal(found, expected, where=""):
    """Compare two results part by part, numbers bit by bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, pd.DataFrame):
        assert_identical(found, expected)
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype, where
        assert_identical(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, entry in expected.items():
            assert_equal(found[key], entry, f"{where}[{key!r}]")
    elif hasattr(expected, "__dataclass_fields__"):
        for key in expected.__dataclass_fields__:
            assert_equal(getattr(found, key), getattr(expected, key), f"{where}.{key}")
    else:
        assert found == expected, where


@pytest.mark.parametrize("kind", MAKERS)
def test_a_result_comes_back_from_its_file_as_it_was(kind, tmp_path):
    result = MAKERS[kind]()
    path = result.save(tmp_path / "result.json")
    assert_equal(type(result).load(path), result)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", MAKERS)
def test_damaged_and_foreign_files_are_refused(kind, tmp_path):
    result = MAKERS[kind]()
    load = type(result).load
    text = result.save(tmp_path / "result.json").read_text()
    path = tmp_path / "other.json"
    content = json.loads(text)
    other = next(maker for name, maker in MAKERS.items() if name != kind)()
    damaged = {
        "cut": text[: len(text) // 2],
        "no JSON": "layer,value\n0,1\n",
        "a list": "[1, 2]",
        "nothing": "",
        "another version": json.dumps({**content, "version": 99}),
        "another format": json.dumps({**content, "format": "else"}),
        "another result": other.save(tmp_path / "another.json").read_text(),
        **{
            f"without {key}": json.dumps({k: entry for k, entry in content.items() if k != key})
            for key in content
        },
    }
    for what, written in damaged.items():
        path.write_text(written)
        with pytest.raises(ValueError, match=f"holds no {kind} of iglens_tl: "):
            load(path)
            pytest.fail(what)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=f"holds no {kind} of iglens_tl: "):
        load(path)
    with pytest.raises(ValueError, match="there is no file"):
        load(tmp_path / "nowhere.json")
    for ending in ("result.csv", "result.parquet", "result"):
        with pytest.raises(ValueError, match="must end in .json"):
            load(tmp_path / ending)
        with pytest.raises(ValueError, match="must end in .json"):
            result.save(tmp_path / ending)
    with pytest.raises(ValueError, match="cannot write"):
        result.save(tmp_path / "no folder" / "result.json")


@pytest.mark.parametrize("kind", MAKERS)
def test_an_interrupted_write_leaves_the_old_file(kind, tmp_path, monkeypatch):
    result = MAKERS[kind]()
    path = result.save(tmp_path / "result.json")
    before = path.read_bytes()

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        result.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_notebook_shows_a_table_and_no_markup_of_tokens(kind):
    page = MAKERS[kind]()._repr_html_()
    assert "<table" in page and "<img" not in page


@pytest.mark.parametrize("kind", MAKERS)
def test_each_result_has_a_figure_and_a_table(kind):
    result = MAKERS[kind]()
    assert result.figure().data
    assert len(result.to_frame())


def test_results_are_immutable():
    patching, curves = make_patching(), make_curves()
    for array in (patching.values, curves.deletion["oracle"], curves.insertion["random"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1.0


def test_curves_that_do_not_fit_one_another_are_refused():
    curves = make_curves()
    with pytest.raises(ValueError, match=r"the curves of 2 targets have shapes \[\(4, 5\)\]"):
        replace(curves, targets=curves.targets[:2])
    with pytest.raises(ValueError, match="deletion has the orders"):
        replace(curves, deletion={"oracle": curves.deletion["oracle"]})
    alone = {"random": curves.deletion["random"]}
    with pytest.raises(ValueError, match="the order 'oracle' is missing"):
        replace(curves, deletion=alone, insertion=alone)


def test_a_file_is_plain_json_that_names_what_it_is(tmp_path):
    content = json.loads(make_patching().save(tmp_path / "a.json").read_text())
    assert content["format"] == "iglens_tl.PatchingResult" and content["version"] == 1
    assert content["target"] == asdict(make_patching().target)
