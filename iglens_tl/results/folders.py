"""Name what lies in folders by its last part, never by the folders of a machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

# An absolute path of several parts inside a sentence, and one in quotes, which may hold blanks.
_START = r"(?:~|[A-Za-z]:)?"
_QUOTED = rf"(?<=['\"]){_START}(?:[/\\][^/\\'\"\n]+){{2,}}[/\\]?(?=['\"])"
_BARE = rf"(?<![\w.:/\\~]){_START}(?:[/\\][^\s/\\'\"<>|:,;()]+){{2,}}[/\\]?"
_PATHS = re.compile(f"{_QUOTED}|{_BARE}")
# Tokens are what the model reads: " /usr/bin" is no path.
_TOKENS = ("value_tokens",)


def hide_folders(text: str) -> str:
    """Return a name or a sentence with only the last part of every absolute path in it."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute() and kind(text).name:
            return kind(text).name
    return _PATHS.sub(lambda found: _last_part(found.group()), text)


def shorten_paths(value: Any) -> Any:
    """Return options with only the last part of every absolute path, tokens as they are."""
    if isinstance(value, PurePath):
        return value.name if value.is_absolute() else str(value)
    if isinstance(value, str):
        return hide_folders(value)
    if isinstance(value, Mapping):
        return {
            shorten_paths(name): entry if name in _TOKENS else shorten_paths(entry)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(shorten_paths(entry) for entry in value)
    return value


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
