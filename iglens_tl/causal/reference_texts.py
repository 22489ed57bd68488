"""Texts that have nothing to do with a prompt, for means and samples of what units write."""

from __future__ import annotations

from pathlib import Path

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.prompts import PromptLike, as_prompts

_FILE = Path(__file__).with_name("reference_texts.txt")


def embedded_reference_texts() -> list[str]:
    """Return the reference texts of the package: short English texts of many kinds."""
    return _FILE.read_text(encoding="utf-8").splitlines()


def reference_ids(
    adapter: ModelAdapter, reference: PromptLike | None, *, prepend_bos: bool | None
) -> list[tuple[int, ...]]:
    """Return the token ids of the reference texts.

    Args:
        adapter: The model.
        reference: A list of texts (or of chats or token ids); None for the embedded ones.
        prepend_bos: As for prompts.

    Raises:
        TypeError: For anything but a list of texts.
        ValueError: For no text, or a text of one token.
    """
    texts = embedded_reference_texts() if reference is None else reference
    if isinstance(texts, (list, tuple)) and not texts:
        raise ValueError("reference holds no text; give several, or None for the embedded ones")
    prompts, is_batch = as_prompts(adapter, texts, prepend_bos=prepend_bos)
    if not is_batch:
        raise TypeError("reference must be a list of texts, got a single one; give several")
    for index, prompt in enumerate(prompts):
        if len(prompt.ids) < 2:
            raise ValueError(
                f"reference text {index} has one token only, and the first token is never used; "
                "give longer texts"
            )
    return [prompt.ids for prompt in prompts]
