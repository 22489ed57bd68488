"""Make token sequences of texts, and run a model over them in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture

PUBLISHED_SEQ_LEN = 2048

NO_TOKEN = -1
"""The token behind the end of a sequence that is shorter than others."""

if TYPE_CHECKING:
    TextsOrIds: TypeAlias = str | Sequence[str] | Sequence[Sequence[int]] | Tensor
else:  # anything may arrive here; it is answered with a readable error
    TextsOrIds = Any

TOKENS_PER_PASS = 4096
"""The most tokens that share a forward pass and are held with all their states; one sequence
at least."""


def pack_texts(
    adapter: ModelAdapter,
    texts_or_ids: TextsOrIds,
    *,
    seq_len: int | None = None,
    pack: bool = True,
) -> Int[Tensor, "batch pos"]:
    """Make sequences of texts.

    Every text begins with the beginning-of-sequence token where the model expects one and ends with
    the end-of-sequence token, unless that is the same token.

    Args:
        adapter: The model.
        texts_or_ids: A text, several texts, several lists of token ids that hold their special
            tokens, or sequences `[batch, pos]`, which are kept as they are.
        seq_len: Length of a sequence; by default 2048, or the longest that the model takes.
        pack: Whether texts follow one another and are cut into sequences of equal length, without
            what fills none at the end. Otherwise every text is a sequence of its own, cut off at
            `seq_len`.

    Returns:
        Token ids, with `NO_TOKEN` behind the end of shorter sequences.

    Raises:
        TypeError: For anything else.
        ValueError: For a length that does not fit the model, unknown token ids, or too little text.
    """
    if isinstance(texts_or_ids, Tensor):
        return _given(adapter, texts_or_ids)
    documents = _documents(adapter, texts_or_ids)
    for document in documents:
        _require_known(adapter, min(document), max(document))
    seq_len = min(PUBLISHED_SEQ_LEN, adapter.n_ctx) if seq_len is None else seq_len
    if isinstance(seq_len, bool) or not 2 <= seq_len <= adapter.n_ctx:
        raise ValueError(
            f"seq_len must lie between 2 and {adapter.n_ctx}, the longest sequence that "
            f"{adapter.name} takes; got {seq_len!r}"
        )
    if pack:
        stream = torch.tensor([token for document in documents for token in document]).long()
        n_sequences = len(stream) // seq_len
        if not n_sequences:
            raise ValueError(
                f"the text is too short: it has {len(stream)} tokens, which fill no sequence of "
                f"{seq_len}; give more text or a smaller seq_len"
            )
        return stream[: n_sequences * seq_len].view(n_sequences, seq_len)
    rows = [torch.tensor(document[:seq_len]) for document in documents if len(document) > 1]
    if not rows:
        raise ValueError("the text is too short: no text has two tokens; give more text")
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_TOKEN)


def encode_texts(adapter: ModelAdapter, texts: list[str]) -> list[list[int]]:
    """Tokenise texts, each with its special tokens.

    Raises:
        ValueError: For a model without a tokenizer.
    """
    tokenizer = adapter.tokenizer
    if tokenizer is None:
        raise ValueError(f"{adapter.name} has no tokenizer, so give token ids in place of texts")
    texts = [text for text in texts if text]
    if not texts:
        return []
    wants_bos = getattr(adapter.model.cfg, "default_prepend_bos", True)
    bos = [tokenizer.bos_token_id] if wants_bos and tokenizer.bos_token_id is not None else []
    eos = [] if tokenizer.eos_token_id in (None, *bos) else [tokenizer.eos_token_id]
    # `verbose` would warn that a whole text is longer than the model's context.
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [[*bos, *ids, *eos] for ids in encoded]


def lens_sites(adapter: ModelAdapter) -> list[str]:
    """Return the hooks of the states: the inputs of all blocks, then the output of the last."""
    posts = [adapter.post_site(layer) for layer in range(adapter.n_layers)]
    return [adapter.embed_site, *posts]


def lens_segments(adapter: ModelAdapter) -> tuple[str, ...]:
    """Return the segments at whose ends those states are."""
    return ("embed", *(f"L{layer}" for layer in range(adapter.n_layers)))


def state_batches(
    adapter: ModelAdapter, sequences: Int[Tensor, "batch pos"]
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Run the model over sequences and yield ids and states of some at a time.

    Yields:
        Token ids `[batch, pos]` and by hook the states `[row, d_model]` of all their tokens, in the
        readout's precision and on its device.
    """
    device, dtype = adapter.readout.device, adapter.readout.dtype
    for batch in sequences.split(max(1, TOKENS_PER_PASS // sequences.shape[1])):
        present = batch != NO_TOKEN
        batch = batch[:, : int(present.sum(1).max())]
        present = present[:, : batch.shape[1]].flatten()
        rows = present.nonzero().squeeze(-1)

        def keep(activation: Tensor, rows: Tensor = rows) -> Tensor:
            # A copy, because later blocks may write into what they were given.
            return activation.flatten(0, 1)[rows.to(activation.device)].to(device, dtype)

        readers: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(lens_sites(adapter), keep)
        # Whatever stands behind the end of a sequence is seen by no token of it.
        yield batch, capture(adapter, batch.clamp_min(0), readers)


def _given(adapter: ModelAdapter, sequences: Tensor) -> Tensor:
    if sequences.ndim != 2 or sequences.dtype.is_floating_point or not sequences.numel():
        raise TypeError(
            "token ids must be an integer tensor [batch, pos], got "
            f"{sequences.dtype} {tuple(sequences.shape)}"
        )
    if sequences.shape[1] > adapter.n_ctx:
        raise ValueError(
            f"the sequences have {sequences.shape[1]} tokens, but {adapter.name} takes "
            f"{adapter.n_ctx}"
        )
    sequences = sequences.long().cpu()
    present = sequences != NO_TOKEN
    if bool((present[:, 1:] & ~present[:, :-1]).any()) or not bool(present[:, 0].all()):
        raise ValueError(f"{NO_TOKEN} may only follow the end of a sequence")
    of_tokens = sequences[present]
    _require_known(adapter, int(of_tokens.min()), int(of_tokens.max()))
    return sequences


def _require_known(adapter: ModelAdapter, smallest: int, largest: int) -> None:
    if not 0 <= smallest <= largest < adapter.d_vocab:
        raise ValueError(
            f"token ids must lie between 0 and {adapter.d_vocab - 1}, got {smallest} to {largest}"
        )


def _documents(adapter: ModelAdapter, texts_or_ids: TextsOrIds) -> list[list[int]]:
    documents = [texts_or_ids] if isinstance(texts_or_ids, str) else texts_or_ids
    if not isinstance(documents, Sequence) or isinstance(documents, (bytes, bytearray)):
        raise TypeError(
            "give a text, a list of texts, lists of token ids or a tensor of them, got "
            f"{type(documents).__name__}"
        )
    if all(isinstance(document, str) for document in documents):
        return encode_texts(adapter, [str(document) for document in documents])
    for document in documents:
        if (
            isinstance(document, str)
            or not isinstance(document, Sequence)
            or any(isinstance(token, bool) or not isinstance(token, int) for token in document)
        ):
            raise TypeError(
                "give either texts or lists of token ids, got a list with "
                f"{type(document).__name__} {document!r:.60}"
            )
    return [[int(token) for token in document] for document in documents if len(document)]
