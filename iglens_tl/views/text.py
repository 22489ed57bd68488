"""Show token strings to people: spaces made visible, nothing interpreted as markup."""

from __future__ import annotations

import html

_GLYPHS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}


def show_blanks(token: str) -> str:
    """Return a token with glyphs for its leading blank, line breaks and control characters."""
    return "".join(_show_character(*pair) for pair in enumerate(token)) or "∅"


def show_token(token: str) -> str:
    """Return a token as plotly or HTML text, its blanks visible."""
    return show_label(show_blanks(token))


def shorten(token: str, length: int) -> str:
    """Return a token as plotly or HTML text, cut off if it is longer than `length`."""
    return show_token(token if len(token) <= length else token[: length - 1] + "…")


def show_label(label: str) -> str:
    """Return a label, such as "L3.H5<pos 2", as plotly or HTML text.

    `<`, `>` and `&` are escaped, because plotly reads a subset of HTML in every label, and `$`,
    because it takes text between two of them for a formula.
    """
    return html.escape(label, quote=False).replace("$", "&#36;")


def _show_character(index: int, character: str) -> str:
    if character == " " and index:
        return character
    if character in _GLYPHS:
        return _GLYPHS[character]
    return character if character.isprintable() else f"\\x{ord(character):02x}"
