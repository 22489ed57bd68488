"""Measure a Hugging Face model that the user holds, through a bridge over its weights."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from iglens_tl.models.adapter import ModelAdapter, bridge_class
from iglens_tl.models.checks import refuse_unmeasurable
from iglens_tl.models.probing import Disagreement, probe, require_agreement
from iglens_tl.models.refusals import one_line, refuse_architecture
from iglens_tl.models.sharing import ModelState, copy_sharing_weights, model_state

_bridges: weakref.WeakKeyDictionary[Any, tuple[ModelState, Any]] = weakref.WeakKeyDictionary()


def is_hugging_face(model: Any) -> bool:
    """Return whether an object is a model of Hugging Face transformers."""
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def bridge_of(hf_model: Any) -> Any:
    """Return the bridge over a Hugging Face model's weights, without a tokenizer.

    It is kept as long as the model lives, and made anew when a weight, a module or a hook of the
    model changed, because TransformerLens copies what it cuts out of fused matrices.

    Raises:
        ValueError: If TransformerLens does not reproduce the model.
    """
    state = model_state(hf_model)
    known = _bridges.get(hf_model)
    if known is not None and known[0] == state:
        return known[1]
    bridge = build_shared_bridge(hf_model, None)
    _bridges[hf_model] = (state, bridge)
    return bridge


def build_shared_bridge(hf_model: Any, tokenizer: Any) -> Any:
    """Build a bridge over the weights of a Hugging Face model, which stays as it is.

    Args:
        hf_model: A causal language model with its weights on one device.
        tokenizer: Its tokenizer, which is copied, or None.

    Raises:
        TypeError: For a tokenizer of another kind.
        ValueError: If the model cannot be measured, or TransformerLens does not reproduce it.
    """
    name = model_name(hf_model)
    require_measurable(hf_model, name)
    expected = compared(hf_model, name)
    shared = prepare(copy_sharing_weights(hf_model))
    own_tokenizer = None if tokenizer is None else copy_tokenizer(tokenizer)
    return boot_bridge(shared, own_tokenizer, expected, name=name)


def boot_bridge(hf_model: Any, tokenizer: Any, expected: Any, *, name: str) -> Any:
    """Turn a Hugging Face model into a bridge, in place, and compare it with what it was.

    Args:
        hf_model: The model, which is lost.
        tokenizer: Its tokenizer as `copy_tokenizer` prepares one, or None.
        expected: What `iglens_tl.models.probing.probe` found of the model.
        name: The model's name, for messages.

    Raises:
        ValueError: If TransformerLens does not read or not reproduce the model, or if the lenses
            cannot measure it.
    """
    architecture = type(hf_model).__name__
    installed = f"transformer-lens {version('transformer-lens')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            bridge = bridge_class().boot_transformers(
                name,
                hf_model=hf_model,
                tokenizer=_stand_in() if tokenizer is None else tokenizer,
                device=hf_model.device,
                dtype=hf_model.dtype,
            )
    # TransformerLens reports what it cannot read by whatever its parts trip over.
    except Exception as error:
        raise refuse_architecture(
            name,
            architecture,
            f"{installed} cannot read it ({one_line(error)})",
            remedy="use another model of its family, or another version of transformer-lens",
        ) from None
    if tokenizer is None:
        bridge.tokenizer = None
    bridge.eval().requires_grad_(False)
    bridge.cfg.model_name = name
    try:
        require_agreement(bridge, expected, name="TransformerBridge")
    except Disagreement as error:
        raise refuse_architecture(
            name,
            architecture,
            str(error),
            remedy="another version of transformer-lens may support this architecture",
        ) from error
    refuse_unmeasurable(ModelAdapter.of(bridge), expected.tokens[0][0])
    return bridge


def compared(hf_model: Any, name: str, *, longest: int | None = None) -> Any:
    """Run a Hugging Face model on the texts that TransformerLens is compared on.

    It runs as its user runs it, with the attention that Hugging Face chose: where eager attention,
    which TransformerLens reads, computes something else (Falcon with ALiBi), that is a difference.

    Raises:
        ValueError: If the model's own logits are NaN, or its forward pass fails.
    """
    try:
        with _evaluating(hf_model):
            return probe(hf_model, longest=longest)
    except ValueError as error:
        raise ValueError(f"{name} cannot be measured: {error}") from error
    except (RuntimeError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise refuse_architecture(
            name,
            type(hf_model).__name__,
            f"Hugging Face's own forward pass fails ({one_line(error)})",
            remedy="run the model on a short text to see why",
        ) from error


def prepare(hf_model: Any) -> Any:
    """Let a model compute in the way that TransformerLens can read, and return it.

    Eager attention is the only one whose patterns pass the hook points, and eager experts are the
    only ones that compute in float64.
    """
    hf_model.eval()
    hf_model.set_attn_implementation("eager")
    hf_model.set_experts_implementation("eager")
    # TransformerLens chooses by the class's name, which models made in memory do not have here.
    hf_model.config.architectures = [type(hf_model).__name__]
    return hf_model


def runs_eager(hf_model: Any) -> bool:
    """Return whether a model runs with eager attention; not every class can be switched to it."""
    return getattr(hf_model.config, "_attn_implementation", None) in (None, "eager")


def require_measurable(hf_model: Any, name: str) -> None:
    """Refuse models that no lens can measure, whatever their architecture.

    Raises:
        ValueError: For a model without unembedding or weights, that is quantised or sharded, or
            that TransformerLens already took apart.
    """
    architecture = type(hf_model).__name__
    if any("model_bridge" in type(module).__module__ for module in hf_model.modules()):
        raise refuse_architecture(
            name,
            architecture,
            "its modules already belong to a TransformerBridge",
            remedy="give the bridge",
        )
    if getattr(hf_model.config, "is_encoder_decoder", False):
        raise refuse_architecture(name, architecture, "it is an encoder and a decoder")
    if hf_model.get_output_embeddings() is None:
        raise refuse_architecture(
            name, architecture, "it has no unembedding", remedy="give the model …ForCausalLM"
        )
    refuse_quantised(hf_model.config, name)
    devices = sorted({str(weight.device) for weight in hf_model.parameters()})
    offloaded = {str(place) for place in getattr(hf_model, "hf_device_map", {}).values()}
    if "meta" in devices or "disk" in offloaded:
        raise ValueError(
            f"{name} cannot be measured: some of its weights are not in memory (devices "
            f"{', '.join(devices)}); load the model without offloading"
        )
    if len(devices) > 1:
        raise ValueError(
            f"{name} cannot be measured: its weights lie on {len(devices)} devices "
            f"({', '.join(devices)}), and the lenses read a model on one; load it with "
            "device_map={'': device} or a smaller precision, such as dtype='bfloat16'"
        )


def refuse_quantised(config: Any, name: str) -> None:
    """Raise a `ValueError` for a configuration of packed weights."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    get = quantization.get if isinstance(quantization, dict) else vars(quantization).get
    method = get("quant_method")
    method = str(getattr(method, "value", method) or "unknown method")
    raise ValueError(
        f"{name} cannot be measured: its weights are quantised ({method}), and the lenses read "
        "weights as matrices; load the model unquantised, for instance with dtype='bfloat16', or "
        "call its dequantize()"
    )


def model_name(hf_model: Any) -> str:
    """Return the name or path that a Hugging Face model was loaded by, or else its class."""
    return str(getattr(hf_model, "name_or_path", "") or type(hf_model).__name__)


def copy_tokenizer(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that TransformerLens may change and takes as it is.

    It gives missing special tokens a value, and reads a tokenizer that does not prepend one anew
    from where it came from, which loses what was added to it.

    Raises:
        TypeError: For anything but a Hugging Face tokenizer.
    """
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise TypeError(
            "tokenizer must be a Hugging Face tokenizer, as AutoTokenizer.from_pretrained gives "
            f"it, got {type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
        )
    copied = copy.deepcopy(tokenizer)
    copied.init_kwargs.setdefault("name_or_path", copied.name_or_path)
    copied.init_kwargs["add_bos_token"] = True
    return copied


def _stand_in() -> Any:
    """Return a tokenizer for TransformerLens to read instead of looking for one on the hub."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = Tokenizer(models.WordLevel({"<s>": 0, "a": 1}, "<s>"))
    return copy_tokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=empty, bos_token="<s>", eos_token="<s>", pad_token="<s>"
        )
    )


@contextmanager
def _evaluating(hf_model: Any) -> Iterator[None]:
    """Switch every module to evaluation for a while."""
    training = [module for module in hf_model.modules() if module.training]
    try:
        hf_model.eval()
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
