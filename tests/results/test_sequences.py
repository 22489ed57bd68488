"""One number for a whole continuation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iglens_tl import LensResult
from iglens_tl.results import Provenance, Text
from iglens_tl.results.sequences import sum_over_targets
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.results import make_component_result, make_result


def of_two_texts(prompts):
    """Return a result whose targets belong to the given texts."""
    result = make_result(tokens=("a", " b", " c", " d", " e"))
    targets = zip(result.targets, prompts, strict=True)
    return replace(
        result,
        texts=(result.texts[0], Text((7, 8), ("x", "y"))),
        targets=tuple(replace(target, prompt=prompt) for target, prompt in targets),
    )


def test_all_numbers_of_a_text_are_added_up():
    result = make_result()
    whole = sum_over_targets(result)
    assert isinstance(whole, LensResult)
    for field in ("values", "levels", "baseline", "final"):
        expected = getattr(result, field).sum(0, keepdims=True)
        assert_close_to(getattr(whole, field), expected)
    np.testing.assert_allclose(whole.completeness_error, 0, atol=1e-14)
    np.testing.assert_allclose(whole.segment_error, 0, atol=1e-14)
    assert whole.segments == result.segments and whole.texts == result.texts


def test_the_one_target_prints_as_the_continuation_and_stands_at_its_first_token():
    result = make_result(tokens=(" Ha", "noi", "."))
    (target,) = sum_over_targets(result).targets
    assert target == replace(result.targets[0], token=" Hanoi.")


def test_every_text_keeps_a_target_of_its_own():
    for prompts in ([0, 0, 1, 1, 1], [1, 0, 1, 0, 1]):
        result = of_two_texts(prompts)
        whole = sum_over_targets(result)
        assert [target.prompt for target in whole.targets] == [0, 1]
        for text, target in enumerate(whole.targets):
            rows = [row for row, prompt in enumerate(prompts) if prompt == text]
            assert target.token == "".join(result.targets[row].token for row in rows)
            assert_close_to(whole.values[text], result.values[rows].sum(0))
            assert_close_to(whole.final[text], result.final[rows].sum())


def test_what_belongs_to_single_tokens_is_left_out():
    result = make_component_result()
    assert result.ranks is not None and result.top is not None and result.statistics
    whole = sum_over_targets(result)
    assert whole.ranks is None and whole.top is None and not whole.statistics


def test_a_note_says_what_the_numbers_are():
    provenance = Provenance(notes=("before",), options={"value": "sequence_logprob"})
    whole = sum_over_targets(replace(make_result(), provenance=provenance))
    before, note = whole.provenance.notes
    assert before == "before" and note.startswith("values are sums over the tokens of each")
    assert whole.provenance.options == provenance.options


def test_alternatives_for_one_position_are_refused():
    result = make_result()
    twice = (*result.targets[:-1], replace(result.targets[-1], position=0))
    with pytest.raises(ValueError, match="alternatives for the same one; give the continuation as"):
        sum_over_targets(replace(result, targets=twice))
    # At one position of two texts, they are no alternatives.
    of_two = of_two_texts([0, 0, 0, 1, 1])
    moved = [replace(t, position=t.position - 3 * t.prompt) for t in of_two.targets]
    assert len(sum_over_targets(replace(of_two, targets=tuple(moved))).targets) == 2


def test_a_single_token_is_a_sequence_of_one():
    result = make_result(tokens=(" Hanoi",))
    whole = sum_over_targets(result)
    assert whole.targets == result.targets
    assert_identical(whole.values, result.values)


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_the_sum_survives_a_file(tmp_path, ending):
    whole = sum_over_targets(of_two_texts([0, 0, 1, 1, 1]))
    loaded = LensResult.load(whole.save(tmp_path / f"sum.{ending}"))
    assert loaded.targets == whole.targets and loaded.provenance == whole.provenance
    assert_identical(loaded.values, whole.values)
    assert len(loaded.to_frame()) == 2
