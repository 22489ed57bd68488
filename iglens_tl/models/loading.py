"""Take a model from where it is: a name, a folder, or an object that the user holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError

from iglens_tl.models.adapter import Model, ModelAdapter, hooked_transformer_class
from iglens_tl.models.checks import refuse_unmeasurable
from iglens_tl.models.hooked import MAX_N_CTX, convert_to_hooked
from iglens_tl.models.hugging_face import (
    boot_bridge,
    bridge_of,
    build_shared_bridge,
    compared,
    copy_tokenizer,
    is_hugging_face,
    model_name,
    prepare,
    refuse_quantised,
    require_measurable,
    runs_eager,
)
from iglens_tl.models.probing import Disagreement, require_agreement
from iglens_tl.models.refusals import one_line, refuse_architecture

DEMO_FOLDER = Path(__file__).parent / "demo"
"""The embedded model, an ordinary Hugging Face folder."""

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
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    ModelSource: TypeAlias = str | Path | PreTrainedModel
    BackendLike: TypeAlias = Literal["auto", "hooked", "bridge"] | str
    Tokenizer: TypeAlias = PreTrainedTokenizerBase
    DeviceMap: TypeAlias = str | int | torch.device | Mapping[str, int | str | torch.device]
else:  # anything may arrive here; `load_model` answers with a readable error
    ModelSource = BackendLike = Tokenizer = DeviceMap = Any


def load_model(
    name_or_path: ModelSource,
    *,
    tokenizer: Tokenizer | None = None,
    backend: BackendLike = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    device_map: DeviceMap | None = None,
    progress_bar: bool = False,
) -> Any:
    """Load a causal language model as a `HookedTransformer` or `TransformerBridge`.

    The weights are read by Hugging Face transformers. What TransformerLens makes of them is
    compared with Hugging Face's own model before it is returned, on texts that are longer than
    every window, chunk and rotary context that the configuration names, as far as those can be run.
    No weights are folded or centred, so the residual stream is the trained one.

    A Hugging Face model that is already in memory is measured through a bridge over its own
    weights: it stays as it is, and no second copy of the weights is made, except that
    TransformerLens copies queries, keys and values that it cuts out of a fused matrix (GPT-NeoX,
    Falcon). Load it again after changing its weights; lenses that are given the Hugging Face model
    itself see to that.

    Args:
        name_or_path: "demo" for the embedded model, a local Hugging Face folder of any name, the
            name of a model on the Hugging Face hub (TransformerLens' short names as well), or a
            causal language model of Hugging Face transformers.
        tokenizer: A Hugging Face tokenizer, which is copied. By default the one that lies beside
            the weights; a model in memory then has none and takes token ids only.
        backend: "hooked" or "bridge" force a class. "auto" gives a `HookedTransformer` where the
            installed TransformerLens has it and reproduces the architecture, else a raw
            `TransformerBridge`; of a model in memory always a bridge, because a
            `HookedTransformer` copies the weights.
        device: Where to put the model, by default the cpu. A model in memory stays where it is.
        dtype: "float32" (the default), "float64", "float16", "bfloat16", or a `torch.dtype`. The
            readout of half precision models is computed in float32 in any case. A model in memory
            keeps its own.
        revision: Branch, tag or commit of a model on the hub.
        device_map: Passed to Hugging Face in place of `device`. It may not spread the model over
            several devices.
        progress_bar: Whether Hugging Face shows the progress of downloads and of reading weights.

    Returns:
        The model, in evaluation mode and without parameter gradients, with `cfg.model_name` set to
        the name or path given here.

    Raises:
        TypeError: For a name, model or tokenizer of another kind.
        ValueError: For an unknown name, a missing or incomplete folder, an unknown backend, dtype
            or device, a model that is quantised or spread over devices, or one that TransformerLens
            does not reproduce.

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
    if is_hugging_face(name_or_path):
        _refuse_conversions(
            name_or_path, device=device, dtype=dtype, revision=revision, device_map=device_map
        )
        if backend != "hooked":
            return build_shared_bridge(name_or_path, tokenizer)
        name = model_name(name_or_path)
        require_measurable(name_or_path, name)
        own_tokenizer = None if tokenizer is None else copy_tokenizer(tokenizer)
        return _hooked(name_or_path, own_tokenizer, name)
    if device is not None and device_map is not None:
        raise ValueError(f"give device or device_map, not both; got {device!r} and {device_map!r}")
    options: dict[str, Any] = {"dtype": _resolve_dtype("float32" if dtype is None else dtype)}
    if device_map is not None:
        options["device_map"] = device_map
    target = (
        None if device_map is not None else _resolve_device("cpu" if device is None else device)
    )
    source, name = _resolve_source(name_or_path), str(name_or_path)
    if revision is not None:
        if Path(source).is_dir():
            raise ValueError(
                f"{name!r} is a folder, which has no revision {revision!r}; leave it out"
            )
        options["revision"] = revision
    with _progress_bars(progress_bar):
        hf_model, own_tokenizer = _load_from_hf(source, name, tokenizer, options)
    require_measurable(hf_model, name)
    hf_model = hf_model if target is None else hf_model.to(target)
    if backend != "bridge" and hooked_transformer_class() is not None:
        try:
            return _hooked(hf_model, own_tokenizer, name)
        except HookedRefusal:
            if backend == "hooked":
                raise
    expected = compared(hf_model, name)
    hf_model = prepare(hf_model)
    if not runs_eager(hf_model):  # a class that chooses its attention once and for all (Falcon)
        del hf_model
        options["attn_implementation"] = "eager"
        with _progress_bars(progress_bar):
            hf_model, own_tokenizer = _load_from_hf(source, name, own_tokenizer, options)
        hf_model = prepare(hf_model if target is None else hf_model.to(target))
    return boot_bridge(hf_model, own_tokenizer, expected, name=name)


def adapt(model: Model) -> ModelAdapter:
    """Wrap a model that the user built or loaded; an adapter passes through.

    A Hugging Face model is measured through a bridge over its own weights and stays as it is. It
    has no tokenizer then: for text prompts use `load_model(hf_model, tokenizer=tokenizer)`.

    Raises:
        TypeError: For anything but a `HookedTransformer`, a `TransformerBridge` or a causal
            language model of Hugging Face transformers.
        ValueError: For a model that is no decoder with one residual stream and a direct readout.
    """
    if isinstance(model, ModelAdapter):
        return model
    return ModelAdapter.of(bridge_of(model) if is_hugging_face(model) else model)


class HookedRefusal(ValueError):
    """A model cannot be loaded as a `HookedTransformer`."""


def _hooked(hf_model: Any, tokenizer: Any, name: str) -> Any:
    """Return a `HookedTransformer` that computes what the model does."""
    expected = compared(hf_model, name, longest=MAX_N_CTX)
    try:
        model = convert_to_hooked(hf_model, tokenizer, hf_model.device)
        model.eval().requires_grad_(False)
        if expected.too_long:
            # A HookedTransformer may ignore a window, which shows only on a longer text.
            raise Disagreement(
                f"its configuration names a length of {expected.too_long[0]} tokens, and it is too "
                "large here to be compared with Hugging Face on longer texts"
            )
        require_agreement(model, expected, name="HookedTransformer")
        model.cfg.model_name = name
        refuse_unmeasurable(ModelAdapter.of(model), expected.tokens[0][0])
    except (ValueError, Disagreement) as error:
        raise HookedRefusal(
            f"{name} cannot be loaded as a HookedTransformer: {error}; use backend='bridge'"
        ) from None
    return model


def _refuse_conversions(hf_model: Any, **options: Any) -> None:
    """Refuse what would make another model of one that is already in memory."""
    own = {"device": hf_model.device, "dtype": hf_model.dtype}
    resolve = {"device": _resolve_device, "dtype": _resolve_dtype}
    for option, value in options.items():
        if value is None or (option in own and resolve[option](value) == own[option]):
            continue
        raise ValueError(
            f"{option}={value!r} is for models that are loaded by name; the "
            f"{type(hf_model).__name__} in memory is measured as it is, so change it before "
            "(model.to(…)) or give its name"
        )


def _load_from_hf(
    source: str, name: str, tokenizer: Any, options: dict[str, Any]
) -> tuple[Any, Any]:
    """Read configuration, tokenizer and weights, in order of their size."""
    from transformers import AutoConfig, AutoModelForCausalLM

    where = f"the {'folder' if Path(source).is_dir() else 'Hugging Face hub model'} {name!r}"
    revision = {"revision": options["revision"]} if "revision" in options else {}
    try:
        config = AutoConfig.from_pretrained(source, **revision)
    except _UNREADABLE as error:
        raise ValueError(f"cannot load {where}: {_first_line(error)}") from error
    refuse_quantised(config, name)
    if tokenizer is None:
        tokenizer = _load_tokenizer(source, where, revision)
    else:
        tokenizer = copy_tokenizer(tokenizer)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise refuse_architecture(
            name, type(config).__name__, "transformers has no causal language model of this kind"
        )
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            experts_implementation="eager",
            output_loading_info=True,
            **options,
        )
    except _UNREADABLE as error:
        raise ValueError(f"cannot load {where}: {_first_line(error)}") from error
    hf_model, report = loaded
    parameters = {key for key, _ in hf_model.named_parameters(remove_duplicate=False)}
    missing = sorted(parameters & set(report["missing_keys"]))
    if missing:
        raise ValueError(
            f"cannot load {where}: its files hold no {missing[0]}"
            + (f" and {len(missing) - 1} more weights" if len(missing) > 1 else "")
            + ", which would be drawn at random; give all files of the model"
        )
    return hf_model, tokenizer


def _load_tokenizer(source: str, where: str, revision: Mapping[str, str]) -> Any:
    """Read a tokenizer that prepends its first token by itself, if it has one.

    Some tokenizers cut a text otherwise when that token is written in front of it. TransformerLens
    does the same, but forgets the revision.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **revision)
    except Exception as error:  # files of another library fail in whatever way they do
        raise ValueError(
            f"cannot load {where}: its tokenizer cannot be read ({one_line(error)}); save it with "
            "save_pretrained, or give tokenizer="
        ) from error
    prepends = tokenizer.init_kwargs.get(
        "add_bos_token", getattr(tokenizer, "add_bos_token", False)
    )
    if tokenizer.bos_token is not None and not prepends:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, add_bos_token=True, **revision)
        except ValueError:  # a token that the template of the tokenizer cannot hold
            tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """Show or hide the progress bars of transformers and of the hub for a while."""
    import huggingface_hub.utils as hub
    from transformers.utils import logging

    was_shown, hub_was_shown = (
        logging.is_progress_bar_enabled(),
        not hub.are_progress_bars_disabled(),
    )
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        yield
    finally:
        (logging.enable_progress_bar if was_shown else logging.disable_progress_bar)()
        (hub.enable_progress_bars if hub_was_shown else hub.disable_progress_bars)()


def _resolve_source(name_or_path: ModelSource) -> str:
    if not isinstance(name_or_path, (str, Path)):
        raise TypeError(
            "name_or_path must be a string or a path, or a Hugging Face model, got "
            f"{type(name_or_path).__name__}"
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
