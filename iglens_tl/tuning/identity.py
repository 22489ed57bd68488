"""What is known of which model this is, and of whether its weights are the trained ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from iglens_tl.models.adapter import ModelAdapter, is_local
from iglens_tl.readout import Readout


def known_names(adapter: ModelAdapter) -> list[str]:
    """Return the names by which a model is known, other than the folders that it was read from."""
    config = getattr(getattr(adapter.model, "original_model", None), "config", None)
    sources = (
        adapter.path if adapter.path != "unnamed model" else None,
        getattr(adapter.tokenizer, "name_or_path", None),
        getattr(config, "_name_or_path", None),
    )
    names: list[str] = []
    for source in sources:
        if not isinstance(source, str) or not source:
            continue
        name = _name_in_folder(Path(source).expanduser()) if is_local(source) else source
        if name:
            names.append(name)
    return list(dict.fromkeys(names))


def same_name(one: str, other: str) -> bool:
    """Tell whether two hub names are equal but for a missing organisation."""
    if "/" in one and "/" in other:
        return one == other
    return one.split("/")[-1] == other.split("/")[-1]


def folding_of(adapter: ModelAdapter) -> str | None:
    """Return what was done to a model's weights after training, or None.

    Folding and centring keep the predictions but not the residual stream, in which translators
    work.
    """
    cfg = adapter.model.cfg
    norm = adapter.readout.norm
    kind = str(getattr(cfg, "normalization_type", ""))
    if kind.endswith("Pre"):
        return (
            f"its norms are folded into the weights (normalization_type {cfg.normalization_type})"
        )
    if getattr(adapter.model, "compatibility_mode", False) and norm is not None:
        # Compatibility mode without processing leaves the weights alone.
        idle = norm.weight is None or bool((norm.weight == 1).all())
        if idle and (norm.bias is None or not bool(norm.bias.any())):
            return "its norms are folded into the weights (compatibility mode)"
    embedding = getattr(adapter.model, "W_E", None)
    if norm is not None and norm.centered and isinstance(embedding, torch.Tensor):
        rows = embedding[:64].detach().float()
        size = rows.square().mean(-1).sqrt()
        if bool((rows.mean(-1).abs() <= 1e-5 * size).all()) and bool((size > 0).any()):
            return "the weights that write to its residual stream are centred"
    return None


def unembed_hash(readout: Readout) -> str:
    """Return the published format's hash of an unembedding, which numpy's short print decides."""
    matrix = readout.unembed.T.detach().cpu().float().numpy()
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False, sign="-"):
        text = np.array_str(matrix, precision=1)
    return hashlib.sha256(text.encode()).hexdigest()


def _name_in_folder(folder: Path) -> str | None:
    """Return the hub name that a model's configuration remembers, or None."""
    try:
        name = json.loads((folder / "config.json").read_text("utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) and name and not is_local(name) else None
