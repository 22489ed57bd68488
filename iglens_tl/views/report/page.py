"""Write the report: the numbers, the script that draws them and the words around, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from iglens_tl.results.data import LensData
from iglens_tl.results.folders import hide_folders
from iglens_tl.views.html import make_page, plotly_basic_script, read_asset, write_page
from iglens_tl.views.report.content import CHOOSING, distinct, report_content, value_of
from iglens_tl.views.report.words import lens_label, shown_name
from iglens_tl.views.text import show_blanks

MAX_BYTES = 6_000_000
"""A page is below this size, so that it can be mailed."""

# In this order; each may use what stands before it.
_SCRIPTS = ("data", "words", "colours", "tip", "text", "map", "plots", "tables", "heads", "report")
_MAX_TITLE = 80
# What a text that is too long loses, in this order.
_ENTROPIES, _TOP, _HEADS = "entropies", "most probable tokens", "heads"
_LEFT_OUT = (_ENTROPIES, _TOP, _HEADS)


def write_report(
    results: Sequence[LensData],
    path: str | Path,
    *,
    heads: LensData | None = None,
    why_no_heads: str = "",
    prompt: int = 0,
    skipped: Mapping[str, str] = MappingProxyType({}),
    notes: Sequence[str] = (),
) -> Path:
    """Write one self-contained page about one text, below 6 MB.

    A text that is too long for all of it loses the entropies first, then the most probable tokens,
    then the heads; the page says so.

    Args:
        results: Results for the same targets; a lens may come once for every value.
        path: Where the page goes; it ends in ".html" or ".htm".
        heads: `components(…, by="head_source")` for the same targets, for the heads.
        why_no_heads: Why there are none, in a sentence that stands in their place.
        prompt: Which text of a batch.
        skipped: By lens, why it is not there.
        notes: What else a reader must know, in sentences.

    Raises:
        ValueError: For another ending, results that do not belong together, a page that would be
            too large, or a path that cannot be written.
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{str(path)!r} must end in .html")
    said = [*notes, *(f"{shown_name(lens)} is left out: {why}" for lens, why in skipped.items())]
    size = 0
    for n_missing in range(len(_LEFT_OUT) + 1):
        missing = _LEFT_OUT[:n_missing]
        sentence = f"Left out to keep this page small: {', '.join(missing)}."
        shown_heads = None if _HEADS in missing else heads
        content = report_content(
            results,
            heads=shown_heads,
            why_no_heads=why_no_heads if shown_heads is heads else sentence,
            prompt=prompt,
            with_top=_TOP not in missing,
            with_statistics=_ENTROPIES not in missing,
        )
        notes_of_page = [*said, *([sentence] if missing else [])]
        page = _render(content, _about(results, shown_heads, content, notes_of_page))
        size = len(page)
        if size < MAX_BYTES:
            return write_page(page, path)
    raise ValueError(
        f"the page would have {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}; report fewer "
        "tokens (answer, generate or targets), lenses or values"
    )


def _render(content: Mapping[str, Any], about: Mapping[str, Any]) -> bytes:
    return make_page(
        "report.html.jinja",
        styles=["page", "report"],
        scripts=[plotly_basic_script(), _own_script()],
        data=content,
        **about,
    )


def _about(
    results: Sequence[LensData],
    heads: LensData | None,
    content: Mapping[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return what the template says in words: the model, the versions, the options, the notes."""
    first = results[0].provenance
    everything = [*distinct(results), *([] if heads is None else [heads])]
    shown = "".join(content["tokens"][token][2] for token in content["text"]).replace("␣", " ")
    created = first.created.replace("T", " ").replace("+00:00", " UTC")
    return {
        "title": show_blanks(first.model_name),
        "text": shown if len(shown) <= _MAX_TITLE else shown[: _MAX_TITLE - 1] + "…",
        "model": first.model,
        "choice": {
            "tokens": len(content["text"]),
            "measured": len(content["targets"]),
            **{name: first.options[name] for name in CHOOSING if name in first.options},
        },
        "versions": first.versions,
        "checks": first.checks,
        "created": created,
        "options": [
            (
                f"{lens_label(data)}, {value_of(data)}",
                {k: v for k, v in options.items() if k not in CHOOSING},
            )
            for data in everything
            for options in [data.provenance.options]
        ],
        "said": list(dict.fromkeys(map(hide_folders, [*_notes_of(everything), *notes]))),
    }


def _notes_of(results: Sequence[LensData]) -> list[str]:
    """Return the notes of all results, with the value where they do not hold for all of a lens."""
    measured: dict[str, dict[str, None]] = {}
    found: dict[tuple[str, str], list[str]] = {}
    for data in results:
        measured.setdefault(lens_label(data), {})[value_of(data)] = None
        for note in dict.fromkeys(data.provenance.notes):
            found.setdefault((lens_label(data), note), []).append(value_of(data))
    return [
        f"{lens}: {note}"
        if len(values) == len(measured[lens])
        else f"{lens}, {', '.join(values)}: {note}"
        for (lens, note), values in found.items()
    ]


def _own_script() -> str:
    """Return the page's script: its files as one function, which leaves no global names."""
    body = "\n".join(read_asset(f"scripts/{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'
