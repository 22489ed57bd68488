"""Tiny random Hugging Face models, built without any download: the families that all tests cover.

`tests.support.further_families` has the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

D_VOCAB = 97
"""A prime vocabulary size, so that a transposed or reshaped axis cannot go unnoticed."""

LLAMA_LIKE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_NEOX_LIKE = LLAMA_LIKE | {"num_key_value_heads": None}
_MOE = {"num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """One architecture family at toy size."""

    name: str
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    parallel: bool = False
    """Whether attention and MLP read the same state, so that there is no `resid_mid`."""
    hooked: bool = True
    """Whether HookedTransformer can convert it from a local folder."""
    wrong_in: tuple[str, ...] = ()
    """Major versions of TransformerLens whose bridge does not compute what Hugging Face does."""
    splits: tuple[str, ...] = ("head", "neuron")
    """Into which parts its attention and MLP can be split."""

    def config(self) -> transformers.PretrainedConfig:
        """Return the toy configuration."""
        return getattr(transformers, self.architecture).config_class(
            **{key: value for key, value in self.options.items() if value is not None}
        )

    def build(self, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
        """Build a random model with peaked predictions and non-trivial norms and biases."""
        torch.manual_seed(seed)
        model = getattr(transformers, self.architecture)(self.config())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim < 2:
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif "lm_head" not in name and "embed" not in name:
                    parameter.mul_(6.0)
            head = model.get_output_embeddings()
            head.weight.copy_(torch.randn_like(head.weight) * 0.35)
        return model.to(dtype).eval()


FAMILIES = (
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        {
            "vocab_size": D_VOCAB,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family("llama", "LlamaForCausalLM", LLAMA_LIKE),
    Family("mistral", "MistralForCausalLM", LLAMA_LIKE | {"sliding_window": None}),
    Family(
        "gpt_neox_parallel",
        "GPTNeoXForCausalLM",
        _NEOX_LIKE | {"use_parallel_residual": True},
        parallel=True,
    ),
    Family(
        "gpt_neox_sequential", "GPTNeoXForCausalLM", _NEOX_LIKE | {"use_parallel_residual": False}
    ),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        LLAMA_LIKE
        | {"head_dim": 8, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 20.0},
        hooked=False,
    ),
    Family("gemma3", "Gemma3ForCausalLM", LLAMA_LIKE | {"head_dim": 8}, hooked=False),
    Family("qwen2", "Qwen2ForCausalLM", LLAMA_LIKE),
    Family("qwen3", "Qwen3ForCausalLM", LLAMA_LIKE | {"head_dim": 8}),
    Family(
        "phi",
        "PhiForCausalLM",
        LLAMA_LIKE | {"partial_rotary_factor": 0.5},
        parallel=True,
        hooked=False,
    ),
    Family("phi3", "Phi3ForCausalLM", LLAMA_LIKE),
    Family(
        "gptj",
        "GPTJForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "rotary_dim": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        },
        parallel=True,
    ),
    Family(
        "opt",
        "OPTForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
    Family("olmo2", "Olmo2ForCausalLM", LLAMA_LIKE, hooked=False),
    Family(
        "cohere",
        "CohereForCausalLM",
        LLAMA_LIKE | {"logit_scale": 0.5},
        parallel=True,
        hooked=False,
        wrong_in=("3",),
    ),
    Family(
        "granite",
        "GraniteForCausalLM",
        LLAMA_LIKE
        | {
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.3,
        },
        hooked=False,
    ),
    Family(
        "mixtral",
        "MixtralForCausalLM",
        LLAMA_LIKE | _MOE | {"num_local_experts": 4},
        splits=("head",),
    ),
    Family("olmoe", "OlmoeForCausalLM", LLAMA_LIKE | _MOE | {"num_experts": 4}, splits=("head",)),
    Family(
        "falcon",
        "FalconForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        parallel=True,
        hooked=False,
    ),
)


def build_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Build a word-level tokenizer over `D_VOCAB` words `w4 … w96` that prepends `<s>`."""
    words = ["<pad>", "<s>", "</s>", "<unk>"] + [f"w{index}" for index in range(4, D_VOCAB)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def write_folder(family: Family, folder: Path, **options: Any) -> Path:
    """Write the family's toy model as an ordinary Hugging Face folder and return it."""
    family.build(**options).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
