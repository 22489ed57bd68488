"""Say where a result comes from by names, never by the folders of a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from iglens_tl.results.data import Provenance

# An absolute path of several parts inside a sentence, and one in quotes, which may hold blanks.
_START = r"(?:~|[A-Za-z]:)?"
_QUOTED = rf"(?<=['\"]){_START}(?:[/\\][^/\\'\"\n]+){{2,}}[/\\]?(?=['\"])"
_BARE = rf"(?<![\w.:/\\~]){_START}(?:[/\\][^\s/\\'\"<>|:,;()]+){{2,}}[/\\]?"
_PATHS = re.compile(f"{_QUOTED}|{_BARE}")
# Tokens are what the model reads: " /usr/bin" is no path.
_TOKENS = ("value_tokens",)


def model_name(provenance: Provenance) -> str:
    """Return the model's name; of a model in a folder, the folder's name."""
    return hide_folders(str(provenance.model.get("name") or "unnamed model"))


def without_folders(provenance: Provenance) -> Provenance:
    """Return where numbers come from with only the last part of every absolute path."""
    return replace(
        provenance,
        model=_shorten(provenance.model),
        options=_shorten(provenance.options),
        checks=_shorten(provenance.checks),
        versions=_shorten(provenance.versions),
        notes=tuple(map(hide_folders, provenance.notes)),
    )


def hide_folders(text: str) -> str:
    """Return a name or a sentence with only the last part of every absolute path in it."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return kind(text).name
    return _PATHS.sub(lambda found: _last_part(found.group()), text)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _shorten(value: Any) -> Any:
    if isinstance(value, PurePath):
        return value.name if value.is_absolute() else str(value)
    if isinstance(value, str):
        return hide_folders(value)
    if isinstance(value, Mapping):
        return {
            _shorten(name): entry if name in _TOKENS else _shorten(entry)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [_shorten(entry) for entry in value]
    return value
