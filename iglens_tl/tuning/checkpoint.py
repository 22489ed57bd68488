"""The file from which an interrupted training of a tuned lens goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iglens_tl.files import write_atomically

FILE = "checkpoint.pt"


class Checkpoint:
    """The checkpoint file of one training.

    What is saved is tied to the settings and the text, because continuing with others would give a
    lens that no single training gives.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], sequences: Tensor) -> None:
        self.path = Path(folder) / FILE
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"cannot make the folder {str(self.path.parent)!r}: {error.strerror}"
            ) from error
        digest = hashlib.sha256(sequences.contiguous().numpy().data)
        self._belongs_to: dict[str, Any] = {
            **settings,
            "sequences": list(sequences.shape),
            "text": digest.hexdigest(),
        }

    def save(self, step: int, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Replace the checkpoint."""
        state = {
            "step": step,
            "parameters": [parameter.detach().cpu() for parameter in parameters],
            "optimizer": optimizer.state_dict(),
            "belongs_to": self._belongs_to,
        }
        write_atomically(self.path, lambda path: torch.save(state, path))

    def restore(self, parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Load the checkpoint into parameters and optimiser and return its step; 0 without one.

        Raises:
            ValueError: If it is damaged, or was made with other settings or another text.
        """
        if not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            belongs_to, step, saved = state["belongs_to"], state["step"], state["parameters"]
            optimizer_state = state["optimizer"]
            shapes = [tuple(tensor.shape) for tensor in saved]
        # A damaged file fails in whatever part of its format breaks first.
        except Exception as error:
            raise ValueError(
                f"the checkpoint {str(self.path)!r} is damaged ({type(error).__name__}); delete it "
                "and train again"
            ) from error
        for name, value in self._belongs_to.items():
            if belongs_to.get(name) != value:
                what = "another text" if name == "text" else f"{name}={belongs_to.get(name)!r}"
                asked = "" if name == "text" else f", not {value!r}"
                raise ValueError(
                    f"the checkpoint {str(self.path)!r} was made with {what}{asked}; continue with "
                    "what it was made with, or give another folder"
                )
        if shapes != [tuple(parameter.shape) for parameter in parameters]:
            raise ValueError(
                f"the checkpoint {str(self.path)!r} belongs to a model of another size; give "
                "another folder"
            )
        with torch.no_grad():
            for parameter, tensor in zip(parameters, saved, strict=True):
                parameter.copy_(tensor)
        optimizer.load_state_dict(optimizer_state)
        return int(step)

    def require_none(self) -> None:
        """Refuse to replace the checkpoint of an earlier training.

        Raises:
            ValueError: If there is one.
        """
        if self.path.exists():
            raise ValueError(
                f"there is a checkpoint {str(self.path)!r} already; resume from it, delete it, or "
                "give another folder"
            )
