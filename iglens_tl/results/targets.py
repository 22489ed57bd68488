"""Finding a target of a result by what people call it."""

from __future__ import annotations

from iglens_tl.results.data import LensData


def find_target(data: LensData, target: int | str) -> int:
    """Return the row of a target given by row number or by token.

    Raises:
        ValueError: For an unknown or ambiguous target.
    """
    if isinstance(target, str):
        rows = [i for i, named in enumerate(data.targets) if named.token == target]
        if len(rows) != 1:
            found = "no target" if not rows else f"{len(rows)} targets (rows {rows})"
            raise ValueError(f"{found} with token {target!r}; give a row number")
        return rows[0]
    if not -len(data.targets) <= target < len(data.targets):
        raise ValueError(f"there is no target {target}; rows go from 0 to {len(data.targets) - 1}")
    return target % len(data.targets)
