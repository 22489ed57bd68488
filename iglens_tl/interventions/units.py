"""The parts of a model that interventions act on: blocks, sublayers and heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.results.segments import attention_label, head_label, layer_label, mlp_label


class Unit(ABC):
    """A kind of part that every block has one or several of."""

    @abstractmethod
    def labels(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the segments of a block's units.

        Raises:
            ValueError: If the architecture has no such unit.
        """

    @abstractmethod
    def site(self, adapter: ModelAdapter, layer: int) -> str:
        """Return the hook at which a unit's update is replaced."""

    def read_sites(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the hooks that `update` reads."""
        return [self.site(adapter, layer)]

    def update(self, adapter: ModelAdapter, layer: int, found: Mapping[str, Tensor]) -> Tensor:
        """Return what a block's units write, from what was found at `read_sites`."""
        return found[self.site(adapter, layer)]

    def replace(
        self,
        adapter: ModelAdapter,
        layer: int,
        activation: Tensor,
        inputs: Tensor,
        update: Tensor,
        where: Bool[Tensor, "branch pos"],
        units: Int[Tensor, " branch"],
    ) -> Tensor:
        """Return the activation at `site` when some units write something else.

        Args:
            adapter: The model.
            layer: The block.
            activation: What stands at the site, `[branch, pos, …]`.
            inputs: The states at the block's input, `[branch, pos, d_model]`.
            update: What the units write instead.
            where: At which positions they do.
            units: Which of the block's units it is in each branch.
        """
        del adapter, layer, inputs, units
        return torch.where(where[:, :, None], update, activation)


class LayerUnit(Unit):
    """Whole blocks, which write the difference of their output and input."""

    def labels(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the block's own segment."""
        del adapter
        return [layer_label(layer)]

    def site(self, adapter: ModelAdapter, layer: int) -> str:
        """Return the hook of the state after the block."""
        return adapter.post_site(layer)

    def read_sites(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the hooks of the states before and after the block."""
        return [adapter.pre_site(layer), adapter.post_site(layer)]

    def update(self, adapter: ModelAdapter, layer: int, found: Mapping[str, Tensor]) -> Tensor:
        """Return the difference of the two states."""
        return found[adapter.post_site(layer)] - found[adapter.pre_site(layer)]

    def replace(
        self,
        adapter: ModelAdapter,
        layer: int,
        activation: Tensor,
        inputs: Tensor,
        update: Tensor,
        where: Bool[Tensor, "branch pos"],
        units: Int[Tensor, " branch"],
    ) -> Tensor:
        """Return the state after a block that writes something else."""
        del adapter, layer, units
        return torch.where(where[:, :, None], inputs + update, activation)


class AttentionUnit(Unit):
    """The attention of each block."""

    def labels(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the segment of the block's attention."""
        del adapter
        return [attention_label(layer)]

    def site(self, adapter: ModelAdapter, layer: int) -> str:
        """Return the hook of what the attention adds to the stream."""
        return adapter.attn_site(layer)


class MLPUnit(Unit):
    """The MLP of each block."""

    def labels(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the segment of the block's MLP."""
        if adapter.mlp_site(layer) is None:
            raise ValueError(
                f"{adapter.name} has no MLPs, so they cannot be intervened on; use by='attn', "
                "'head' or 'layer'"
            )
        return [mlp_label(layer)]

    def site(self, adapter: ModelAdapter, layer: int) -> str:
        """Return the hook of what the MLP adds to the stream."""
        site = adapter.mlp_site(layer)
        assert site is not None
        return site


class HeadUnit(Unit):
    """The attention heads of each block: what they pass to W_O."""

    def labels(self, adapter: ModelAdapter, layer: int) -> list[str]:
        """Return the segments of the block's heads."""
        return [head_label(layer, head) for head in range(_head_shape(adapter, layer)[0])]

    def site(self, adapter: ModelAdapter, layer: int) -> str:
        """Return the hook of what every head passes on, `[batch, pos, head, d_head]`."""
        return adapter.head_site(layer)

    def update(self, adapter: ModelAdapter, layer: int, found: Mapping[str, Tensor]) -> Tensor:
        """Return what every head passes on, `[batch, pos, head, d_head]`."""
        return _by_head(adapter, layer, found[self.site(adapter, layer)])

    def replace(
        self,
        adapter: ModelAdapter,
        layer: int,
        activation: Tensor,
        inputs: Tensor,
        update: Tensor,
        where: Bool[Tensor, "branch pos"],
        units: Int[Tensor, " branch"],
    ) -> Tensor:
        """Return what the heads pass on when one of them passes something else."""
        del inputs
        own = _by_head(adapter, layer, activation)
        chosen = torch.arange(own.shape[2], device=units.device) == units[:, None]
        mask = where[:, :, None] & chosen[:, None]
        return torch.where(mask[..., None], update, own).reshape(activation.shape)


UNITS: Mapping[str, Unit] = {
    "layer": LayerUnit(),
    "attn": AttentionUnit(),
    "mlp": MLPUnit(),
    "head": HeadUnit(),
}


def _head_shape(adapter: ModelAdapter, layer: int) -> tuple[int, int]:
    """Return how many heads a block has and how wide what each passes to W_O is, as W_O says.

    Raises:
        ValueError: If the architecture has no heads that can be told apart.
    """
    site = adapter.head_site(layer)
    if not getattr(adapter.model.cfg, "n_heads", None) or site not in adapter.hook_points:
        raise ValueError(
            f"{adapter.name} has no hook {site}, so its heads cannot be intervened on; use "
            "by='attn' or 'layer'"
        )
    weight = getattr(adapter.model.blocks[layer].attn, "W_O", None)
    n_heads = adapter.model.cfg.n_heads
    if weight is None or weight.ndim != 3 or len(weight) != n_heads:
        found = "no W_O" if weight is None else f"a W_O of shape {tuple(weight.shape)}"
        raise ValueError(
            f"{adapter.name} has {n_heads} heads but {found} in layer {layer}, so what belongs to "
            "each head is not known; use by='attn' or 'layer'"
        )
    return n_heads, weight.shape[1]


def _by_head(adapter: ModelAdapter, layer: int, activation: Tensor) -> Tensor:
    """Return what stands at the hook of heads with one row for each head that W_O has.

    TransformerLens cuts the values of latent attention (DeepSeek) at another width than that of the
    heads; their order is that of W_O.

    Raises:
        ValueError: If the activation is not as wide as W_O.
    """
    n_heads, d_head = _head_shape(adapter, layer)
    width = activation.shape[2:].numel()
    if width != n_heads * d_head:
        raise ValueError(
            f"{adapter.name}: {adapter.head_site(layer)} is {width} wide, but layer {layer} has "
            f"{n_heads} heads of {d_head}, so its heads cannot be intervened on; use by='attn' "
            "or 'layer'"
        )
    return activation.reshape(*activation.shape[:2], n_heads, d_head)
