"""Write HTML pages: templates that escape everything, in files that need no network.

Every page and every table of a notebook is made here. A page carries its style, scripts and numbers
in itself; its policy lets no other script run, whatever a token says, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from iglens_tl.files import write_atomically

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

_PACKAGE = "iglens_tl.views"


def write_html(figures: Figure | Sequence[Figure], path: str | Path) -> Path:
    """Write one figure, or several below one another, as one self-contained HTML page.

    The page has plotly's script, once, and needs no network.

    Args:
        figures: Plotly figures.
        path: Where the page goes.

    Returns:
        The path.

    Raises:
        ValueError: If there is no figure or the path cannot be written.
    """
    shown = list(figures) if isinstance(figures, Sequence) else [figures]
    if not shown:
        raise ValueError("there is no figure to write; give at least one")
    return write_page(figures_page("figures.html.jinja", shown), path)


def write_page(page: bytes, path: str | Path) -> Path:
    """Write a page; an interruption leaves no part of it.

    Raises:
        ValueError: If the path cannot be written.
    """
    return write_atomically(path, partial(Path.write_bytes, data=page))


def figures_page(template: str, figures: Sequence[Figure], **context: Any) -> bytes:
    """Return a page with plotly figures, each drawn where the template has its number."""
    from plotly.offline import get_plotlyjs

    drawn = [json.loads(str(figure.to_json(validate=True, engine="json"))) for figure in figures]
    heading = drawn[0]["layout"].get("title", {}).get("text", "figure")
    return make_page(
        template,
        styles=["page"],
        scripts=[get_plotlyjs(), read_asset("scripts/figures.js")],
        data={"figures": drawn},
        n_figures=len(drawn),
        # A heading is markup of plotly's, in which blanks and signs are escaped.
        **{"title": unescape(heading), **context},
    )


def make_page(
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: Mapping[str, Any],
    **context: Any,
) -> bytes:
    """Return a self-contained page.

    Args:
        template: A template that extends "base.html.jinja".
        styles: Names of style sheets.
        scripts: The scripts themselves, in order; no other script runs on the page.
        data: What the scripts read, as JSON can hold it.
        context: What the template shows; every text is escaped.

    Returns:
        The page in UTF-8.
    """
    page = render(
        template,
        style="\n".join(read_asset(f"styles/{name}.css") for name in styles),
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        data=_script_json(data),
        **context,
    )
    # A name may hold half of a surrogate pair, which is no character.
    return page.encode("utf-8", errors="xmlcharrefreplace")


def render(template: str, **context: Any) -> str:
    """Return a template with its variables filled in and escaped."""
    return _environment().get_template(template).render(**context)


def plotly_basic_script() -> str:
    """Return plotly's script for bars and lines, a quarter of the whole one.

    It is plotly.js-basic-dist-min 4.1.1 from npm, as published, under the MIT licence beside it.
    """
    return read_asset("plotly_basic/plotly-basic.min.js")


@cache
def read_asset(name: str) -> str:
    """Return the text of a file that pages are made of."""
    return (files(_PACKAGE) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "assets/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["fact"] = _fact
    return environment


def _fact(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _script_json(content: Mapping[str, Any]) -> str:
    """Return JSON that ends no script element and has only ASCII characters."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@cache
def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
