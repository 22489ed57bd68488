"""What users pass as a prompt, brought to one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.prompts.tokenization import decode, encode_rendered, encode_text, render_chat

if TYPE_CHECKING:
    SinglePrompt: TypeAlias = str | Sequence[int] | torch.Tensor | Sequence[Mapping[str, Any]]
    PromptLike: TypeAlias = SinglePrompt | Sequence[SinglePrompt]
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
        prompt: A text, chat messages (mappings with "role" and "content"), token ids (integers or
            a tensor of one axis), or a list of any of these or a tensor of two axes (a batch).
        prepend_bos: Whether a text starts with the beginning-of-sequence token; None follows the
            model's default, as `model.to_tokens` does. Chat templates and token ids bring theirs.

    Returns:
        The prompts, and whether a batch was given.

    Raises:
        TypeError: For anything else.
        ValueError: For an empty prompt, unknown token ids, or a prompt that is too long.
    """
    if isinstance(prompt, (torch.Tensor, np.ndarray)):
        if prompt.ndim not in (1, 2):
            raise ValueError(
                f"token ids need one axis, or two for a batch; got shape {tuple(prompt.shape)}"
            )
        prompt = _integers(prompt)
    if not isinstance(prompt, (str, list, tuple)):
        raise TypeError(
            "prompt must be a text, chat messages, token ids or a list of these, "
            f"got {type(prompt).__name__}"
        )
    if not prompt:
        raise ValueError("the prompt is empty; give at least one token of text")
    if not _is_batch(prompt):
        return [_as_prompt(adapter, prompt, prepend_bos)], False
    prompts = []
    for index, single in enumerate(prompt):
        try:
            prompts.append(_as_prompt(adapter, single, prepend_bos))
        except (TypeError, ValueError) as error:
            raise type(error)(f"prompt {index} of the batch: {error}") from error
    return prompts, True


def check_length(adapter: ModelAdapter, length: int, what: str) -> None:
    """Raise a `ValueError` if a text does not fit into the model's context."""
    if length > adapter.n_ctx:
        raise ValueError(
            f"{what} has {length} tokens but {adapter.name} takes at most {adapter.n_ctx}; "
            "shorten it"
        )


def _is_batch(prompt: Any) -> bool:
    return not isinstance(prompt, str) and not isinstance(prompt[0], (int, np.integer, Mapping))


def _as_prompt(adapter: ModelAdapter, prompt: Any, prepend_bos: bool | None) -> Prompt:
    if isinstance(prompt, str):
        if not prompt:
            raise ValueError("the prompt is empty; give at least one token of text")
        ids, text = encode_text(adapter, prompt, prepend_bos=prepend_bos), prompt
    elif isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        text = render_chat(adapter, _messages(prompt))
        ids = encode_rendered(adapter, text)
    else:
        ids = _token_ids(adapter, prompt)
        text = None if adapter.tokenizer is None else decode(adapter, ids)
    if not ids:
        raise ValueError("the prompt has no tokens; give at least one token of text")
    check_length(adapter, len(ids), "the prompt")
    return Prompt(tuple(ids), text)


def _messages(messages: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(
                f"chat messages are mappings with 'role' and 'content', got {message!r}"
            )
    return messages


def _token_ids(adapter: ModelAdapter, ids: Any) -> list[int]:
    if isinstance(ids, (torch.Tensor, np.ndarray)):
        ids = _integers(ids)
    if not isinstance(ids, (list, tuple)) or not all(_is_int(token) for token in ids):
        raise TypeError(
            f"a prompt must be a text, chat messages or integer token ids, got {type(ids).__name__}"
        )
    ids = [int(token) for token in ids]
    unknown = [token for token in ids if not 0 <= token < adapter.d_vocab]
    if unknown:
        raise ValueError(
            f"token id {unknown[0]} is not in the vocabulary of {adapter.name} "
            f"(0 to {adapter.d_vocab - 1})"
        )
    return ids


def _integers(ids: torch.Tensor | np.ndarray) -> list[Any]:
    array = ids.cpu().numpy() if isinstance(ids, torch.Tensor) else ids
    if array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {ids.dtype}")
    return array.tolist()


def _is_int(token: Any) -> bool:
    return isinstance(token, (int, np.integer)) and not isinstance(token, bool)
