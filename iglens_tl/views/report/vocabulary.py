"""Collect the tokens that occur on a page, each once."""

from __future__ import annotations

from iglens_tl.views.text import show_blanks


class Vocabulary:
    """Tokens by number.

    Attributes:
        entries: For each token its id, its string, and how it is shown, with its blanks visible.
    """

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, str]] = []
        self._places: dict[tuple[int, str], int] = {}

    def add(self, token_id: int, token: str) -> int:
        """Add a token and return its number. Two ids may print alike."""
        key = (token_id, token)
        if key not in self._places:
            self._places[key] = len(self.entries)
            self.entries.append((token_id, token, show_blanks(token)))
        return self._places[key]
