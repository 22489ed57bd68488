"""Choosing which tokens of a text are attributed, and from which positions they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.batching import pad_right, padding_is_harmless, shared_passes
from iglens_tl.models.capture import capture
from iglens_tl.prompts.prompt import (
    Prompt,
    PromptLike,
    as_plain_list,
    as_prompts,
    check_length,
    naming_prompt,
)
from iglens_tl.prompts.tokenization import (
    decode,
    encode_continuation,
    encode_rendered,
    stop_ids,
    token_string,
)
from iglens_tl.readout import Token, Value, ValueLike, most_probable_token, resolve_value

if TYPE_CHECKING:
    Tokens: TypeAlias = Token | Iterable[Token] | Iterable[Iterable[Token]]
else:  # anything may arrive here; it is answered with a readable error
    Tokens = Any

# What stands before a token that is given without a text, one after the other.
_CONTEXTS = ("A", "\n", ":")


@dataclass(frozen=True)
class Request:
    """The token ids of one text and what to attribute in it.

    Attributes:
        ids: The text, answer or generated tokens included.
        positions: For each target the position whose residual state predicts it.
        target_ids: The target tokens.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    target_ids: tuple[int, ...]


def build_requests(
    adapter: ModelAdapter,
    prompt: PromptLike,
    *,
    answer: Tokens | None = None,
    generate: Any = None,
    targets: Tokens | None = None,
    prepend_bos: bool | None = None,
) -> list[Request]:
    """Turn a prompt or batch and one way of choosing targets into requests.

    Without `answer`, `generate` or `targets`, every next token of the text is a target.

    With a batch, `answer` and `targets` have an entry for each prompt, or hold for all of them.
    They have entries if they are a column (of pandas, pyarrow or `datasets`), or if they hold
    lists; `answer` also if it holds texts. Everything else holds for all prompts: one text,
    integers, which are the ids of one answer, and a list of candidates.

    Args:
        adapter: The model.
        prompt: What `as_prompts` takes.
        answer: Attribute these tokens, given as text or ids, after the prompt.
        generate: Attribute up to this many greedily generated tokens.
        targets: Attribute these candidates, single tokens as text or ids, for the position after
            the prompt.
        prepend_bos: Whether a text starts with the beginning-of-sequence token; None follows the
            model's default.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For more than one way, or targets that do not exist. In a batch, errors name the
            prompt's index.
    """
    given = {"answer": answer, "generate": generate, "targets": targets}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(
            f"give only one of answer, generate and targets; got {' and '.join(chosen)}"
        )
    prompts, is_batch = as_prompts(adapter, prompt, prepend_bos=prepend_bos)
    if generate is not None:
        return _generate(adapter, prompts, generate, is_batch=is_batch)
    make: Callable[..., Request] = _every_next_token
    choices: list[Any] = [None] * len(prompts)
    if answer is not None:
        make, choices = _answer, per_prompt(answer, len(prompts), "answer", is_batch)
    if targets is not None:
        make, choices = _candidates, per_prompt(targets, len(prompts), "targets", is_batch)
    requests = []
    for index, (single, choice) in enumerate(zip(prompts, choices, strict=True)):
        with naming_prompt(index, of_batch=is_batch):
            requests.append(make(adapter, single, choice))
    return requests


def resolve_token(adapter: ModelAdapter, request: Request, token: Token) -> int:
    """Return the id of one more token for the first attributed position of a request.

    Raises:
        TypeError: For anything but a text or an id.
        ValueError: For a text that is no single token, or an unknown id.
    """
    if not isinstance(token, str):
        return checked_token_id(adapter, token, "contrast")
    before = request.ids[: request.positions[0] + 1]
    text = None if adapter.tokenizer is None else decode(adapter, before)
    return _single_token(adapter, Prompt(before, text), token)


def bind_value(adapter: ModelAdapter, value: ValueLike) -> Value:
    """Return a value, given by name or as it is, with the tokens it names as ids.

    Raises:
        TypeError: For anything that is neither a name nor a `Value`.
        ValueError: For an unknown name, a text that is no single token, an id outside the
            vocabulary, or a token that is named twice.
    """
    return resolve_value(value).with_token_ids(partial(_value_token, adapter))


def per_prompt(choice: Any, n_prompts: int, what: str, is_batch: bool) -> list[Any]:
    """Return one choice per prompt, as `build_requests` tells entries and shared choices apart.

    Raises:
        ValueError: If there is one entry for each of another number of prompts.
    """
    plain = None if isinstance(choice, str) else as_plain_list(choice)
    if not is_batch or plain is None:
        return [choice if plain is None else plain] * n_prompts
    kinds = (list, tuple, torch.Tensor, np.ndarray)
    if what == "answer":
        kinds = (*kinds, str)
    usual = (list, tuple, torch.Tensor, np.ndarray)
    is_column = hasattr(choice, "__len__") and not isinstance(choice, usual)
    if not is_column and not any(isinstance(entry, kinds) for entry in plain):
        return [plain] * n_prompts
    if len(plain) != n_prompts:
        raise ValueError(f"got {n_prompts} prompts but {len(plain)} entries of {what}")
    return plain


def _every_next_token(adapter: ModelAdapter, prompt: Prompt, choice: None) -> Request:
    del adapter, choice
    if len(prompt.ids) < 2:
        raise ValueError(
            "the text is a single token, so it has no next token to attribute; give a longer text, "
            "or answer, generate or targets"
        )
    return Request(prompt.ids, tuple(range(len(prompt.ids) - 1)), prompt.ids[1:])


def _answer(adapter: ModelAdapter, prompt: Prompt, answer: Tokens) -> Request:
    if isinstance(answer, str):
        if prompt.text is None:
            raise ValueError(f"{adapter.name} has no tokenizer, so answer needs to be token ids")
        added = encode_continuation(adapter, prompt.text, answer)
    else:
        added = [checked_token_id(adapter, token, "answer") for token in _as_list(answer, "answer")]
    return _continued(adapter, prompt, added)


def _generate(
    adapter: ModelAdapter, prompts: Sequence[Prompt], n_tokens: Any, *, is_batch: bool
) -> list[Request]:
    """Continue greedily, stopping before an end-of-sequence token.

    A forward pass over whole texts makes one token of every text in it. That makes it the argmax of
    the very probabilities that are attributed, whatever hooks the model has.
    """
    if isinstance(n_tokens, bool) or not isinstance(n_tokens, int):
        raise TypeError(f"generate must be an integer, got {type(n_tokens).__name__}")
    if n_tokens < 1:
        raise ValueError(f"generate must be at least 1, got {n_tokens}")
    for index, prompt in enumerate(prompts):
        with naming_prompt(index, of_batch=is_batch):
            what = f"the prompt with {n_tokens} more tokens"
            check_length(adapter, len(prompt.ids) + n_tokens, what)
    if len({len(prompt.ids) for prompt in prompts}) > 1:
        # Once for the length that the texts may grow to, instead of once for every new token.
        longest = max((prompt.ids for prompt in prompts), key=len)
        padding_is_harmless(adapter, longest + longest[:1] * n_tokens)
    stops = stop_ids(adapter)
    added: list[list[int]] = [[] for _ in prompts]
    growing = list(range(len(prompts)))
    for _ in range(n_tokens):
        best = _next_tokens(adapter, [[*prompts[index].ids, *added[index]] for index in growing])
        found = dict(zip(growing, best, strict=True))
        growing = [index for index in growing if found[index] not in stops]
        for index in growing:
            added[index].append(found[index])
        if not growing:
            break
    requests = []
    for index, (prompt, tokens) in enumerate(zip(prompts, added, strict=True)):
        with naming_prompt(index, of_batch=is_batch):
            if not tokens:
                raise ValueError(
                    f"{adapter.name} ends the text right after the prompt, so nothing was "
                    "generated to attribute; change the prompt or give answer or targets"
                )
            requests.append(_continued(adapter, prompt, tokens))
    return requests


def _next_tokens(adapter: ModelAdapter, texts: Sequence[Sequence[int]]) -> list[int]:
    """Return the most probable token after each text."""
    site = adapter.post_site(adapter.n_layers - 1)
    best = [0] * len(texts)
    for batch in shared_passes(adapter, texts):
        last = [len(texts[index]) - 1 for index in batch]

        def read_ends(states: Tensor, last: Sequence[int] = last) -> Tensor:
            return states[list(range(len(last))), list(last)]

        tokens = pad_right([texts[index] for index in batch])
        states = capture(adapter, tokens, {site: read_ends})[site]
        for index, state in zip(batch, states, strict=True):
            best[index] = most_probable_token(adapter.readout, state)
    return best


def _continued(adapter: ModelAdapter, prompt: Prompt, added: list[int]) -> Request:
    ids = prompt.ids + tuple(added)
    check_length(adapter, len(ids), "the prompt with its answer")
    return Request(ids, tuple(range(len(prompt.ids) - 1, len(ids) - 1)), tuple(added))


def _candidates(adapter: ModelAdapter, prompt: Prompt, targets: Tokens) -> Request:
    ids = []
    for target in [targets] if isinstance(targets, str) else _as_list(targets, "targets"):
        if isinstance(target, str):
            ids.append(_single_token(adapter, prompt, target))
        else:
            ids.append(checked_token_id(adapter, target, "target"))
    repeated = [token for index, token in enumerate(ids) if token in ids[:index]]
    if repeated:
        raise ValueError(f"target {token_string(adapter, repeated[0])!r} is given twice")
    return Request(prompt.ids, (len(prompt.ids) - 1,) * len(ids), tuple(ids))


def _single_token(adapter: ModelAdapter, prompt: Prompt, target: str) -> int:
    if prompt.text is None:
        raise ValueError(f"{adapter.name} has no tokenizer, so targets need to be token ids")
    ids = encode_continuation(adapter, prompt.text, target)
    if len(ids) > 1:
        parts = [token_string(adapter, token) for token in ids]
        raise ValueError(
            f"target {target!r} is {len(ids)} tokens for {adapter.name}: {parts}; name one token, "
            "or attribute all of them with answer"
        )
    if ids[0] == adapter.tokenizer.unk_token_id and target != adapter.tokenizer.unk_token:
        raise ValueError(f"target {target!r} is not in the vocabulary of {adapter.name}")
    return ids[0]


def checked_token_id(adapter: ModelAdapter, token: Any, what: str) -> int:
    """Return a token id that the user gave, after checking that the vocabulary has it."""
    if isinstance(token, bool) or not hasattr(token, "__index__"):
        raise TypeError(f"{what} must be text or integer token ids, got {type(token).__name__}")
    index = token.__index__()
    if not 0 <= index < adapter.readout.d_vocab:
        raise ValueError(
            f"{what} token id {index} is not in the vocabulary of {adapter.name} "
            f"(0 to {adapter.readout.d_vocab - 1})"
        )
    return index


def _value_token(adapter: ModelAdapter, token: Token) -> int:
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


def _as_list(tokens: Any, what: str) -> list[Any]:
    if isinstance(tokens, (torch.Tensor, np.ndarray)) and not tokens.ndim:
        tokens = tokens.item()
    plain = None if isinstance(tokens, str) else as_plain_list(tokens)
    if plain is None:
        return [tokens]
    if not plain:
        raise ValueError(f"{what} is empty; give at least one token")
    return plain
