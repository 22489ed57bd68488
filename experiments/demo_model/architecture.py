"""Sets the shape of the model."""

from typing import Any

from transformers import LlamaConfig, PreTrainedTokenizerFast

MAX_LENGTH = 512


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Describe a small Llama: RMSNorm, RoPE, grouped-query attention and SwiGLU."""
    special: Any = tokenizer
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        pad_token_id=special.pad_token_id,
    )
