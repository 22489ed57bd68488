"""Token strings for people: spaces made visible, nothing interpreted as markup."""

from __future__ import annotations

import html

_GLYPHS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def show_blanks(token: str) -> str:
    """Return a token with glyphs for its leading blank, line breaks and control characters."""
    return "".join(_show_character(*pair) for pair in enumerate(token)) or "∅"


def show_token(token: str) -> str:
    """Return a token as plotly or HTML text.

    `<`, `>` and `&` are escaped, because plotly reads a subset of HTML in every label, and `$`,
    because it takes text between two of them for a formula.
    """
    return html.escape(show_blanks(token), quote=False).replace("$", "&#36;")


def _show_character(index: int, character: str) -> str:
    if character == " " and index:
        return character
    if character in _GLYPHS:
        return _GLYPHS[character]
    return character if character.isprintable() else f"\\x{ord(character):02x}"
