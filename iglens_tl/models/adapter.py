"""Show both of TransformerLens' model classes in one way.

Everything that the lenses need of a model is here: its hook names, its readout as plain tensors and
a few sizes. The hook names are those of `HookedTransformer`; `TransformerBridge` answers to the
same names. What a model has is decided from the model itself, its hooks, its blocks and its final
norm, so that an architecture that nobody has seen yet is either read rightly or refused in one
sentence. Only this package imports `transformer_lens`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from iglens_tl.models.readout_tensors import extract_readout
from iglens_tl.models.refusals import architecture_of, refuse_architecture
from iglens_tl.readout.readout import Readout

Model: TypeAlias = Any
"""A `HookedTransformer` (TransformerLens 3), a `TransformerBridge` (3 and 4), a causal language
model of Hugging Face transformers, or an adapter of one of them."""

Backend: TypeAlias = Literal["hooked", "bridge"]
BlockKind: TypeAlias = Literal["sequential", "undivided", "parallel", "attention_only"]


class NotApplicableError(ValueError):
    """A lens cannot measure models of this architecture."""


@dataclass(frozen=True)
class ModelAdapter:
    """What the lenses know of a model.

    Attributes:
        model: The TransformerLens model.
        backend: "hooked" for a `HookedTransformer`, "bridge" for a `TransformerBridge`.
        hook_points: TransformerLens' hook points by name, aliases included. A bridge gathers its
            `hook_dict` anew, from all of its modules, whenever it is asked for it.
        path: The name or the whole path by which the model was loaded. Saved results, figures and
            messages carry `name` instead, which tells nothing of anyone's folders.
        n_layers: Number of blocks.
        n_ctx: Longest sequence that the model takes.
        d_vocab: Number of input tokens.
        block_kind: "sequential" blocks have a `resid_mid` between attention and MLP, which
            TransformerLens does not show of "undivided" ones. In "parallel" blocks both read the
            same state, "attention_only" ones have no MLP.
        mixer_sites: For each block the hook of what its attention adds to the stream. Some blocks
            of a hybrid have a convolution or a recurrence in the attention's place, and then it is
            the hook of what that adds.
        dtype: The precision of the model's weights.
        device: Where token ids go.
        tokenizer: The Hugging Face tokenizer, or None.
        readout: The way from the last residual state to the logits.
    """

    model: Any
    backend: Backend
    hook_points: Mapping[str, Any] = field(repr=False, compare=False)
    path: str
    n_layers: int
    n_ctx: int
    d_vocab: int
    block_kind: BlockKind
    mixer_sites: tuple[str, ...]
    dtype: torch.dtype
    device: torch.device
    tokenizer: Any
    readout: Readout

    @classmethod
    def of(cls, model: Any) -> ModelAdapter:
        """Wrap a `HookedTransformer` or a `TransformerBridge`.

        Raises:
            TypeError: For anything else.
            ValueError: For a model that is no decoder with one residual stream and a direct
                readout.
        """
        backend = _backend(model)
        path = str(getattr(model.cfg, "model_name", None) or "unnamed model")
        name = short_name(path)
        hooks = model.hook_dict
        n_layers = _count_blocks(model, hooks, name)
        mixer_sites = tuple(_mixer_site(model, hooks, layer, name) for layer in range(n_layers))
        readout = extract_readout(model, backend, name)
        if readout.d_model != model.cfg.d_model:
            raise refuse_architecture(
                name,
                architecture_of(model),
                f"the residual stream has width {model.cfg.d_model} but the unembedding reads "
                f"width {readout.d_model}, so states are projected in between",
            )
        require_float64(readout.device, name)
        d_vocab = getattr(model.cfg, "d_vocab", -1)
        return cls(
            model=model,
            backend=backend,
            hook_points=hooks,
            path=path,
            n_layers=n_layers,
            n_ctx=int(model.cfg.n_ctx),
            d_vocab=int(d_vocab) if d_vocab and d_vocab > 0 else readout.d_vocab,
            block_kind=_block_kind(model, hooks, n_layers, name),
            mixer_sites=mixer_sites,
            dtype=readout.unembed.dtype,
            device=next(iter(model.parameters())).device,
            tokenizer=getattr(model, "tokenizer", None),
            readout=readout,
        )

    @property
    def name(self) -> str:
        """The model's name for people: a hub name as it is, of a folder the last component."""
        return short_name(self.path)

    @property
    def no_mid_because(self) -> str | None:
        """Say as a clause why the blocks have no state to read between attention and MLP.

        None where they have one.
        """
        return {
            "sequential": None,
            "undivided": (
                "its blocks run attention and MLP one after the other, but the installed "
                "TransformerLens does not show the state between them (no hook hook_resid_mid)"
            ),
            "parallel": (
                "its blocks run attention and MLP in parallel on the same state, so there is no "
                "state between them"
            ),
            "attention_only": "its blocks have attention only",
        }[self.block_kind]

    @property
    def embed_site(self) -> str:
        """Hook of the embedding state, the input of the first block."""
        return self.pre_site(0)

    def pre_site(self, layer: int) -> str:
        """Return the hook of the state before a block."""
        return f"blocks.{layer}.hook_resid_pre"

    def post_site(self, layer: int) -> str:
        """Return the hook of the state after a block."""
        return f"blocks.{layer}.hook_resid_post"

    def mid_site(self, layer: int) -> str:
        """Return the hook of the state between attention and MLP of a sequential block.

        Raises:
            ValueError: If a hook of the user's acts there on a bridge.
        """
        site = f"blocks.{layer}.hook_resid_mid"
        # A bridge has this hook on the way into the MLP alone: what a function returns there
        # reaches the MLP, but not the stream.
        if self.backend == "bridge" and self.hook_points[site].fwd_hooks:
            raise ValueError(
                f"{self.name} has a hook of yours at {site}, which on a TransformerBridge changes "
                "what the MLP reads but not the residual stream, so there is no state between "
                f"attention and MLP to read; remove it, or change blocks.{layer}.hook_attn_out"
            )
        return site

    def attn_site(self, layer: int) -> str:
        """Return the hook of what the attention, or what stands in its place, adds to the stream.

        Only hybrids have something else in its place, a convolution (LFM2) or a recurrence (Jamba,
        Qwen3-Next) in some of their blocks. Such blocks have no heads.
        """
        return self.mixer_sites[layer]

    def mlp_site(self, layer: int) -> str | None:
        """Return the hook of what the MLP adds to the stream, None where there is no MLP."""
        return None if self.block_kind == "attention_only" else f"blocks.{layer}.hook_mlp_out"

    def head_site(self, layer: int) -> str:
        """Return the hook of what every head passes to W_O, `[batch, pos, head, d_head]`.

        Raises:
            NotApplicableError: If the layer has no such hook.
        """
        site = f"blocks.{layer}.attn.hook_z"
        if site not in self.hook_points:
            raise NotApplicableError(
                f"{self.name} has no hook {site}, so layer {layer} cannot be split over heads; "
                "split it over sublayers"
            )
        return site

    def pattern_site(self, layer: int) -> str:
        """Return the hook of where the heads look, `[batch, head, query, pos]`.

        Raises:
            NotApplicableError: If the layer has no such hook, or if it would not fire.
        """
        site = self._attention_site(layer, "hook_pattern")
        config = getattr(getattr(self.model, "original_model", None), "config", None)
        implementation = getattr(config, "_attn_implementation", None) or "eager"
        # The plain attention of a bridge takes its pattern from Hugging Face's attention, and only
        # the eager one has it; all other kinds of attention are computed by TransformerLens.
        plain = type(self.model.blocks[layer].attn).__name__ == "AttentionBridge"
        if plain and implementation != "eager":
            raise NotApplicableError(
                f"{self.name} runs with {implementation} attention, which keeps no patterns, so "
                "its heads cannot be split over source tokens; load the Hugging Face model with "
                "attn_implementation='eager', or split the layers over heads (by='head')"
            )
        return site

    def value_site(self, layer: int) -> str:
        """Return the hook of what heads can read at a position, `[batch, pos, head, d_head]`.

        Heads that share their values appear once.

        Raises:
            NotApplicableError: If the layer has no such hook.
        """
        return self._attention_site(layer, "hook_v")

    def neuron_site(self, layer: int) -> str | None:
        """Return the hook of what the neurons pass to W_out, `[batch, pos, d_mlp]`.

        None where there is no MLP.

        Raises:
            NotApplicableError: If the MLP is a mixture of experts.
        """
        if self.block_kind == "attention_only":
            return None
        # In a mixture of experts the hook of this name, if any, is that of the MLP's output.
        if getattr(self.model.blocks[layer].mlp, "W_out", None) is None:
            raise NotApplicableError(
                f"{self.name}: the MLP of layer {layer} has no one output matrix (it is a mixture "
                "of experts), so it cannot be split over neurons; split it over sublayers "
                "(by='sublayer')"
            )
        return f"blocks.{layer}.mlp.hook_post"

    def update_sites(self, layer: int) -> list[str]:
        """Return the hooks of what a block adds to its input."""
        sites = [self.attn_site(layer), self.mlp_site(layer)]
        return [site for site in sites if site is not None]

    def _attention_site(self, layer: int, hook: str) -> str:
        self.head_site(layer)
        site = f"blocks.{layer}.attn.{hook}"
        if site not in self.hook_points:
            raise NotApplicableError(
                f"{self.name} has no hook {site}, so its heads cannot be split over source tokens; "
                "split the layers over heads (by='head')"
            )
        return site


def is_local(path: str) -> bool:
    """Tell whether a name is a path, which says nothing about which model it is."""
    return path.startswith((".", "/", "~")) or "\\" in path or Path(path).expanduser().is_dir()


def short_name(path: str) -> str:
    """Return the last component of a path, and every other name as it is."""
    if not is_local(path):
        return path
    folder = Path(path).expanduser().absolute()
    return folder.resolve().name if folder.name == ".." else folder.name


def require_float64(device: torch.device, name: str) -> None:
    """Raise a `ValueError` for a device on which sums cannot be accumulated in float64."""
    if device.type == "mps":
        raise ValueError(
            f"{name} is on an mps device, which has no float64, so credits would not sum exactly; "
            "move it to the cpu"
        )


def hooked_transformer_class() -> Any:
    """Return the `HookedTransformer` class, or None where TransformerLens has none (4.x)."""
    try:
        from transformer_lens import HookedTransformer
    except ImportError:
        return None
    return HookedTransformer


def bridge_class() -> Any:
    """Return the `TransformerBridge` class."""
    with warnings.catch_warnings():
        # Importing the bridge for the first time warns of other projects' deprecations.
        warnings.simplefilter("ignore", DeprecationWarning)
        from transformer_lens.model_bridge import TransformerBridge
    return TransformerBridge


def _backend(model: Any) -> Backend:
    hooked = hooked_transformer_class()
    if hooked is not None and isinstance(model, hooked):
        return "hooked"
    if isinstance(model, bridge_class()):
        return "bridge"
    raise TypeError(
        "model must be a HookedTransformer, a TransformerBridge or a Hugging Face model, "
        f"got {type(model).__module__}.{type(model).__qualname__}; load one with "
        "iglens_tl.load_model(name_or_folder)"
    )


def _count_blocks(model: Any, hooks: Mapping[str, Any], name: str) -> int:
    """Return the number of blocks, all of which write to one residual stream.

    Raises:
        ValueError: If there are none, or one lacks its states' hooks or writes several streams.
    """
    n_layers = int(model.cfg.n_layers)
    prefixes = [f"blocks.{layer}" for layer in range(max(n_layers, 1))]
    sites = [f"{prefix}.hook_resid_{at}" for prefix in prefixes for at in ("pre", "post")]
    missing = [site for site in sites if site not in hooks]
    if missing:
        reason = f"it has no hook {missing[0]}"
    # TransformerLens marks the blocks of a bridge whose states are a stack of streams.
    elif not all(
        getattr(block, "hook_out_is_single_residual_stream", True) for block in model.blocks
    ):
        reason = "its blocks write several residual streams"
    else:
        return n_layers
    raise refuse_architecture(
        name,
        architecture_of(model),
        f"{reason}, and iglens_tl reads decoder-only models with one residual stream",
    )


def _mixer_site(model: Any, hooks: Mapping[str, Any], layer: int, name: str) -> str:
    """Return the hook of what a block's attention adds, or what a hybrid has in its place.

    That of a hybrid is the output of the block's one submodule that is neither norm nor MLP.

    Raises:
        ValueError: If there is no such hook, or if no block has attention.
    """
    prefix = f"blocks.{layer}"
    if f"{prefix}.hook_attn_out" in hooks:
        return f"{prefix}.hook_attn_out"
    mixers = [
        child
        for child, _ in model.blocks[layer].named_children()
        if f"{prefix}.{child}.hook_out" in hooks and child != "mlp" and not child.startswith("ln")
    ]
    is_hybrid = any(f"blocks.{other}.hook_attn_out" in hooks for other in range(model.cfg.n_layers))
    if not is_hybrid or len(mixers) != 1:
        raise refuse_architecture(
            name,
            architecture_of(model),
            f"block {layer} has no attention (no hook {prefix}.hook_attn_out), and iglens_tl reads "
            "models whose blocks add attention and an MLP to one residual stream",
        )
    return f"{prefix}.{mixers[0]}.hook_out"


def _block_kind(model: Any, hooks: Mapping[str, Any], n_layers: int, name: str) -> BlockKind:
    """Tell how the blocks' attention and MLP stand to one another.

    Raises:
        ValueError: If some blocks have an MLP and others have none.
    """
    layers = range(n_layers)
    with_mlp = [layer for layer in layers if f"blocks.{layer}.hook_mlp_out" in hooks]
    # Attention-only HookedTransformers have a hook_mlp_out that never fires.
    if getattr(model.cfg, "attn_only", False) or not with_mlp:
        return "attention_only"
    if len(with_mlp) < n_layers:
        without = min(set(layers) - set(with_mlp))
        raise refuse_architecture(
            name,
            architecture_of(model),
            f"block {without} has no MLP (no hook blocks.{without}.hook_mlp_out) while block "
            f"{with_mlp[0]} has one, and iglens_tl reads models whose blocks are alike in this",
        )
    if all(f"blocks.{layer}.hook_resid_mid" in hooks for layer in layers):
        return "sequential"
    return "parallel" if getattr(model.cfg, "parallel_attn_mlp", False) else "undivided"
