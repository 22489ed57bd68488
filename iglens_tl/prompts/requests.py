"""Which tokens of a text are attributed, and from which positions they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import capture
from iglens_tl.prompts.prompt import Prompt, PromptLike, as_prompts, check_length
from iglens_tl.prompts.tokenization import decode, encode_continuation, stop_ids, token_string
from iglens_tl.readout import Token, most_probable_token

if TYPE_CHECKING:
    Tokens: TypeAlias = Token | Sequence[Token]
else:  # anything may arrive here; it is answered with a readable error
    Tokens = Any


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

    Without `answer`, `generate` or `targets`, every next token of the text is a target. With a
    batch, `answer` and `targets` hold for every prompt, or are lists with one entry per prompt.

    Raises:
        TypeError: For arguments of a wrong kind.
        ValueError: For more than one way, or targets that do not exist.
    """
    given = {"answer": answer, "generate": generate, "targets": targets}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(
            f"give only one of answer, generate and targets; got {' and '.join(chosen)}"
        )
    prompts, is_batch = as_prompts(adapter, prompt, prepend_bos=prepend_bos)
    if answer is not None:
        answers = _per_prompt(answer, len(prompts), "answer") if is_batch else [answer]
        return [_answer(adapter, *pair) for pair in zip(prompts, answers, strict=True)]
    if generate is not None:
        return [_generate(adapter, single, generate) for single in prompts]
    if targets is not None:
        choices = _per_prompt(targets, len(prompts), "targets") if is_batch else [targets]
        return [_candidates(adapter, *pair) for pair in zip(prompts, choices, strict=True)]
    return [_every_next_token(single) for single in prompts]


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


def _every_next_token(prompt: Prompt) -> Request:
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


def _generate(adapter: ModelAdapter, prompt: Prompt, n_tokens: Any) -> Request:
    """Continue greedily, stopping before an end-of-sequence token.

    Each token costs one forward pass over the whole text. That makes it the argmax of the very
    probabilities that are attributed, whatever hooks the model has.
    """
    if isinstance(n_tokens, bool) or not isinstance(n_tokens, int):
        raise TypeError(f"generate must be an integer, got {type(n_tokens).__name__}")
    if n_tokens < 1:
        raise ValueError(f"generate must be at least 1, got {n_tokens}")
    check_length(adapter, len(prompt.ids) + n_tokens, f"the prompt with {n_tokens} more tokens")
    stops = stop_ids(adapter)
    site = adapter.post_site(adapter.n_layers - 1)
    added: list[int] = []
    for _ in range(n_tokens):
        tokens = torch.tensor([[*prompt.ids, *added]])
        last = capture(adapter, tokens, {site: lambda states: states[0, -1].clone()})[site]
        best = most_probable_token(adapter.readout, last)
        if best in stops:
            break
        added.append(best)
    if not added:
        raise ValueError(
            f"{adapter.name} ends the text right after the prompt, so nothing was generated to "
            "attribute; change the prompt or give answer or targets"
        )
    return _continued(adapter, prompt, added)


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


def _as_list(tokens: Any, what: str) -> list[Any]:
    if isinstance(tokens, torch.Tensor) or hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    tokens = list(tokens) if isinstance(tokens, (list, tuple)) else [tokens]
    if not tokens:
        raise ValueError(f"{what} is empty; give at least one token")
    return tokens


def _per_prompt(choice: Any, n_prompts: int, what: str) -> list[Any]:
    """Return one choice per prompt.

    A list that holds lists, or several answers as text, has an entry for each prompt; anything else
    is shared by all.
    """
    kinds = (list, tuple, torch.Tensor, str) if what == "answer" else (list, tuple, torch.Tensor)
    separate = isinstance(choice, (list, tuple)) and any(isinstance(c, kinds) for c in choice)
    if not separate:
        return [choice] * n_prompts
    if len(choice) != n_prompts:
        raise ValueError(f"got {n_prompts} prompts but {len(choice)} entries of {what}")
    return list(choice)
