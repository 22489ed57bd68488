"""What a corpus is of: the model, the source, the options and how far the run has come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from iglens_tl.files import write_atomically
from iglens_tl.models.adapter import ModelAdapter

FILE = "manifest.json"
_FORMAT = "iglens_tl.Corpus"
_VERSION = 2


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder; None if there is none.

    Raises:
        ValueError: For a manifest that is damaged, or of another format or version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content.get("format"), content.get("version")
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    if known != (_FORMAT, _VERSION):
        raise ValueError(
            f"{str(path)!r} is of format {known[0]!r}, version {known[1]!r}; this release reads "
            f"{_FORMAT!r}, version {_VERSION}"
        )
    return content


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, or replace it."""
    whole = {"format": _FORMAT, "version": _VERSION, **content}
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    write_atomically(
        folder / FILE, lambda path: path.write_text(text, encoding="utf-8"), durable=True
    )


def require_equal(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was begun otherwise.

    Args:
        folder: The corpus.
        found: What its manifest says under the keys of `wanted`.
        wanted: What it would say of the new run.

    Raises:
        ValueError: Naming all that differs.
    """
    pairs = _flat(found, tuple(wanted)), _flat(json.loads(json.dumps(wanted)), tuple(wanted))
    differing = [
        name
        for name in dict.fromkeys([*pairs[0], *pairs[1]])
        if pairs[0].get(name) != pairs[1].get(name)
    ]
    if not differing:
        return
    told = [
        f"{name} was {_short(pairs[0].get(name))} and is {_short(pairs[1].get(name))}"
        for name in differing[:4]
    ]
    more = f", and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise ValueError(
        f"{str(folder)!r} holds a corpus of another run: {'; '.join(told)}{more}; repeat its "
        "command, or give another folder"
    )


def describe_model(adapter: ModelAdapter) -> dict[str, Any]:
    """Return what identifies a model and its tokenizer."""
    return {
        "name": adapter.name,
        "backend": adapter.backend,
        "dtype": str(adapter.dtype).removeprefix("torch."),
        "n_layers": adapter.n_layers,
        "weights": _hash_of_weights(adapter.model),
        "tokenizer": _hash_of_tokenizer(adapter.tokenizer),
    }


def _hash_of_weights(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(plain.data)
    return digest.hexdigest()


def _hash_of_tokenizer(tokenizer: Any) -> str | None:
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = {"vocabulary": tokenizer.get_vocab()}
    if backend is not None:
        content = json.loads(backend.to_str())
        for of_a_call in ("truncation", "padding"):  # as the last call has left them
            content.pop(of_a_call, None)
    rules = json.dumps(content, sort_keys=True)
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    template = getattr(tokenizer, "chat_template", None) or ""
    return hashlib.sha256(f"{rules}{special}{template}".encode()).hexdigest()


def _flat(content: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the leaves of nested mappings, and files by their names, under readable names."""
    leaves: dict[str, Any] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                visit(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for place, inner in enumerate(value):
                visit(f"{name}.{inner.get('name', place)}", inner)
        else:
            leaves[name] = value

    for key in keys:
        visit(key, content.get(key))
    return leaves


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
