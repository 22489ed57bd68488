"""Convert a loaded Hugging Face model to a `HookedTransformer` (TransformerLens 3).

`HookedTransformer.from_pretrained` takes no local folder, and TransformerLens chooses the converter
by words in the model's *name* ("llama", "gemma", …). Here the configuration is handed over from a
temporary folder with a neutral name, so that the architecture alone decides.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from iglens_tl.models.adapter import hooked_transformer_class
from iglens_tl.models.refusals import one_line

MAX_N_CTX = 2048
"""Longest context of a converted model. A HookedTransformer keeps an n_ctx × n_ctx mask in every
block, so TransformerLens itself caps long-context models at this length."""


class HookedConversionError(ValueError):
    """TransformerLens cannot convert this architecture or configuration."""


def convert_to_hooked(hf_model: Any, tokenizer: Any, device: torch.device) -> Any:
    """Convert a Hugging Face causal language model without folding or centring weights.

    The Hugging Face model is left unchanged.

    Raises:
        HookedConversionError: If TransformerLens does not know the architecture or fails on it.
    """
    from transformer_lens import loading_from_pretrained as loading

    hf_config = _config(hf_model)
    dtype = hf_model.dtype
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        neutral = Path(folder) / "model"
        neutral.mkdir()
        (neutral / "config.json").write_text(json.dumps(hf_config))
        try:
            cfg = loading.get_pretrained_model_config(
                str(neutral), hf_cfg=hf_config, fold_ln=False, device=str(device), dtype=dtype
            )
            cfg.n_ctx = min(cfg.n_ctx, MAX_N_CTX)
            state_dict = loading.get_pretrained_state_dict(str(neutral), cfg, hf_model, dtype=dtype)
            model = hooked_transformer_class()(cfg, tokenizer, move_to_device=False)
            model.load_and_process_state_dict(
                state_dict,
                fold_ln=False,
                center_writing_weights=False,
                center_unembed=False,
                fold_value_biases=False,
            )
            model.move_model_modules_to_device()
        # TransformerLens reports what it cannot convert by whatever its converter trips over.
        except Exception as error:
            architecture = type(hf_model).__name__
            raise HookedConversionError(
                f"TransformerLens does not convert this {architecture} ({one_line(error)})"
            ) from None
    return model


def _config(hf_model: Any) -> dict[str, Any]:
    config = hf_model.config.to_dict()
    config["architectures"] = [type(hf_model).__name__]
    # The GPT-2 converter reads a name that newer configurations no longer write.
    if "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])
    return json.loads(json.dumps(config, default=str))
