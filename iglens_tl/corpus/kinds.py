"""Kinds of tokens, by how they look in their text."""

from __future__ import annotations

from collections.abc import Sequence

KINDS = {
    "word begin": "letters that begin a word",
    "word piece": "letters that go on with one",
    "number": "digits",
    "punctuation": "signs",
    "whitespace": "blanks and line breaks alone",
    "special": "a token of the tokenizer's own, such as the beginning of a text",
}
"""What each kind is. A token is of the kind of its first character that is no blank."""


def kinds_of(tokens: Sequence[str], ids: Sequence[int], special: frozenset[int]) -> list[str]:
    """Return the kind of every token of a text.

    Args:
        tokens: The tokens as they look inside the text, with their blanks.
        ids: Their ids.
        special: The ids of special tokens.
    """
    kinds = []
    after_letter = False
    for token, number in zip(tokens, ids, strict=True):
        bare = token.lstrip()
        if number in special:
            kind = "special"
        elif not bare:
            kind = "whitespace"
        elif bare[0].isdigit():
            kind = "number"
        elif bare[0].isalpha() or bare[0] == "\ufffd":  # a part of a character outside ASCII
            goes_on = after_letter and len(bare) == len(token)
            kind = "word piece" if goes_on else "word begin"
        else:
            kind = "punctuation"
        kinds.append(kind)
        after_letter = kind in ("word begin", "word piece", "number") and not token[-1].isspace()
    return kinds
