"""What every lens says of planted models, against what it is expected to say."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import torch

from experiments.planted.figure import localisation_map
from experiments.planted.kinds import KINDS
from experiments.planted.lenses import EVEN, IG_LENS, MEASURES, Finding, measure_all
from experiments.planted.localisation import localise
from experiments.planted.markdown import count_cell, score_cell, tables_page
from experiments.planted.models import (
    backup,
    cooler,
    cooperation,
    head,
    relay,
    router,
    sharpener,
    writer,
)
from experiments.planted.study import score_model, study, summarise
from iglens_tl.models import adapt
from iglens_tl.models.adapter import hooked_transformer_class
from tests.experiments.planted.by_hand import p_of_answer
from tests.support.closeness import assert_close_to

BY_NAME = {measure.name: measure for measure in MEASURES}


@pytest.fixture(scope="module")
def find(loaded):
    """Return a function from a planted model and a lens's name to what the lens says of it."""

    @cache
    def of_model(model, lens, backend="auto"):
        adapter = adapt(loaded(model, backend))
        return measure_all(adapter, model.prompt, model.answer, [BY_NAME[lens]])[lens]

    return of_model


ROUTER = router(1, 3, seed=0)
RELAY = relay(0, 2, 1, seed=1)
COOPERATION = cooperation(1, 3, seed=0)
BACKUP = backup(0, 3, seed=2)


def mass(finding: Finding, *true: str) -> float:
    return localise(finding.changes, finding.segments, true).mass


def total(finding: Finding, *true: str) -> float:
    return localise(finding.changes, finding.segments, true).total


@pytest.mark.parametrize("model", [writer(2, seed=0), head(1, 2, seed=1)], ids=lambda m: m.name)
def test_lenses_of_the_readout_and_interventions_find_a_single_writer(model, find):
    off = ("order straight_projected", "order straight_uniform")
    flows = ("layer conductance, last position", "layer integrated gradients")
    for lens in BY_NAME:
        if lens not in (*off, *flows):
            assert mass(find(model, lens), *model.writers) > 0.95, lens
    for lens in off:
        assert mass(find(model, lens), *model.writers) < 0.8
    for lens in flows:
        # The last token of the writer's prompt names the country; the head brings the answer there.
        finding = find(model, lens)
        assert finding.is_silent(total(finding, *model.writers)) == (model.kind == "writer")


@pytest.mark.parametrize("model", [ROUTER, RELAY], ids=lambda m: m.name)
def test_lenses_of_the_readout_credit_the_reader_and_not_the_router(model, find):
    early, reader = model.necessary
    for lens in (IG_LENS, "IG-Lens, log p", "IG-Lens, logit", "direct logit attribution"):
        assert mass(find(model, lens), reader) > 0.95, lens
        assert mass(find(model, lens), early) < 0.05, lens


@pytest.mark.parametrize("model", [ROUTER, RELAY], ids=lambda m: m.name)
def test_recomputed_lenses_and_interventions_find_router_and_reader(model, find):
    for lens in ("effect of skip", "effect of mean", "effect of resample", "order shapley_skip"):
        for part in model.necessary:
            assert mass(find(model, lens), part) == pytest.approx(0.5, abs=0.05), lens
    for part in model.necessary:
        assert mass(find(model, "layer conductance, sublayers"), part) > 0.4


def test_at_the_last_position_interventions_miss_what_was_written_earlier(find):
    early, reader = RELAY.necessary
    assert mass(find(RELAY, "effect of skip, last position"), early) < 0.05
    assert mass(find(RELAY, "effect of skip, last position"), reader) > 0.95


def test_the_value_decides_how_cooperating_layers_share(find):
    first, second = COOPERATION.necessary
    of = partial(find, COOPERATION)
    assert mass(of(IG_LENS), first) < 0.1
    assert mass(of(IG_LENS), second) > 0.9
    assert mass(of("IG-Lens, logit"), first) == pytest.approx(0.5, abs=0.02)
    for lens in ("order shapley_skip", "order shapley_frozen", "effect of skip"):
        assert mass(of(lens), first) == pytest.approx(0.5, abs=0.02), lens
    assert of("effect of skip").changes.sum() > 1.5 * of(IG_LENS).final


@pytest.mark.parametrize("plant", [sharpener, cooler])
def test_a_sharpening_layer_is_credited_with_the_probability_that_it_adds(plant, find):
    model = plant(1, 3, seed=0)
    hf = model.build()
    added = p_of_answer(hf, model) - p_of_answer(hf, model, ["L3.mlp"])
    of = find(model, IG_LENS)
    credits = dict(zip(of.segments, of.changes, strict=True))
    assert credits["L3"] == pytest.approx(added, abs=0.03)
    assert mass(of, *model.writers) == pytest.approx(0.75, abs=0.05)


def test_only_direct_logit_attribution_sees_that_a_cooler_writes_nothing(find):
    model = cooler(1, 3, seed=0)
    assert mass(find(model, "direct logit attribution"), *model.writers) > 0.95
    assert mass(find(model, "IG-Lens, logit"), *model.writers) < 0.5


def test_skipping_says_nothing_of_a_writer_that_has_a_backup(find):
    of = partial(find, BACKUP)
    for lens in ("effect of skip", "order leave_one_out"):
        assert of(lens).is_silent(total(of(lens), "L0"))
    assert mass(of("order shapley_skip"), "L0") == pytest.approx(0.5, abs=0.02)
    assert mass(of(IG_LENS), "L0.mlp") > 0.95


def test_effects_of_skipping_are_what_is_lost_in_hugging_face(find):
    for model in (COOPERATION, BACKUP):
        hf = model.build()
        finding = find(model, "effect of skip, last position")
        effects = dict(zip(finding.segments, finding.changes, strict=True))
        for label in (*model.writers, *model.necessary):
            lost = p_of_answer(hf, model) - p_of_answer(hf, model, [label])
            assert effects[label.split(".")[0]] == pytest.approx(lost, abs=0.01)


def test_credits_are_those_of_leaving_the_model_early_and_differences_of_the_logit_lens(find):
    for model in (ROUTER, COOPERATION):
        of = partial(find, model)
        credits = of(IG_LENS).changes[1:]
        differences = of("logit lens, differences of p").changes[1:]
        for changes in (of("effect of early exit").changes, differences):
            assert_close_to(changes, credits, dtype=torch.float32)


@pytest.mark.skipif(hooked_transformer_class() is None, reason="no HookedTransformer here")
def test_both_backends_say_the_same(find):
    for lens in BY_NAME:
        hooked, bridge = (find(RELAY, lens, backend) for backend in ("hooked", "bridge"))
        assert hooked.segments == bridge.segments
        np.testing.assert_allclose(hooked.changes, bridge.changes, atol=1e-3, err_msg=lens)


@pytest.fixture(scope="module")
def scores():
    return study([writer(2, seed=0), writer(3, seed=1), BACKUP])


def test_the_study_has_a_row_for_every_lens_and_question(scores):
    n_lenses = len(MEASURES) + 1
    assert len(scores) == n_lenses * (2 + 2 + 1)  # nothing is necessary where there is a backup
    even = scores[(scores["lens"] == EVEN) & (scores["kind"] == "writer")]
    assert_close_to(even["mass"], 0.2)
    assert not even["silent"].any()
    own = score_model(writer(2, seed=0))
    row = scores[scores["place"] == "L2"].iloc[1]
    assert own[1]["mass"] == pytest.approx(row["mass"], abs=1e-9)


def test_a_summary_leaves_out_silent_models(scores):
    summary = summarise(scores, "writers", "mass").set_index(["lens", "kind"])
    quiet = summary.loc[("effect of skip", "backup")]
    assert (quiet["n"], quiet["silent"]) == (1, 1)
    found = summary.loc[("order straight_uniform", "writer")]
    both = scores.query("lens == 'order straight_uniform' and kind == 'writer'")
    both = both.loc[both["question"] == "writers", "mass"]
    assert_close_to(found["mean"], both.mean())
    assert (found["low"], found["high"]) == (both.min(), both.max())


def test_cells_say_the_range_and_where_a_lens_is_silent():
    assert score_cell(0.5, 0.5, 0.501, 3, 0) == "0.50"
    assert score_cell(0.5, 0.4, 0.6, 3, 1) == "0.50 [0.40, 0.60] (silent 1 of 3)"
    assert score_cell(float("nan"), float("nan"), float("nan"), 3, 3) == "silent"
    assert count_cell(0.5, 0, 1, 3, 1) == "1 of 3"
    assert count_cell(float("nan"), float("nan"), float("nan"), 3, 3) == "0 of 3"


def test_the_page_and_the_map_name_every_lens(scores):
    page, figure = tables_page(scores), localisation_map(scores)
    assert "nan" not in page.lower().replace("finance", "")
    for measure in MEASURES:
        assert f"| {measure.name} |" in page
        assert measure.name in figure.data[0].y
    texts = np.array(figure.data[0].text)
    assert "silent" in texts
    assert set(figure.data[0].x) <= set(KINDS)
