"""Packs short documents into windows of fixed length."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from experiments.demo_model.corpus import Document, document_text

# What a token that leads to an answer weighs in the loss; the answer's own tokens weigh 1. Most
# of the rest is which name or country comes next, which nothing can predict.
PROMPT_WEIGHT = 0.1

_OPEN_ROWS = 16  # that a document may still join


class Windows(NamedTuple):
    """Holds packed windows.

    Attributes:
        tokens: Token ids, [window, position].
        weights: Weight of each token as a target of the loss, [window, position].
    """

    tokens: Tensor
    weights: Tensor


def pack_documents(
    documents: Sequence[Document], tokenizer: PreTrainedTokenizerFast, length: int
) -> Windows:
    """Encode documents as <bos> ... <eos> and fill windows with as many as fit, in order."""
    end, pad = str(tokenizer.eos_token), tokenizer.pad_token_id
    assert isinstance(pad, int)
    texts = [document_text(document) + end for document in documents]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    rows: list[list[int]] = []
    weights: list[list[float]] = []
    for document, ids, offsets in zip(
        documents, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if len(ids) > length:
            continue
        row = _row_with_room(rows, length - len(ids))
        if row == len(rows):
            rows.append([])
            weights.append([])
        rows[row] += ids
        weights[row] += _token_weights(document, offsets)
    return Windows(
        tokens=_padded(rows, length, pad, torch.int16),
        weights=_padded(weights, length, 0.0, torch.float16),
    )


def document_mask(tokens: Tensor, bos: int) -> Tensor:
    """Let each position attend to earlier positions of its own document only.

    Returns:
        A Boolean mask, [window, 1, query, key].
    """
    document = (tokens == bos).cumsum(-1)
    same = document[:, None, :, None] == document[:, None, None, :]
    return same.tril()


def document_positions(tokens: Tensor, bos: int) -> Tensor:
    """Number the positions of each document from zero, as when it stands alone."""
    index = torch.arange(tokens.shape[-1], device=tokens.device).expand_as(tokens)
    starts = torch.where(tokens == bos, index, 0).cummax(-1).values
    return index - starts


def _row_with_room(rows: Sequence[Sequence[int]], longest: int) -> int:
    """Find a row of at most this length among the latest ones, or else a new row."""
    candidates = range(max(0, len(rows) - _OPEN_ROWS), len(rows))
    return next((row for row in candidates if len(rows[row]) <= longest), len(rows))


def _token_weights(document: Document, offsets: Sequence[tuple[int, int]]) -> list[float]:
    """Weigh each token by the piece of the document in which it starts."""
    weights = [PROMPT_WEIGHT]  # of <bos>, which is never a target
    spans = iter(document)
    end, weight = 0, 0.0
    for start, _ in offsets[1:]:
        while start >= end and (span := next(spans, None)):
            end += len(span.text)
            weight = 1.0 if span.is_answer else PROMPT_WEIGHT
        weights.append(weight)
    return weights


def _padded(rows: Sequence[Sequence], length: int, fill: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows], dtype=dtype)
