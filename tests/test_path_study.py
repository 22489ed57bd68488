"""The prompts of the causal experiments, and the experiment on credit orders."""

from __future__ import annotations

import pytest
import torch

from experiments.causal.items import FAMILIES, SMALLEST_P, TEXT, WRONG, draw_all, draw_items
from iglens_tl.models import adapt


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


def _probs(adapter, ids):
    with torch.no_grad():
        return adapter.model(torch.tensor([ids]))[0, -1].double().softmax(-1)


@pytest.mark.parametrize("family", ["pronouns", TEXT, WRONG])
def test_items_have_one_token_answers_with_the_models_own_probability(adapter, family):
    items = draw_items(adapter, family, 3, seed=1)
    assert len(items) == 3
    for item in items:
        probs = _probs(adapter, item.ids)
        assert probs[item.answer_id].item() == pytest.approx(item.p, abs=1e-5)
        right = item.other_id if family == WRONG else item.answer_id
        assert probs[right] > SMALLEST_P
        assert item.answer_id != item.other_id
        assert adapter.tokenizer.decode([item.answer_id]).strip() == item.answer.strip()
        if family == TEXT:
            best, second = probs.topk(2).indices.tolist()
            assert (item.answer_id, item.other_id) == (best, second)
        if family == "pronouns":
            assert {item.answer, item.other} in (
                {" he", " she"},
                {" his", " her"},
                {" himself", " herself"},
            )


def test_items_depend_on_the_seed_alone(adapter):
    first, again, other = (draw_items(adapter, TEXT, 4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_prompt_is_drawn_twice(adapter):
    families = ("pronouns", TEXT, WRONG)
    drawn = draw_all(adapter, 3, families=families, seed=1)
    assert not drawn.notes
    assert [item.family for item in drawn.items] == [name for name in families for _ in range(3)]
    assert len({item.ids for item in drawn.items}) == len(drawn.items)


def test_a_model_that_knows_no_family_has_the_texts(stories):
    drawn = draw_all(adapt(stories), 2, families=("greater_than", TEXT), seed=0)
    assert [item.family for item in drawn.items] == [TEXT, TEXT]
    (note,) = drawn.notes
    assert note.startswith("greater_than: ") and note.endswith("the family is left out")


def test_unknown_families_and_numbers_are_refused(adapter):
    with pytest.raises(ValueError, match="unknown family 'rhymes'; choose one of facts"):
        draw_items(adapter, "rhymes", 1, seed=0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        draw_items(adapter, FAMILIES[0], 0, seed=0)


def test_too_few_items_of_every_family_are_told(stories):
    with pytest.raises(ValueError, match="too few items: greater_than: .* 0 of 1 items"):
        draw_all(adapt(stories), 1, families=("greater_than",))
