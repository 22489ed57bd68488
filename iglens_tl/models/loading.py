"""Loading a model by name or from a folder."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor

from iglens_tl.models.adapter import bridge_class, hooked_transformer_class
from iglens_tl.models.hooked import HookedConversionError, convert_to_hooked

DEMO_FOLDER = Path(__file__).parent / "demo"
"""The embedded model, an ordinary Hugging Face folder."""

HF_TOLERANCE = 1e-4
"""Largest accepted difference between a loaded model's probabilities and Hugging Face's."""

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_REQUIRED_FILES = {
    "configuration (config.json)": ("config.json",),
    "weights (*.safetensors)": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer (tokenizer.json)": ("tokenizer.json", "tokenizer.model", "vocab.json"),
}
_PROBE_LENGTH = 12

if TYPE_CHECKING:
    NameOrPath: TypeAlias = str | Path
    BackendLike: TypeAlias = Literal["auto", "hooked", "bridge"] | str
else:  # anything may arrive here; `load_model` answers with a readable error
    NameOrPath = BackendLike = Any


def load_model(
    name_or_path: NameOrPath,
    *,
    backend: BackendLike = "auto",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
) -> Any:
    """Load a causal language model as a `HookedTransformer` or `TransformerBridge`.

    The weights are read by Hugging Face transformers, which shows its progress on stderr. What
    TransformerLens makes of them is compared with Hugging Face's own probabilities before it is
    returned. No weights are folded or centred, so the residual stream is the trained one.

    Args:
        name_or_path: "demo" for the embedded model, a local Hugging Face folder of any name, or
            the name of a model on the Hugging Face hub (TransformerLens' short names as well).
        backend: "hooked" or "bridge" force a class. "auto" gives a `HookedTransformer` where the
            installed TransformerLens has it and reproduces the architecture, else a raw
            `TransformerBridge`.
        device: Where to put the model.
        dtype: "float32", "float64", "float16", "bfloat16", or a `torch.dtype`. The readout of half
            precision models is computed in float32 in any case.

    Returns:
        The model, in evaluation mode and without parameter gradients, with `cfg.model_name` set to
        the name given here.

    Raises:
        ValueError: For an unknown name, a missing or incomplete folder, an unknown backend, dtype
            or device, or a model that TransformerLens does not reproduce.

    Example:
        >>> from iglens_tl import load_model
        >>> model = load_model("demo")
        >>> model.cfg.n_layers
        8
    """
    if backend not in ("auto", "hooked", "bridge"):
        raise ValueError(f"unknown backend {backend!r}; choose auto, hooked or bridge")
    if backend == "hooked" and hooked_transformer_class() is None:
        raise ValueError(
            f"the installed transformer-lens {version('transformer-lens')} has no "
            "HookedTransformer; use backend='bridge' or install 'transformer-lens<4'"
        )
    dtype, device = _resolve_dtype(dtype), _resolve_device(device)
    source = _resolve_source(name_or_path)
    hf_model, tokenizer = _load_from_hf(source, name_or_path, dtype)
    hf_model = hf_model.to(device)
    probe, expected = _probe(hf_model)
    model = None
    if backend != "bridge" and hooked_transformer_class() is not None:
        try:
            model = _accept(convert_to_hooked(hf_model, tokenizer, device), probe, expected)
        except (HookedConversionError, _Disagreement) as error:
            if backend == "hooked":
                raise ValueError(
                    f"{name_or_path} cannot be loaded as a HookedTransformer: {error}; "
                    "use backend='bridge'"
                ) from error
    if model is None:
        try:
            bridge = bridge_class().boot_transformers(
                source, hf_model=hf_model, tokenizer=tokenizer, device=device, dtype=dtype
            )
            model = _accept(bridge, probe, expected)
        except _Disagreement as error:
            raise ValueError(
                f"{name_or_path} cannot be loaded: {error}; another version of transformer-lens "
                "may support this architecture"
            ) from error
    model.cfg.model_name = str(name_or_path)
    return model


class _Disagreement(Exception):
    """TransformerLens computes other probabilities than Hugging Face."""


def _accept(model: Any, probe: Tensor, expected: Tensor) -> Any:
    """Return the model, ready for use, if it computes the expected probabilities."""
    model.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            probs = model(probe, attention_mask=torch.ones_like(probe)).float().softmax(-1)
    except RuntimeError as error:  # a HookedTransformer mixes precisions in its experts
        raise _Disagreement(f"its forward pass fails ({str(error).splitlines()[0]})") from error
    difference = (probs - expected).abs().max().item()
    half = next(iter(model.parameters())).dtype in (torch.float16, torch.bfloat16)
    if not difference <= (500 * HF_TOLERANCE if half else HF_TOLERANCE):
        raise _Disagreement(
            f"the {type(model).__name__} of transformer-lens {version('transformer-lens')} gives "
            f"probabilities that differ from Hugging Face's by up to {difference:.2g}"
        )
    return model


def _probe(hf_model: Any) -> tuple[Tensor, Tensor]:
    """Return token ids spread over the vocabulary and the probabilities that HF gives them."""
    d_vocab = hf_model.get_input_embeddings().weight.shape[0]
    probe = torch.linspace(0, d_vocab - 1, _PROBE_LENGTH).long()[None].to(hf_model.device)
    with torch.no_grad():
        logits = hf_model(probe, attention_mask=torch.ones_like(probe)).logits
    return probe, logits.float().softmax(-1)


def _load_from_hf(source: str, name: NameOrPath, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        # Eager attention is the only one whose attention patterns pass the hook points, and eager
        # experts are the only ones that compute in float64.
        hf_model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        where = "folder" if Path(source).is_dir() else "Hugging Face hub model"
        raise ValueError(f"cannot load the {where} {str(name)!r}: {reason}") from error
    hf_model.config.architectures = [type(hf_model).__name__]
    return hf_model.eval(), tokenizer


def _resolve_source(name_or_path: NameOrPath) -> str:
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(
            f"name_or_path must be a string or a path, got {type(name_or_path).__name__}"
        )
    name = str(name_or_path)
    if name == "demo":
        return str(DEMO_FOLDER)
    folder = Path(name).expanduser()
    if name.strip() and folder.is_dir():
        _require_files(folder)
        return str(folder)
    if folder.is_file():
        raise ValueError(f"{name!r} is a file; give the folder that holds the model")
    if not name.strip() or isinstance(name_or_path, Path) or _looks_like_a_path(name):
        raise ValueError(
            f"there is no folder {name!r}; give an existing folder, a hub name or 'demo'"
        )
    return _official_name(name)


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _require_files(folder: Path) -> None:
    for kind, patterns in _REQUIRED_FILES.items():
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise ValueError(
                f"the folder {str(folder)!r} has no {kind}; give an ordinary Hugging Face folder, "
                "as save_pretrained of model and tokenizer writes it"
            )


def _official_name(name: str) -> str:
    """Return the hub name behind one of TransformerLens' short names, such as gpt2-small."""
    from transformer_lens.supported_models import MODEL_ALIASES

    for official, aliases in MODEL_ALIASES.items():
        if name in aliases:
            return official
    return name


def _resolve_dtype(dtype: str | torch.dtype) -> torch.dtype:
    resolved = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in _DTYPES.values():
        raise ValueError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    return resolved


def _resolve_device(device: str | torch.device) -> torch.device:
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {device!r} is not available here; use 'cpu'") from error
    return resolved
