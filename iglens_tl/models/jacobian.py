"""TransformerLens' Jacobian lens: fitting, loading, and checking that it belongs to a model."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.gradients import recording

# What a damaged or foreign file, or an unreachable hub, raises below `JacobianLens.load`.
_UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    IndexError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)


def fit_jacobians(
    adapter: ModelAdapter,
    texts: Sequence[str],
    *,
    corpus: str,
    layers: Sequence[int] | None,
    skip_first: int,
    max_length: int,
    rows_per_pass: int,
    progress: bool,
) -> Any:
    """Fit a Jacobian lens with TransformerLens.

    Raises:
        NotApplicableError: If the model is no bridge with raw weights, or the installed
            TransformerLens has no Jacobian lens.
        ValueError: If TransformerLens refuses the model or the texts.
    """
    lens_class = require_jacobian_lens(adapter)
    with recording():
        return lens_class.fit(
            adapter.model,
            list(texts),
            corpus=corpus,
            source_layers=None if layers is None else list(layers),
            dim_batch=rows_per_pass,
            max_seq_len=max_length,
            skip_first_positions=skip_first,
            show_progress=progress,
        )


def resolve_jacobians(adapter: ModelAdapter, lens: Any) -> Any:
    """Return a Jacobian lens that fits the model, from itself, a file or a published name.

    Files are read with `torch.load(weights_only=True)`, which runs no code of theirs.

    Raises:
        NotApplicableError: If the model is no bridge with raw weights.
        TypeError: For anything else.
        ValueError: For a lens that cannot be read, has NaN or infinite entries, or belongs to
            another model.
    """
    lens_class = require_jacobian_lens(adapter)
    if not isinstance(lens, lens_class):
        if not isinstance(lens, (str, os.PathLike)):
            raise TypeError(
                "lens must be a fitted JacobianLens, a file or the name of a published lens, got "
                f"{type(lens).__name__}; fit one with iglens_tl.fit_jacobian_lens"
            )
        lens = _load(lens_class, adapter.path if lens == "auto" else os.fspath(lens))
    for layer, matrix in lens.jacobians.items():
        if not bool(torch.isfinite(matrix).all()):
            raise ValueError(
                f"the matrix of layer {layer} of the Jacobian lens has entries that are NaN or "
                "infinite; fit it again, in float32"
            )
    return lens.validate_model(adapter.model)


def require_jacobian_lens(adapter: ModelAdapter) -> Any:
    """Return TransformerLens' class if it exists and takes the model.

    Raises:
        NotApplicableError: If the model is no bridge with raw weights, or the installed
            TransformerLens has no Jacobian lens.
    """
    try:
        from transformer_lens.tools.analysis import JacobianLens
    except ImportError as error:
        raise NotApplicableError(
            f"the installed TransformerLens {version('transformer_lens')} has no Jacobian lens; "
            "install transformer-lens 3.9 or newer"
        ) from error
    if adapter.backend != "bridge":
        raise NotApplicableError(
            f"the Jacobian lens needs a TransformerBridge, and {adapter.name} is a "
            "HookedTransformer; load it with load_model(…, backend='bridge')"
        )
    if getattr(adapter.model, "compatibility_mode", False):
        raise NotApplicableError(
            f"the Jacobian lens needs raw weights, and {adapter.name} is in compatibility mode; "
            "load it with load_model(…, backend='bridge')"
        )
    return JacobianLens


def _load(lens_class: Any, name: str) -> Any:
    if name.endswith(".pt") and not Path(name).is_file():
        raise ValueError(f"there is no file {name!r}")
    try:
        return lens_class.from_pretrained(name)
    except _UNREADABLE as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"no Jacobian lens could be read from {name!r}: {reason}. Give a lens, its file or the "
            "name of a model with a published one, or fit one with iglens_tl.fit_jacobian_lens"
        ) from error
