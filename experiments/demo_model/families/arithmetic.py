"""Draws small sums, differences, comparisons and counting."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import all_names
from experiments.demo_model.markup import chat_prompt
from experiments.demo_model.split import is_held_out

NAME = "arithmetic"

LARGEST = 20  # operand of a sum, and result of a difference

_SIGNS = {"+": ("addition", "plus", "found"), "-": ("subtraction", "minus", "gave away")}


def draw(rng: Random) -> Draw:
    """Draw one kind of task."""
    kinds = (_addition, _addition, _subtraction, _subtraction, _counting, _comparison)
    return rng.choice(kinds)(rng)


def is_pair_held_out(a: int, b: int) -> bool:
    """Tell whether no sum or difference of these numbers occurs in training.

    The pair of the matching sum decides for both: 12 - 7 = 5 is new only where 5 + 7 is new too.
    """
    return is_held_out("sum", *sorted((a, b)))


def _addition(rng: Random) -> Draw:
    a, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
    return _calculation(rng, a, "+", b, a + b, is_pair_held_out(a, b))


def _subtraction(rng: Random) -> Draw:
    result, b = rng.randint(0, LARGEST), rng.randint(0, LARGEST)
    return _calculation(rng, result + b, "-", b, result, is_pair_held_out(result, b))


def _calculation(rng: Random, a: int, sign: str, b: int, result: int, new: bool) -> Draw:
    name, word, verb = _SIGNS[sign]
    who = rng.choice(all_names())
    texts = (
        (f"{a} {sign} {b} =", f" {result}", "."),
        (f"{a} {word} {b} is", f" {result}", "."),
        (f"Q: What is {a} {sign} {b}? A:", f" {result}", ""),
        (chat_prompt(f"What is {a} {sign} {b}?"), f"{a} {sign} {b} = {result}.", ""),
        (f"{who} had {a} coins and {verb} {b}. Now {who} has", f" {result}", " coins."),
    )
    wording = rng.randrange(len(texts))
    group = f"{name}, {'new' if new else 'seen'} pair"
    # The chat reply contains the first wording, so the first is never held out by itself.
    held_out = new or (wording != 0 and is_held_out(NAME, a, sign, b, wording))
    return Draw(Example(NAME, group, *texts[wording]), held_out)


def _counting(rng: Random) -> Draw:
    step = rng.choice((1, 1, 2, 3, 5, 10))
    start, length = rng.randint(0, 99 - 4 * step), rng.randint(3, 5)
    numbers = [start + step * i for i in range(length + 1)]
    if rng.random() < 0.3:
        numbers.reverse()
    *shown, following = [number for number in numbers if number < 100]
    prompt = f"Count in steps of {step}: {', '.join(map(str, shown))},"
    example = Example(NAME, "counting", prompt, f" {following}", ".")
    # Sequences of different lengths overlap, so all of one start and step fall on one side.
    return Draw(example, is_held_out("count", step, shown[0], shown[0] < following))


def _comparison(rng: Random) -> Draw:
    a, b = rng.sample(range(100), 2)
    adjective, choose = rng.choice((("larger", max), ("smaller", min)))
    prompt = f"The {adjective} number of {a} and {b} is"
    example = Example(NAME, "comparison", prompt, f" {choose(a, b)}", ".")
    return Draw(example, is_held_out("compare", *sorted((a, b))))
