"""Phrase in one sentence why a model is refused."""

from __future__ import annotations

import re
from typing import Any

_LONGEST_REASON = 240


def refuse_architecture(
    name: str, architecture: str, reason: str, *, remedy: str | None = None
) -> ValueError:
    """Return the error for a model whose architecture cannot be measured.

    All refusals of an architecture are phrased here, whoever finds the reason.

    Args:
        name: The model's name.
        architecture: The class of the Hugging Face model, such as "MambaForCausalLM".
        reason: Why it cannot be measured, as a clause: "its blocks have no attention".
        remedy: What to do about it; by default to use a model that is known to load.

    Returns:
        A `ValueError` to raise.
    """
    label = name if name == architecture else f"{name} ({architecture})"
    advice = remedy or (
        "use a decoder-only transformer that the installed TransformerLens reads, such as Llama, "
        "Qwen, Gemma or GPT-2"
    )
    return ValueError(f"{label} is not supported: {reason}; {advice}")


def architecture_of(model: Any) -> str:
    """Return the class of the Hugging Face model in a bridge, or the model's own class."""
    return type(vars(model).get("original_model") or model).__name__


def one_line(error: BaseException) -> str:
    """Return what a foreign error says in one short line, without lists that it may hold."""
    text = " ".join(str(error).split())
    # What follows is a list of everything that would have been possible.
    text = re.split(r"[.:;]?\s*(?:Available|Supported|Valid|Known) \w+:", text)[0]
    text = re.sub(r"\s*\[(?:[^\[\]]{80,})\]", " […]", text)
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON].rsplit(" ", 1)[0] + " …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
