"""Cutting long texts, and naming kinds of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iglens_tl.corpus.kinds import KINDS, kinds_of
from iglens_tl.corpus.windows import windows_of


@given(st.data())
def test_every_token_but_the_first_is_a_target_once_with_its_own_context(data):
    n_tokens = data.draw(st.integers(2, 60), label="tokens")
    length = data.draw(st.integers(3, 20), label="length")
    overlap = data.draw(st.integers(1, length - 2), label="overlap")
    has_bos = data.draw(st.booleans(), label="bos")
    ids = list(range(100, 100 + n_tokens))
    windows = list(windows_of(ids, length=length, overlap=overlap, has_bos=has_bos))
    read = []
    for number, window in enumerate(windows):
        assert window.number == number and len(window.ids) <= length
        assert not has_bos or window.ids[0] == ids[0]
        for place in window.targets:
            position = place + window.shift
            read.append(position)
            assert window.ids[place + 1] == ids[position + 1]
            if position and window.ids[place] != ids[0]:
                assert window.ids[place] == ids[position]
        # What stands before the targets is the text's own, as much of it as was asked for.
        first = window.targets.start
        if number:
            own = window.ids[has_bos : first + 1]
            start = window.targets.start + window.shift - overlap + 1
            assert list(own) == ids[start : start + overlap]
    assert read == list(range(n_tokens - 1))


def test_a_text_that_fits_is_one_window():
    (window,) = windows_of([5, 6, 7], length=3, overlap=1, has_bos=True)
    assert window.ids == (5, 6, 7) and list(window.targets) == [0, 1] and window.shift == 0


@pytest.mark.parametrize(
    ("tokens", "kinds"),
    [
        (["The", " cap", "ital", "."], ["word begin", "word begin", "word piece", "punctuation"]),
        ([" 1", "9", "th"], ["number", "number", "word piece"]),
        (["\n", "He", " "], ["whitespace", "word begin", "whitespace"]),
        ([" (", "x"], ["punctuation", "word begin"]),
        (["a\n", "b"], ["word begin", "word begin"]),
        (["ä", "ö"], ["word begin", "word piece"]),
    ],
)
def test_a_token_is_of_the_kind_of_its_first_sign(tokens, kinds):
    assert kinds_of(tokens, range(len(tokens)), frozenset()) == kinds
    assert set(kinds) <= set(KINDS)


def test_special_tokens_are_of_a_kind_of_their_own():
    assert kinds_of(["<s>", "a", "b"], [1, 7, 8], frozenset([1])) == [
        "special",
        "word begin",
        "word piece",
    ]
