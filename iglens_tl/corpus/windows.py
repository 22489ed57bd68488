"""Cutting texts that are longer than a model's context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A stretch of a text that a model reads at once.

    Attributes:
        number: The number of the window in its text.
        ids: The token ids that the model reads.
        targets: The positions in `ids` from which tokens are read, each predicting the next one.
        shift: What leads from a position in `ids` to the one in the text.
    """

    number: int
    ids: tuple[int, ...]
    targets: range
    shift: int


def windows_of(ids: Sequence[int], *, length: int, overlap: int, has_bos: bool) -> Iterator[Window]:
    """Cut a text so that every token but the first is a target once.

    A window begins with the tokens that stand before its targets, as context, and with the
    beginning-of-sequence token where the text has one.

    Args:
        ids: The token ids of the text.
        length: How many tokens a window has at most.
        overlap: How many tokens before its targets a window repeats.
        has_bos: Whether the text begins with a token that every window is to begin with.
    """
    yield Window(0, tuple(ids[:length]), range(min(length, len(ids)) - 1), 0)
    head = tuple(ids[:1]) if has_bos else ()
    done, number = length, 1
    while done < len(ids):
        first = done - overlap
        last = min(len(ids), first + length - len(head))
        # The token before the first target predicts it.
        before = len(head) + overlap - 1
        inner = head + tuple(ids[first:last])
        yield Window(number, inner, range(before, len(inner) - 1), first - len(head))
        done, number = last, number + 1
