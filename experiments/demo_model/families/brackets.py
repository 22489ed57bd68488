"""Draws bracket closing: after some nested brackets, close those that are still open."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.split import is_held_out

NAME = "brackets"

_PAIRS = {"(": ")", "[": "]", "{": "}"}


def draw(rng: Random) -> Draw:
    """Draw a sequence in which some brackets are closed and some stay open."""
    depth = rng.randint(1, 4)
    shown, missing = _sequence(rng, opening=depth + rng.randint(0, 3), staying_open=depth)
    prompt = f"Brackets: {' '.join(shown)} Close:"
    answer = "".join(f" {bracket}" for bracket in missing)
    group = "1 or 2 open" if depth <= 2 else "3 or 4 open"
    return Draw(Example(NAME, group, prompt, answer, "."), is_held_out(NAME, *shown))


def _sequence(rng: Random, opening: int, staying_open: int) -> tuple[list[str], list[str]]:
    """Draw the brackets shown, and list the closing ones that are missing."""
    closing = opening - staying_open
    shown, stack = [], []
    while opening or closing:
        may_close = stack and closing
        if may_close and rng.random() < closing / (opening + closing):
            shown.append(_PAIRS[stack.pop()])
            closing -= 1
        else:
            stack.append(rng.choice(list(_PAIRS)))
            shown.append(stack[-1])
            opening -= 1
    return shown, [_PAIRS[bracket] for bracket in reversed(stack)]
