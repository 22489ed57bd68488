"""What activation patching measured, and its tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.data import Provenance, Target, Text
from iglens_tl.results.segments import layer_label

DIRECTIONS = {
    "denoising": "activations of the clean run replace those of the corrupted run",
    "noising": "activations of the corrupted run replace those of the clean run",
}
"""Which run is patched, and with what."""

_SMALLEST_DIFFERENCE = 1e-6


@dataclass(frozen=True, eq=False)
class PatchingData:
    """The value of an answer under every patch of a run.

    Attributes:
        site: What is replaced: "resid_pre", "resid_mid", "resid_post", "attn_out" or "mlp_out".
        direction: "denoising" or "noising", see `DIRECTIONS`.
        unit: The unit of the values.
        clean: The clean prompt.
        corrupted: The corrupted prompt, of as many tokens.
        target: The answer, read at the last position of the prompts.
        values: `[layer, pos]`, the value with the activation at that place replaced.
        clean_value: The value that the clean run gives.
        corrupted_value: The value that the corrupted run gives.
        embed_value: The value with the embedding state of the last position replaced.
        provenance: Where the numbers come from.
    """

    site: str
    direction: str
    unit: str
    clean: Text
    corrupted: Text
    target: Target
    values: Float[np.ndarray, "layer pos"]
    clean_value: float
    corrupted_value: float
    embed_value: float
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        """Check that the parts fit one another, and make the array read-only."""
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"unknown direction {self.direction!r}; choose one of {', '.join(DIRECTIONS)}"
            )
        lengths = {len(self.clean.ids), len(self.corrupted.ids), self.values.shape[1]}
        if len(lengths) > 1:
            raise ValueError(f"the prompts and the values have {sorted(lengths)} positions")
        check_difference(self.clean_value, self.corrupted_value)
        self.values.setflags(write=False)

    @property
    def recovered(self) -> Float[np.ndarray, "layer pos"]:
        """How much of the way from the patched run's value to the other run's each patch goes.

        For denoising the fraction that is recovered, (value − corrupted) / (clean − corrupted); for
        noising the fraction that is lost, (clean − value) / (clean − corrupted). 0 where a patch
        does nothing, 1 where it does all; patches can also go below and beyond.
        """
        difference = self.clean_value - self.corrupted_value
        if self.direction == "denoising":
            return (self.values - self.corrupted_value) / difference
        return (self.clean_value - self.values) / difference


def check_difference(clean_value: float, corrupted_value: float) -> None:
    """Raise ValueError if two prompts give about the same value, so that no patch can change it."""
    size = max(1.0, abs(clean_value), abs(corrupted_value))
    if abs(clean_value - corrupted_value) <= _SMALLEST_DIFFERENCE * size:
        raise ValueError(
            f"the clean and the corrupted prompt give about the same value ({clean_value:.6g} and "
            f"{corrupted_value:.6g}), so there is no difference that a patch could recover; choose "
            "prompts, an answer or a kind of value for which they differ"
        )


def wide_frame(data: PatchingData) -> pd.DataFrame:
    """Return one row per position and one column of values per layer."""
    labels = [layer_label(layer) for layer in range(len(data.values))]
    return pd.DataFrame(data.values.T.copy(), columns=labels, index=_position_index(data))


def tidy_frame(data: PatchingData) -> pd.DataFrame:
    """Return one row per layer and position."""
    n_layers, n_positions = data.values.shape
    index = _position_index(data).to_frame(index=False)
    frame = pd.concat([index] * n_layers, ignore_index=True)
    frame.insert(0, "layer", np.repeat(np.arange(n_layers), n_positions))
    frame["value"] = data.values.reshape(-1)
    frame["recovered"] = data.recovered.reshape(-1)
    frame["site"] = data.site
    frame["direction"] = data.direction
    frame["unit"] = data.unit
    return frame


def _position_index(data: PatchingData) -> pd.MultiIndex:
    columns = [range(len(data.clean.ids)), data.clean.tokens, data.corrupted.tokens]
    return pd.MultiIndex.from_arrays(columns, names=("position", "clean_token", "corrupted_token"))
