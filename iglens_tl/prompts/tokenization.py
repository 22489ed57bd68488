"""Turning text to token ids and back, with any tokenizer."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

_strings: weakref.WeakKeyDictionary[Any, dict[int, str]] = weakref.WeakKeyDictionary()

_STOP_TOKENS = ("<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<end_of_turn>")


@runtime_checkable
class TokenizingModel(Protocol):
    """What of a model turns text to token ids and back: a `ModelAdapter`, or it without weights."""

    @property
    def name(self) -> str:
        """The model's name for people."""
        ...

    @property
    def n_ctx(self) -> int:
        """Longest sequence that the model takes."""
        ...

    @property
    def d_vocab(self) -> int:
        """Number of input tokens."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        ...

    @property
    def model(self) -> Any:
        """What has TransformerLens' `to_tokens`."""
        ...


@dataclass(frozen=True)
class WithoutWeights:
    """All of a model that texts are tokenised with, for processes that do not run it.

    Attributes:
        name: The model's name for people.
        n_ctx: Longest sequence that the model takes.
        d_vocab: Number of input tokens.
        tokenizer: The Hugging Face tokenizer, or None.
        model: Has `to_tokens` of the model's class.
    """

    name: str
    n_ctx: int
    d_vocab: int
    tokenizer: Any
    model: Any

    @classmethod
    def of(cls, adapter: TokenizingModel) -> WithoutWeights:
        """Take from a model what texts are tokenised with."""
        model = _ToTokens(type(adapter.model), adapter.model.cfg, adapter.tokenizer)
        return cls(adapter.name, adapter.n_ctx, adapter.d_vocab, adapter.tokenizer, model)


def encode_text(adapter: TokenizingModel, text: str, *, prepend_bos: bool | None) -> list[int]:
    """Tokenise a text as the model's own `to_tokens` does, without its silent truncation."""
    _require_tokenizer(adapter, "a text prompt")
    options = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
    return adapter.model.to_tokens(text, truncate=False, move_to_device=False, **options)[
        0
    ].tolist()


def render_chat(adapter: TokenizingModel, messages: Sequence[Mapping[str, Any]]) -> str:
    """Write chat messages as one text with the tokenizer's chat template.

    The opening of the assistant's turn is added unless the last message is the assistant's.

    Raises:
        ValueError: Without a chat template, or if the template refuses the messages.
    """
    tokenizer = _require_tokenizer(adapter, "a chat prompt")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"the tokenizer of {adapter.name} has no chat template; pass plain text instead of "
            "chat messages, or set tokenizer.chat_template"
        )
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=messages[-1]["role"] != "assistant",
        )
    # Templates report messages that they do not accept by errors of the template engine.
    except Exception as error:
        raise ValueError(
            f"the chat template of {adapter.name} refuses these messages: {error}"
        ) from error


def encode_rendered(adapter: TokenizingModel, text: str) -> list[int]:
    """Tokenise a text that already holds its special tokens."""
    tokenizer = _require_tokenizer(adapter, "text")
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decode(adapter: TokenizingModel, ids: Sequence[int]) -> str:
    """Return the text of token ids, special tokens included."""
    return adapter.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def encode_continuation(adapter: TokenizingModel, prefix: str, continuation: str) -> list[int]:
    """Tokenise what follows a text, as it is tokenised there.

    A continuation on its own may be tokenised differently, for instance with a leading space.

    Raises:
        ValueError: If the continuation is empty or merges with the last token of the prefix.
    """
    if not continuation:
        raise ValueError("the continuation is empty; give at least one token")
    before = encode_rendered(adapter, prefix)
    both = encode_rendered(adapter, prefix + continuation)
    if both[: len(before)] != before or len(both) == len(before):
        raise ValueError(
            f"{continuation!r} merges with the end of the prompt into other tokens; begin it with "
            "a space or a newline, or give token ids"
        )
    return both[len(before) :]


def token_string(adapter: TokenizingModel, token_id: int) -> str:
    """Return a token as it looks inside a text, with its leading space."""
    if adapter.tokenizer is None:
        return f"<{token_id}>"
    # To ask a tokenizer takes as long as a small model takes for a token.
    known = _strings.setdefault(adapter.tokenizer, {})
    if token_id not in known:
        # Some tokenizers drop the space of the first token, so the second of two is read.
        once, twice = decode(adapter, [token_id]), decode(adapter, [token_id, token_id])
        known[token_id] = twice[len(once) :] if twice.startswith(once) else once
    return known[token_id]


def stop_ids(adapter: TokenizingModel) -> set[int]:
    """Return the tokens that end a generated answer."""
    tokenizer = adapter.tokenizer
    if tokenizer is None:
        return set()
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[token] for token in _STOP_TOKENS if token in vocabulary}
    config = getattr(getattr(adapter.model, "original_model", None), "generation_config", None)
    for eos in (tokenizer.eos_token_id, getattr(config, "eos_token_id", None)):
        ids.update(eos if isinstance(eos, (list, tuple)) else [eos])
    return ids - {None}


def _require_tokenizer(adapter: TokenizingModel, what: str) -> Any:
    if adapter.tokenizer is None:
        raise ValueError(
            f"{adapter.name} has no tokenizer, so {what} needs to be token ids; for "
            "texts load the model with it: load_model(hf_model, tokenizer=tokenizer)"
        )
    return adapter.tokenizer


@dataclass(frozen=True)
class _ToTokens:
    """A model's way to tokenise, which reads its configuration and its tokenizer alone."""

    model_class: type
    cfg: Any
    tokenizer: Any

    def to_tokens(self, *arguments: Any, **options: Any) -> Any:
        return self.model_class.to_tokens(self, *arguments, **options)
