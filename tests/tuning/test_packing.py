"""How texts become sequences to train on, and which texts are refused."""

from __future__ import annotations

import pytest
import torch

from iglens_tl import train_tuned_lens
from iglens_tl.models import adapt
from iglens_tl.tuning import pack_texts


def test_texts_are_packed_with_special_tokens_between_them(toy):
    adapter = adapt(toy)
    packed = pack_texts(adapter, ["w5 w6", "w7", "", "w8 w9 w10"], seq_len=4)
    assert packed.tolist() == [[1, 5, 6, 2], [1, 7, 2, 1], [8, 9, 10, 2]]
    apart = pack_texts(adapter, ["w5 w6", "w7", "w8 w9 w10"], seq_len=4, pack=False)
    assert apart.tolist() == [[1, 5, 6, 2], [1, 7, 2, -1], [1, 8, 9, 10]]
    given = pack_texts(adapter, [[3, 4, 5], [6]], seq_len=2)
    assert given.tolist() == [[3, 4], [5, 6]]
    assert pack_texts(adapter, "w5 " * 200).shape[1] == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w5 w6", "too short: it has 4 tokens, which fill no sequence of 8"),
        ([[5, 6, 7, 8, 9, 10, 11, 12]], "too short to train on: its 8 tokens cannot determine"),
        ([], "too short: it has 0 tokens"),
        ([[5, 97]], "between 0 and 96, got 5 to 97"),
        (torch.full((2, 3), 97), "between 0 and 96, got 97 to 97"),
        (torch.tensor([[3, -1, 4]]), "-1 may only follow the end"),
        (torch.zeros(2, 65).long(), "have 65 tokens, but .* takes 64"),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_refused(toy, text, message):
    with pytest.raises(ValueError, match=message):
        train_tuned_lens(toy, text, seq_len=8, progress=False)


@pytest.mark.parametrize("text", [3, b"bytes", ["w5", [5]], [[True, False]], torch.zeros(2, 2)])
def test_what_is_no_text_is_refused(toy, text):
    with pytest.raises(TypeError, match="give a text|give either texts or|integer tensor"):
        train_tuned_lens(toy, text, progress=False)
