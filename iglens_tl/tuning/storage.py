"""Tuned lenses in folders: the published format and safetensors.

A folder holds `config.json` with the published keys, the parameters as `params.safetensors` or, as
published, `params.pt`, and `training.json` with how the lens was trained, if that is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from iglens_tl.files import write_atomically
from iglens_tl.tuning.hub import download_lens
from iglens_tl.tuning.layouts import from_state, to_state
from iglens_tl.tuning.translators import Translators

if TYPE_CHECKING:
    NameOrPath: TypeAlias = str | Path
else:  # anything may arrive here; `load_translators` answers with a readable error
    NameOrPath = Any

CONFIG, TRAINING = "config.json", "training.json"
PARAMETERS = {"safetensors": "params.safetensors", "pt": "params.pt"}
"""File of the parameters by format; the first one is preferred when reading."""

_LENS_TYPE = "linear_tuned_lens"
_REMEDY = "download or save the lens again, or train one with `iglens tuned-lens train`"


def save_translators(
    translators: Translators, folder: NameOrPath, *, format: str = "safetensors"
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


def load_translators(name_or_path: NameOrPath, *, revision: str | None = None) -> Translators:
    """Read a lens from a folder, or from where the published lenses are.

    Parameter files are read as safetensors or with `torch.load(weights_only=True)`: code in them is
    never run.

    Args:
        name_or_path: A folder with `config.json` and the parameters, in today's or the older
            layout, or the name of a model whose published lens is wanted. Published lenses lie in
            the space `AlignmentResearch/tuned-lens` of the Hugging Face hub unless
            TUNED_LENS_REPO_ID and TUNED_LENS_REPO_TYPE name another place.
        revision: Revision of that place, for example "v0.0.4" for lenses in the older layout.

    Raises:
        TypeError: For anything but a string or a path.
        ValueError: For a missing, damaged, truncated or foreign lens.
    """
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(
            f"a lens must be a folder, a name or Translators, got {type(name_or_path).__name__}"
        )
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not (name.strip() and folder.is_dir()):
        looks_like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        if not name.strip() or isinstance(name_or_path, Path) or looks_like_a_path:
            raise ValueError(
                f"there is no folder {name!r}; give a folder with {CONFIG} and the parameters, or "
                "the hub name of a model with a published lens"
            )
        folder = download_lens(name, revision=revision)
    return _read_folder(folder, name)


def _read_folder(folder: Path, origin: str) -> Translators:
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
