"""Copy a model's modules without copying its weights.

TransformerLens wraps the modules of a Hugging Face model in place: names in its state dict change
and it can no longer be saved. So it is given modules of its own, over the user's weights.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any, TypeAlias

from torch import Tensor, nn

ModelState: TypeAlias = tuple[Any, ...]
"""What tells whether a model is still the one that it was."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_LIBRARIES = ("transformer_lens", "transformers", "accelerate")


def copy_sharing_weights(model: nn.Module) -> Any:
    """Return a copy of a model whose parameters and buffers use the memory of the model's.

    Parameters of the copy are objects of their own, without gradients, so that neither model sees
    when the other's are replaced or switched. Hooks and replaced `forward` functions act on the
    copy as well; objects that they belong to are not copied.

    Raises:
        ValueError: If something that hangs on the model cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        # Other classes hold packed weights and know how to use them; those are taken as they are.
        plain = type(parameter) is nn.Parameter
        memo[id(parameter)] = (
            nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
        )
    for tensor in model.buffers():
        memo[id(tensor)] = tensor
    modules = set(map(id, model.modules()))
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor):
                memo[id(value)] = value
        for name in _HOOKS:
            memo |= {id(hook): hook for hook in getattr(module, name).values()}
        forward = vars(module).get("forward")
        if isinstance(forward, MethodType) and id(forward.__self__) not in modules:
            memo[id(forward)] = forward
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a foreign attribute raises
        raise ValueError(
            f"the modules of this {type(model).__name__} cannot be copied "
            f"({type(error).__name__}: {error}); remove what was attached to it, or save it and "
            "load the folder"
        ) from error


def model_state(model: nn.Module) -> ModelState:
    """Return what changes when a weight, a module, a hook or a `forward` of a model does.

    Values inside objects that hooks use cannot be seen.
    """
    return weights_state(model), functions_state(model)


def weights_state(model: nn.Module) -> ModelState:
    """Identify the current weights: where they lie, and how often each was written in place."""
    tensors = [*model.parameters(), *model.buffers()]
    return tuple(
        (
            tensor.data_ptr() if tensor.device.type != "meta" else id(tensor),
            tensor.shape,
            tensor.dtype,
            0 if tensor.is_inference() else tensor._version,
        )
        for tensor in tensors
    )


def functions_state(model: nn.Module) -> ModelState:
    """Identify the modules of a model, the hooks at them, and replaced `forward` functions."""
    return tuple(
        (
            id(module),
            type(module),
            tuple(key for name in _HOOKS for key in getattr(module, name)),
            _weak(vars(module)["forward"]) if "forward" in vars(module) else None,
        )
        for module in _all_modules(model)
    )


def user_functions(model: Any) -> bool:
    """Return whether functions of the user's act in a model otherwise than at hooks of its blocks.

    These are hooks beside or after the blocks, at the final norm or the unembedding, PyTorch's own
    hooks at any module, and replaced `forward` functions.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`.
    """
    hooked_points = []
    for module in _all_modules(model):
        functions = [hook for name in _HOOKS for hook in getattr(module, name).values()]
        if hasattr(module, "fwd_hooks"):  # a hook point, whose hooks TransformerLens wraps
            if functions:
                hooked_points.append(module)
            continue
        if "forward" in vars(module):
            functions.append(vars(module)["forward"])
        if not all(map(_is_library, functions)):
            return True
    if not hooked_points:
        return False
    in_blocks = {id(module) for block in model.blocks for module in block.modules()}
    return not in_blocks.issuperset(map(id, hooked_points))


def _all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model's modules, and those around the modules that a bridge took from its model."""
    seen: set[int] = set()
    for root in (model, vars(model).get("original_model")):
        for module in root.modules() if root is not None else ():
            if id(module) not in seen:
                seen.add(id(module))
                yield module


def _is_library(function: Any) -> bool:
    """Return whether a function belongs to a library that runs the model."""
    while isinstance(function, partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] in _LIBRARIES


def _weak(function: Any) -> Any:
    """Return a reference that equals only references to the same living object."""
    try:
        return weakref.ref(function)
    except TypeError:
        return id(function)
