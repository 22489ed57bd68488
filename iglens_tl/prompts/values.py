"""Values whose tokens are given as text."""

from __future__ import annotations

from functools import partial

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.prompts.requests import Token, checked_token_id
from iglens_tl.prompts.tokenization import (
    encode_continuation,
    encode_rendered,
    token_string,
)
from iglens_tl.readout import Value, ValueLike, resolve_value

_CONTEXTS = ("A", "\n", ":")


def bind_value(adapter: ModelAdapter, value: ValueLike) -> Value:
    """Return a value, given by name or as it is, with the tokens it names as ids.

    Raises:
        TypeError: For anything that is neither a name nor a `Value`.
        ValueError: For an unknown name, a text that is no single token, an id outside the
            vocabulary, or a token that is named twice.
    """
    return resolve_value(value).with_token_ids(partial(_token_id, adapter))


def _token_id(adapter: ModelAdapter, token: Token) -> int:
    if not isinstance(token, str):
        return checked_token_id(adapter, token, "value")
    if adapter.tokenizer is None:
        raise ValueError(f"{adapter.name} has no tokenizer, so the value needs token ids")
    found: list[int] = []
    unknown = adapter.tokenizer.unk_token_id
    # How a token is written may depend on what stands before it, and no text is given here.
    for context in _CONTEXTS:
        if unknown in encode_rendered(adapter, context):
            continue  # it would swallow the beginning of the token
        try:
            found = encode_continuation(adapter, context, token)
        except ValueError:
            continue
        if len(found) == 1:
            break
    if not found or (unknown in found and token != adapter.tokenizer.unk_token):
        raise ValueError(f"the value names {token!r}, not in the vocabulary of {adapter.name}")
    if len(found) > 1:
        parts = [token_string(adapter, part) for part in found]
        raise ValueError(
            f"the value names {token!r}, which is {len(found)} tokens for {adapter.name}: {parts}; "
            "name single tokens, or give token ids"
        )
    return found[0]
