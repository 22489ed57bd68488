"""Store tuned lenses in folders: the published format and safetensors.

A folder holds `config.json` with the published keys, the parameters as `params.safetensors` or, as
published, `params.pt`, and `training.json` with how the lens was trained, if that is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iglens_tl.files import write_atomically
from iglens_tl.tuning.translators import Translators

CONFIG, TRAINING = "config.json", "training.json"
PARAMETERS = {"safetensors": "params.safetensors", "pt": "params.pt"}
"""File of the parameters by format; the first one is preferred when reading."""

_LENS_TYPE = "linear_tuned_lens"
_REMEDY = "download or save the lens again, or train one with `iglens tuned-lens train`"

# `{i}.weight`, as published since version 0.1 of the tuned-lens package.
_PLAIN = re.compile(r"(\d+)\.(weight|bias)")
# The state of a whole module. Translators were called probes and adapters before.
_OF_LAYERS = re.compile(r"layer_(?:translators|probes|adapters)\.(\d+)\.(weight|bias)")
_OF_INPUT = re.compile(r"input_(?:translator|probe|adapter)\.(weight|bias)")
# Copies of the model's own final norm and unembedding that whole modules carry along.
_OF_MODEL = re.compile(r"(?:layer_norm|unembedding|unembed)\.|(?:layer_norm|unembedding)$")


def save_translators(
    translators: Translators, folder: str | Path, *, format: str = "safetensors"
) -> Path:
    """Write a lens to a folder, which is created if its parent exists.

    Args:
        translators: The lens.
        folder: Where to; files of the same names are replaced.
        format: "safetensors", or "pt" for the published format.

    Returns:
        The folder.

    Raises:
        ValueError: For an unknown format or a folder that cannot be written.
    """
    if format not in PARAMETERS:
        raise ValueError(f"unknown format {format!r}; choose one of {', '.join(PARAMETERS)}")
    folder = Path(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error
    state = to_state(translators.weight, translators.bias)
    if format == "safetensors":
        from safetensors.torch import save_file

        write_atomically(folder / PARAMETERS[format], lambda path: save_file(state, path))
    else:
        write_atomically(folder / PARAMETERS[format], lambda path: torch.save(state, path))
    if translators.training:
        _write_json(folder / TRAINING, dict(translators.training))
    config = {
        "base_model_name_or_path": translators.base_model,
        "d_model": translators.d_model,
        "num_hidden_layers": translators.n_layers,
        "bias": translators.bias is not None,
        "base_model_revision": translators.revision,
        "unembed_hash": translators.unembed_hash,
        "lens_type": _LENS_TYPE,
    }
    _write_json(folder / CONFIG, config)
    # What an earlier lens left in this folder would otherwise be read in place of this one.
    stale = [name for other, name in PARAMETERS.items() if other != format]
    for name in stale if translators.training else [*stale, TRAINING]:
        (folder / name).unlink(missing_ok=True)
    return folder


def read_folder(folder: Path, origin: str) -> Translators:
    """Read a lens from its folder.

    Parameter files are read as safetensors or with `torch.load(weights_only=True)`: code in them is
    never run.

    Args:
        folder: The folder, which exists.
        origin: What to call it in messages and provenance.

    Raises:
        ValueError: For a missing, damaged, truncated or foreign lens.
    """
    config = _read_json(folder / CONFIG)
    lens_type = config.get("lens_type", _LENS_TYPE)
    if lens_type != _LENS_TYPE:
        raise ValueError(
            f"{str(folder / CONFIG)!r} describes a lens of type {lens_type!r}; only "
            f"{_LENS_TYPE!r} is known"
        )
    n_layers = _integer(config, folder, "num_hidden_layers", "num_layers")
    d_model = _integer(config, folder, "d_model")
    path = next((folder / name for name in PARAMETERS.values() if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(
            f"the folder {str(folder)!r} has no parameters ({' or '.join(PARAMETERS.values())}); "
            + _REMEDY
        )
    try:
        weight, bias = from_state(_read_parameters(path), n_layers)
        for what, declared, found in (
            ("translators", n_layers, weight.shape[0]),
            ("dimensions", d_model, weight.shape[-1]),
        ):
            if declared is not None and declared != found:
                raise ValueError(f"has {found} {what} but {CONFIG} says {declared}")
    except ValueError as error:
        raise ValueError(f"the file {str(path)!r} {error}; {_REMEDY}") from error
    training = _read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    return Translators(
        weight=weight,
        bias=bias,
        base_model=str(config.get("base_model_name_or_path") or origin),
        revision=_text(config, "base_model_revision"),
        unembed_hash=_text(config, "unembed_hash"),
        training=training,
        origin=origin,
    )


def to_state(weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Return the published names and tensors of translators."""
    state = {f"{i}.weight": matrix.clone() for i, matrix in enumerate(weight.detach().cpu())}
    if bias is not None:
        state |= {f"{i}.bias": vector.clone() for i, vector in enumerate(bias.detach().cpu())}
    return state


def from_state(state: Any, n_layers: int | None) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of the translators in any known layout.

    Args:
        state: What a parameter file holds.
        n_layers: The model's number of blocks as the configuration says, or None.

    Raises:
        ValueError: With what is wrong, as a clause that follows "the file …".
    """
    if not isinstance(state, Mapping) or not state:
        raise ValueError("holds no parameters")
    named = _by_layer(state, n_layers)
    found = sorted({layer for layer, _ in named})
    if found != list(range(len(found))):
        missing = min(set(range(found[-1])) - set(found))
        raise ValueError(f"has translator {found[-1]} but no translator {missing}")
    weights = [named.get((layer, "weight")) for layer in found]
    biases = [named.get((layer, "bias")) for layer in found]
    if any(weight is None for weight in weights):
        raise ValueError(f"has no weight for translator {weights.index(None)}")
    if any(bias is None for bias in biases) and any(bias is not None for bias in biases):
        raise ValueError("has biases for some translators only")
    first = weights[0]
    assert first is not None
    if first.ndim != 2 or first.shape[0] != first.shape[1]:
        raise ValueError(f"has a weight of shape {tuple(first.shape)} where a square is expected")
    _require_shape(weights, first.shape, "weight")
    _require_shape(biases, first.shape[:1], "bias")
    weight = torch.stack([w for w in weights if w is not None])
    bias = None if biases[0] is None else torch.stack([b for b in biases if b is not None])
    if not bool(torch.isfinite(weight).all()) or not bool(
        torch.isfinite(weight if bias is None else bias).all()
    ):
        raise ValueError("holds NaN or infinite parameters")
    return weight, bias


def _by_layer(state: Mapping[Any, Any], n_layers: int | None) -> dict[tuple[int, str], Tensor]:
    """Return the parameters by (translator, "weight" or "bias") in today's numbering."""
    of_layers: dict[tuple[int, str], Tensor] = {}
    of_input: dict[tuple[int, str], Tensor] = {}
    whole_module = False
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"holds {name!r}, which is no tensor")
        if match := _PLAIN.fullmatch(str(name)):
            of_layers[int(match[1]), match[2]] = tensor
        elif match := _OF_LAYERS.fullmatch(str(name)):
            of_layers[int(match[1]), match[2]] = tensor
            whole_module = True
        elif match := _OF_INPUT.fullmatch(str(name)):
            of_input[0, match[1]] = tensor
        elif not _OF_MODEL.match(str(name)):
            raise ValueError(f"holds {name!r}, which is no parameter of a linear tuned lens")
    if not of_layers and not of_input:
        raise ValueError("holds no translators")
    if of_input:
        # Older lenses counted the translators behind blocks and kept the embedding's apart.
        return of_input | {(layer + 1, kind): t for (layer, kind), t in of_layers.items()}
    n_found = len({layer for layer, _ in of_layers})
    if whole_module and n_layers is not None and n_found == n_layers - 1:
        raise ValueError(
            "has no translator for the embedding state, so its layers cannot be told apart"
        )
    return of_layers


def _require_shape(tensors: list[Tensor | None], shape: torch.Size, kind: str) -> None:
    for layer, tensor in enumerate(tensors):
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(
                f"has a {kind} of shape {tuple(tensor.shape)} for translator {layer} where "
                f"{tuple(shape)} is expected"
            )
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"has a {kind} of type {tensor.dtype} for translator {layer}")


def _read_parameters(path: Path) -> Any:
    """Return the content of a parameter file without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A foreign or damaged file fails in whatever part of its format breaks first.
    except Exception as error:
        raise ValueError(
            "is damaged, truncated, or holds something other than tensors "
            f"({type(error).__name__}), and nothing in it was run"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"the folder {str(path.parent)!r} has no {path.name}; give the folder of a tuned lens"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"the file {str(path)!r} is no JSON ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the file {str(path)!r} holds no JSON object; {_REMEDY}")
    return content


def _integer(config: dict[str, Any], folder: Path, *names: str) -> int | None:
    value = next((config[name] for name in names if config.get(name) is not None), None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(
            f"{str(folder / CONFIG)!r}: {names[0]} must be a positive integer, got {value!r}; "
            + _REMEDY
        )
    return value


def _text(config: dict[str, Any], name: str) -> str | None:
    value = config.get(name)
    return None if value is None else str(value)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, default=str) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
