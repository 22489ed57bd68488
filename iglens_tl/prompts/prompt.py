"""Bringing what users pass as a prompt to one form.

A prompt is a text, a chat (mappings with "role" and "content") or token ids. A batch is any
iterable of these: a list, a generator, an array, a column of pandas, pyarrow or `datasets`.
What could be read in two ways is read in one:

- integers are the token ids of one prompt, whatever holds them. A batch of token ids holds lists,
  tuples, arrays or tensors of integers, or is an array or a tensor of two axes;
- mappings are the messages of one chat. A batch of chats holds lists of them;
- anything else that is no text is a batch, also if it holds one prompt only, and even if it is a
  list of one text.

A generator is read once, from its beginning to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from io import IOBase
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.prompts.tokenization import (
    TokenizingModel,
    decode,
    encode_rendered,
    encode_text,
    render_chat,
)

if TYPE_CHECKING:
    SinglePrompt: TypeAlias = (
        str | Sequence[int] | np.ndarray | torch.Tensor | Sequence[Mapping[str, Any]]
    )
    PromptLike: TypeAlias = SinglePrompt | Iterable[SinglePrompt]
else:  # anything may arrive here; `as_prompts` answers with a readable error
    SinglePrompt = Any
    PromptLike = Any


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        ids: The token ids, special tokens included.
        text: The text that a continuation is tokenised after; None without a tokenizer.
    """

    ids: tuple[int, ...]
    text: str | None


def as_prompts(
    adapter: ModelAdapter, prompt: PromptLike, *, prepend_bos: bool | None = None
) -> tuple[list[Prompt], bool]:
    """Tokenise a prompt or a batch of prompts.

    Args:
        adapter: The model.
        prompt: A text, chat messages (mappings with "role" and "content"), token ids (integers in
            a list, an array or a tensor of one axis), or any iterable of these (a batch).
        prepend_bos: Whether a text starts with the beginning-of-sequence token; None follows the
            model's default, as `model.to_tokens` does. Chat templates and token ids bring theirs.

    Returns:
        The prompts, and whether a batch was given.

    Raises:
        TypeError: For anything else.
        ValueError: For an empty prompt, unknown token ids, or a prompt that is too long. In a
            batch, errors name the prompt's index.
    """
    if not isinstance(prompt, str):
        prompt = _as_list(prompt)
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token of text")
    if not _is_batch(prompt):
        return [_as_prompt(adapter, prompt, prepend_bos)], False
    prompts = []
    for index, single in enumerate(prompt):
        with naming_prompt(index):
            prompts.append(_as_prompt(adapter, single, prepend_bos))
    return prompts, True


@contextmanager
def naming_prompt(index: int, *, of_batch: bool = True) -> Iterator[None]:
    """Let errors begin with the index of the prompt to which they belong."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not of_batch:
            raise
        raise type(error)(f"prompt {index} of the batch: {error}") from error


def encode_prompt(
    adapter: TokenizingModel, prompt: SinglePrompt, *, prepend_bos: bool | None = None
) -> Prompt:
    """Tokenise one prompt, however long it is.

    Args:
        adapter: The model.
        prompt: A text, chat messages or token ids.
        prepend_bos: As in `as_prompts`.

    Raises:
        TypeError: For anything else.
        ValueError: For an empty prompt, or unknown token ids.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise ValueError("the prompt is empty; give at least one token of text")
        ids, text = encode_text(adapter, prompt, prepend_bos=prepend_bos), prompt
    else:
        if isinstance(prompt, (torch.Tensor, np.ndarray)) and _is_numeric(prompt):
            elements = _integers(prompt) if prompt.ndim else None
        else:
            elements = as_plain_list(prompt)
        if elements and isinstance(elements[0], Mapping):
            text = render_chat(adapter, _messages(elements))
            ids = encode_rendered(adapter, text)
        else:
            ids = _token_ids(adapter, prompt, elements)
            text = None if adapter.tokenizer is None else decode(adapter, ids)
    if not ids:
        raise ValueError("the prompt has no tokens; give at least one token of text")
    return Prompt(tuple(ids), text)


def check_length(adapter: ModelAdapter, length: int, what: str) -> None:
    """Raise a `ValueError` if a text does not fit into the model's context."""
    if length > adapter.n_ctx:
        raise ValueError(
            f"{what} has {length} tokens but {adapter.name} takes at most {adapter.n_ctx}; "
            "shorten it"
        )


def as_plain_list(values: Any) -> list[Any] | None:
    """Return what an iterable holds, read once, or None for what has no elements in an order.

    Elements of arrays, tensors and columns become Python objects as far as these know how.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    for name in ("tolist", "to_pylist", "to_list"):  # NumPy and pandas; pyarrow; polars
        if hasattr(values, name):
            plain = getattr(values, name)()
            return plain if isinstance(plain, list) else None
    if isinstance(values, (str, bytes, bytearray, Mapping, Set)) or not isinstance(
        values, Iterable
    ):
        return None
    return list(values)


def _as_list(prompt: Any) -> list[Any]:
    """Return the elements of a prompt that is no text."""
    if isinstance(prompt, (PathLike, IOBase)) or hasattr(prompt, "readline"):
        raise TypeError(
            "prompt is a file; read it with iglens_tl.prompts.read_prompts(path), or give a text"
        )
    if isinstance(prompt, (torch.Tensor, np.ndarray)) and _is_numeric(prompt):
        if prompt.ndim not in (1, 2):
            raise ValueError(
                f"token ids need one axis, or two for a batch; got shape {tuple(prompt.shape)}"
            )
        return _integers(prompt)
    columns = getattr(prompt, "column_names", getattr(prompt, "columns", None))
    if columns is not None:
        names = ", ".join(str(name) for name in list(columns)[:6])
        raise TypeError(f"prompt is a table; give one of its columns ({names})")
    plain = as_plain_list(prompt)
    if plain is None:
        raise TypeError(
            "prompt must be a text, chat messages, token ids or a list of these, "
            f"got {type(prompt).__name__}"
        )
    return plain


def _is_numeric(array: torch.Tensor | np.ndarray) -> bool:
    """Return whether an array holds numbers, and no texts or other objects."""
    return isinstance(array, torch.Tensor) or array.dtype.kind not in "OUT"


def _is_batch(prompt: Any) -> bool:
    return not isinstance(prompt, str) and not (
        _is_int(prompt[0]) or isinstance(prompt[0], Mapping)
    )


def _as_prompt(adapter: ModelAdapter, prompt: Any, prepend_bos: bool | None) -> Prompt:
    encoded = encode_prompt(adapter, prompt, prepend_bos=prepend_bos)
    check_length(adapter, len(encoded.ids), "the prompt")
    return encoded


def _messages(messages: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(
                f"chat messages are mappings with 'role' and 'content', got {message!r}"
            )
    return messages


def _token_ids(adapter: TokenizingModel, prompt: Any, elements: list[Any] | None) -> list[int]:
    if elements is None or not all(_is_int(token) for token in elements):
        raise TypeError(
            "a prompt must be a text, chat messages or integer token ids, "
            f"got {_described(prompt, elements)}"
        )
    ids = [int(token) for token in elements]
    unknown = [token for token in ids if not 0 <= token < adapter.d_vocab]
    if unknown:
        raise ValueError(
            f"token id {unknown[0]} is not in the vocabulary of {adapter.name} "
            f"(0 to {adapter.d_vocab - 1})"
        )
    return ids


def _described(prompt: Any, elements: list[Any] | None) -> str:
    """Say what was given, so that a missing value or a batch in a batch can be seen."""
    kind = type(prompt).__name__
    if elements is None:
        return f"{kind} {prompt!r:.40}" if prompt is None or isinstance(prompt, float) else kind
    wrong = next(element for element in elements if not _is_int(element))
    return f"{kind} that holds {type(wrong).__name__} {wrong!r:.40}"


def _integers(ids: torch.Tensor | np.ndarray) -> list[Any]:
    array = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids
    if array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {ids.dtype}")
    return array.tolist()


def _is_int(token: Any) -> bool:
    return isinstance(token, (int, np.integer)) and not isinstance(token, bool)
