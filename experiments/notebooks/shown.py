"""What notebooks show: texts and numbers of outputs, of figures and of the prose about them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from experiments.notebooks.execute import INTERACTIVE

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")

_IN_PROSE = re.compile(r"(?<![\w.,])[-−+]?(?:\d+\.\d+|\d{1,3}(?:,\d{3})+)(?!\w)")
_ON_HOVER = re.compile(r"(?:credit|level after it) ([-+]?\d+\.\d+)")
_NO_PROSE = re.compile(r"```.*?```|\]\([^)]*\)", re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """The contents of one output.

    Attributes:
        texts: All texts in their order, and where they stand, with `#` for every number.
        rounded: The numbers in the texts, which have as many digits as the texts show.
        exact: The numbers of figures' arrays.
    """

    texts: tuple[str, ...]
    rounded: tuple[float, ...]
    exact: tuple[float, ...]


def shown(output: Mapping[str, Any]) -> Shown:
    """Return what an output of a cell shows; of a figure, its traces, titles and annotations."""
    data = output.get("data", {})
    if INTERACTIVE in data:
        leaves = list(_leaves(figure_contents(data[INTERACTIVE])))
    else:
        leaves = [("text", data.get("text/plain", output.get("text", "")))]
    texts, rounded, exact = [output["output_type"]], [], []
    for place, leaf in leaves:
        if isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            exact.append(float(leaf))
            leaf = "#"
        rounded += [float(number) for number in NUMBER.findall(str(leaf))]
        texts.append(f"{place}: {' '.join(NUMBER.sub('#', str(leaf)).split())}")
    return Shown(tuple(texts), tuple(rounded), tuple(exact))


def figure_contents(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Return a figure's traces, titles and annotations, with plotly's packed arrays as lists."""
    layout = figure["layout"]
    axes = {name: axis for name, axis in layout.items() if re.fullmatch(r"[xy]axis\d*", name)}
    contents = {
        "title": layout.get("title"),
        "annotations": [annotation.get("text") for annotation in layout.get("annotations", [])],
        "axes": {name: [axis.get("title"), axis.get("ticktext")] for name, axis in axes.items()},
        "traces": figure["data"],
    }
    return _unpacked(contents)


def shown_numbers(output: Mapping[str, Any]) -> np.ndarray:
    """Return the numbers that prose about an output may name.

    Of what figures show on hover that is the credits and levels of their own marks, not the
    details below them: where everything may be named, any number is found somewhere.
    """
    if INTERACTIVE not in output.get("data", {}):
        return np.array(shown(output).rounded)
    numbers: list[float] = []
    for place, leaf in _leaves(figure_contents(output["data"][INTERACTIVE])):
        if isinstance(leaf, str):
            pattern = _ON_HOVER if "hover" in place else NUMBER
            numbers += [float(number) for number in pattern.findall(leaf)]
        elif re.search(r"\.(x|y|z|values)(\[\])+$", place) and leaf is not None:
            numbers.append(float(leaf))
    return np.array(numbers)


def prose_numbers(markdown: str) -> list[str]:
    """Return the decimal numbers, and those with thousands' commas, as the text writes them."""
    return _IN_PROSE.findall(_NO_PROSE.sub(" ", markdown))


def occurs(written: str, numbers: np.ndarray) -> bool:
    """Return whether a number as written is one of the numbers, rounded to its digits.

    A number without a sign may be that of a negative one, as in "takes 0.2 away".
    """
    plain = written.replace("−", "-").replace(",", "")
    decimals = len(plain.partition(".")[2])
    candidates = numbers if plain[0] in "+-" else abs(numbers)
    return bool((abs(candidates - float(plain)) <= 0.5 * 10.0**-decimals + 1e-9).any())


def png_size(picture: str) -> tuple[int, int]:
    """Return width and height of a PNG picture in base64, all of which is read.

    Raises:
        OSError: If it is no whole PNG picture.
    """
    content = base64.b64decode(picture, validate=True)
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        image.load()
        return image.size


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping) and "bdata" in value:
        array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        shape = [int(size) for size in str(value.get("shape", len(array))).split(",")]
        return array.reshape(shape).tolist()
    if isinstance(value, Mapping):
        return {name: _unpacked(item) for name, item in value.items()}
    return [_unpacked(item) for item in value] if isinstance(value, list) else value


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _leaves(value[name], f"{place}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, f"{place}[]")
    else:
        yield place, value
