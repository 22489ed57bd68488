"""Tables that are computed in parts, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from iglens_tl.files import write_atomically

_SETTINGS = "settings.json"
_LONGEST_NAME = 60


class Parts:
    """A folder of finished parts of a table, all made with the same settings.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> parts = Parts(folder, {"seed": 0})
        >>> parts.frame("squares", lambda: pd.DataFrame({"n": [1, 4]}))["n"].tolist()
        [1, 4]
        >>> again = Parts(folder, {"seed": 0})  # the function is not called a second time
        >>> again.frame("squares", lambda: pd.DataFrame({"n": [0]}))["n"].tolist()
        [1, 4]
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        """Open or create the folder.

        Args:
            folder: Where the parts are kept.
            settings: All that the parts depend on, as JSON can hold it.

        Raises:
            ValueError: If the folder holds parts that were made with other settings.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _SETTINGS
        own = json.loads(json.dumps(settings))
        if path.exists():
            _require_equal(self.folder, json.loads(path.read_text(encoding="utf-8")), own)
        else:
            text = json.dumps(own, indent=1, ensure_ascii=False) + "\n"
            write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))

    def frame(self, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a part: from its file if it is there, otherwise computed and written.

        An interruption while it is computed or written leaves no file, so the part is computed
        again by the next run.
        """
        import pyarrow as pa

        path = self.folder / _file_name(name)
        if path.exists():
            try:
                return pd.read_parquet(path)
            except (OSError, pa.ArrowException):  # a damaged file is no part
                path.unlink()
        frame = compute()
        write_atomically(path, frame.to_parquet)
        return pd.read_parquet(path)


def _file_name(name: str) -> str:
    """Return a readable file name that no other part's name leads to."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:_LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.parquet"


def _require_equal(folder: Path, found: Any, own: dict[str, Any]) -> None:
    if found == own:
        return
    found = found if isinstance(found, dict) else {}
    different = [key for key in {**own, **found} if found.get(key) != own.get(key)]
    raise ValueError(
        f"{str(folder)!r} holds parts of a run with other settings "
        f"({', '.join(different)}); give another folder, or remove this one to begin again"
    )
