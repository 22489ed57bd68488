"""Where a lens's numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from iglens_tl.trace import Trace
from iglens_tl.models import check_model
from iglens_tl.results import Provenance

_PACKAGES = ("iglens_tl", "transformer_lens", "torch", "transformers")


def describe(trace: Trace, options: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Provenance:
    """Record the model, the lens's options, the checks and the versions."""
    adapter = trace.adapter
    check = check_model(adapter, torch.tensor(trace.requests[0].ids))
    if adapter.dtype in (torch.float16, torch.bfloat16):
        notes += (
            f"the model runs in {_name(adapter.dtype)} and is read out in float32; its own rounded "
            f"probabilities differ by up to {check.readout_error:.1e}",
        )
    return Provenance(
        model={
            "name": adapter.name,
            "backend": adapter.backend,
            "n_layers": adapter.n_layers,
            "d_model": adapter.readout.d_model,
            "d_vocab": adapter.readout.d_vocab,
            "dtype": _name(adapter.dtype),
            "device": str(adapter.device),
        },
        options={**options, **trace.choice},
        checks=asdict(check),
        versions={package: _version(package) for package in _PACKAGES},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        notes=notes,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a source tree without installation
        return "unknown"
