"""Patching results: the value of an answer with one activation of a run replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.data import Provenance, Target, Text
from iglens_tl.results.lens import LensResult
from iglens_tl.results.objects import (
    decode_array,
    decode_provenance,
    decode_target,
    decode_text,
    load_object,
    save_object,
)
from iglens_tl.results.segments import layer_label

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

DIRECTIONS = {
    "denoising": "activations of the clean run replace those of the corrupted run",
    "noising": "activations of the corrupted run replace those of the clean run",
}
"""Which run is patched, and with what."""

_SMALLEST_DIFFERENCE = 1e-6
_KIND = "PatchingResult"
_NAME = "activation_patching"
_LOSSES_NOTE = "levels are the value that is lost when the state after a layer is replaced"


@dataclass(frozen=True, eq=False, repr=False)
class PatchingResult:
    """The value of an answer under every patch of a run.

    The result is immutable. Its methods return new objects and write or show nothing unasked.

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

    def to_frame(self, *, tidy: bool = False) -> pd.DataFrame:
        """Return the result as a table.

        Args:
            tidy: False: one row per position, named by position and tokens, and one column of
                values per layer. True: one row per layer and position, with `value` and
                `recovered`.
        """
        return _tidy_frame(self) if tidy else _wide_frame(self)

    def save(self, path: str | Path) -> Path:
        """Write the result without loss to a `.json` file.

        An interrupted write leaves no partial file.

        Raises:
            ValueError: For another ending, or a path that cannot be written.
        """
        fields = {**asdict(self), "values": self.values.tolist()}
        return save_object(path, _KIND, fields)

    @classmethod
    def load(cls, path: str | Path) -> PatchingResult:
        """Read a result that `save` wrote.

        Raises:
            ValueError: For a missing, damaged or foreign file.
        """
        return load_object(path, _KIND, cls._decode)

    def figure(self, *, show: str = "recovered", title: str | None = None) -> Figure:
        """Draw the default view of a result, its `heatmap`."""
        return self.heatmap(show=show, title=title)

    def heatmap(self, *, show: str = "recovered", title: str | None = None) -> Figure:
        """Draw the layer × position map; see `iglens_tl.views.figures.patching_heatmap`."""
        from iglens_tl.views.figures import patching_heatmap

        return patching_heatmap(self, show=show, title=title)

    def to_effects(self) -> LensResult:
        """Return what every layer adds at the last position, to compare with credits.

        Replacing the state of the last position after layer l brings over what the layers up to l
        have put there. The change of the value from one layer to the next is therefore a causal
        counterpart of the layer's credit in `ig_lens`: what the layer newly brings to the last
        position, but with the rest of the model running on as usual.

        Returns:
            Segments "L0", "L1", …; for denoising `levels` are the values of the patches at the last
            position, from the patched embedding (`baseline`) to the clean value (`final`). For
            noising they are what the clean value loses by the patches, up to all of the difference
            between the runs. The target is that of `ig_lens(model, clean, targets=[answer])`.

        Raises:
            ValueError: For another site than "resid_post".
        """
        if self.site != "resid_post":
            raise ValueError(
                f"{self.site} was replaced, but only states after a layer hold what all layers so "
                "far have added; call activation_patching with site='resid_post'"
            )
        curve = np.array([self.embed_value, *self.values[:, -1]])
        denoising = self.direction == "denoising"
        levels = curve if denoising else self.clean_value - curve
        notes = () if denoising else (_LOSSES_NOTE,)
        return LensResult(
            lens=_NAME,
            unit=self.unit,
            kind="credit",
            segments=tuple(layer_label(layer) for layer in range(len(self.values))),
            texts=(self.clean,),
            targets=(self.target,),
            values=np.diff(levels)[None],
            levels=levels[None, 1:],
            baseline=levels[:1],
            final=levels[-1:],
            provenance=replace(self.provenance, notes=self.provenance.notes + notes),
        )

    @classmethod
    def _decode(cls, content: Mapping[str, Any]) -> PatchingResult:
        return cls(
            site=content["site"],
            direction=content["direction"],
            unit=content["unit"],
            clean=decode_text(content["clean"]),
            corrupted=decode_text(content["corrupted"]),
            target=decode_target(content["target"]),
            values=decode_array(content["values"]),
            clean_value=content["clean_value"],
            corrupted_value=content["corrupted_value"],
            embed_value=content["embed_value"],
            provenance=decode_provenance(content["provenance"]),
        )

    def _repr_html_(self) -> str:
        from iglens_tl.views.notebook import patching_table

        return patching_table(self)

    def __repr__(self) -> str:
        """Say what the result holds in one line."""
        n_layers, n_positions = self.values.shape
        return (
            f"PatchingResult({self.direction} at {self.site}, "
            f"{self.provenance.model.get('name', 'unnamed model')}: {n_layers} layers × "
            f"{n_positions} positions in {self.unit}, clean {self.clean_value:.4g}, corrupted "
            f"{self.corrupted_value:.4g})"
        )


def check_difference(clean_value: float, corrupted_value: float) -> None:
    """Raise ValueError if two prompts give about the same value, so that no patch can change it."""
    size = max(1.0, abs(clean_value), abs(corrupted_value))
    if abs(clean_value - corrupted_value) <= _SMALLEST_DIFFERENCE * size:
        raise ValueError(
            f"the clean and the corrupted prompt give about the same value ({clean_value:.6g} and "
            f"{corrupted_value:.6g}), so there is no difference that a patch could recover; choose "
            "prompts, an answer or a kind of value for which they differ"
        )


def _wide_frame(data: PatchingResult) -> pd.DataFrame:
    """Return one row per position and one column of values per layer."""
    labels = [layer_label(layer) for layer in range(len(data.values))]
    return pd.DataFrame(data.values.T.copy(), columns=labels, index=_position_index(data))


def _tidy_frame(data: PatchingResult) -> pd.DataFrame:
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


def _position_index(data: PatchingResult) -> pd.MultiIndex:
    columns = [range(len(data.clean.ids)), data.clean.tokens, data.corrupted.tokens]
    return pd.MultiIndex.from_arrays(columns, names=("position", "clean_token", "corrupted_token"))
