"""Draws repetition: random word sequences that repeat, names that return, copying on command."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import all_names, words
from experiments.demo_model.split import is_held_out

NAME = "induction"


def draw(rng: Random) -> Draw:
    """Draw one of the three kinds of repetition."""
    return rng.choice((_repeated_words, _repeated_names, _copy))(rng)


def _repeated_words(rng: Random) -> Draw:
    sequence = rng.sample(words("sequence_words"), rng.randint(3, 12))
    known = rng.randint(1, len(sequence) - 1)
    before, rest = sequence[:known], sequence[known:]
    prompt = " ".join(sequence * rng.choice((1, 1, 2)) + before)
    return Draw(
        Example(NAME, "repeated words", prompt, f" {rest[0]}", _spaced(rest[1:])),
        is_held_out(NAME, *_rotated(sequence)),
    )


def _repeated_names(rng: Random) -> Draw:
    count = rng.randint(2, 4)
    given, family = rng.sample(all_names(), count), rng.sample(words("surnames"), count)
    people = [f"{first} {last}" for first, last in zip(given, family, strict=True)]
    asked = rng.randrange(count)
    prompt = f"{', '.join(people[:-1])} and {people[-1]} came to the party. Later {given[asked]}"
    return Draw(
        Example(NAME, "repeated names", prompt, f" {family[asked]}", " went home."),
        is_held_out(NAME, *people),
    )


def _copy(rng: Random) -> Draw:
    sequence = rng.sample(words("sequence_words"), rng.randint(2, 8))
    return Draw(
        Example(NAME, "copy", f"Copy:{_spaced(sequence)}. Again:", _spaced(sequence), "."),
        is_held_out(NAME, "copy", *sequence),
    )


def _rotated(sequence: list[str]) -> list[str]:
    """Start a cycle at its first word in the alphabet: its repetitions contain all rotations."""
    start = sequence.index(min(sequence))
    return sequence[start:] + sequence[:start]


def _spaced(sequence: list[str]) -> str:
    return "".join(f" {word}" for word in sequence)
