"""What the embedding state, the input of the first block, is the sum of."""

from __future__ import annotations

from iglens_tl.models.adapter import ModelAdapter


def embedding_sites(adapter: ModelAdapter) -> tuple[tuple[str, str], ...]:
    """Return labels and hooks of what adds up to the embedding state.

    A model that learns an embedding of positions (GPT-2, GPT-Neo, OPT) adds it to that of the
    tokens. All others have one part, which is the state itself, so that what a model does to the
    embedding of its tokens is included: Gemma's and Granite's scales, BLOOM's norm, the sinusoids
    of XGLM. No known family leaves a remainder, only hooks of the user that edit the state.

    Args:
        adapter: The model.
    """
    model = adapter.model
    # The hook also exists, and never fires or fires with something that enters the attention only,
    # in HookedTransformers with other kinds of positions (ALiBi, shortformer).
    adds_positions = getattr(model.cfg, "positional_embedding_type", None) == "standard"
    if adds_positions and "hook_pos_embed" in model.hook_dict:
        return (("embed", "hook_embed"), ("pos_embed", "hook_pos_embed"))
    return (("embed", adapter.embed_site),)
