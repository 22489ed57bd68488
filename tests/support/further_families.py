"""Tiny random Hugging Face models of further families: those that load, and those that are refused.

They get a few cheap tests, the families of `tests.support.families` all of them.
"""

from __future__ import annotations

from tests.support.families import D_VOCAB, LLAMA_LIKE, Family

_LLAMA_HEADS = LLAMA_LIKE | {"head_dim": 8}
_GPT2_LIKE = {
    "vocab_size": D_VOCAB,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FALCON_LIKE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPT_LIKE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "max_position_embeddings": 64,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 16,
    "v_head_dim": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
}
_LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_STATE_SPACE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
}
_BART_LIKE = {
    "vocab_size": D_VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
_HEADS = ("head",)
_NEURONS = ("neuron",)


def _bridge(name: str, architecture: str, options: dict, **facts) -> Family:
    """Return a family that no HookedTransformer reads."""
    return Family(name, architecture, options, hooked=False, **facts)


FURTHER_FAMILIES = (
    _bridge("gemma", "GemmaForCausalLM", _LLAMA_HEADS),
    _bridge(
        "gemma4",
        "Gemma4ForCausalLM",
        _LLAMA_HEADS
        | {"global_head_dim": 8, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    ),
    _bridge("vaultgemma", "VaultGemmaForCausalLM", _LLAMA_HEADS),
    _bridge("stablelm", "StableLmForCausalLM", LLAMA_LIKE),
    _bridge(
        "stablelm_parallel",
        "StableLmForCausalLM",
        LLAMA_LIKE | {"use_parallel_residual": True, "qk_layernorm": True},
        parallel=True,
    ),
    _bridge("starcoder2", "Starcoder2ForCausalLM", LLAMA_LIKE | {"sliding_window": None}),
    _bridge("gpt_bigcode", "GPTBigCodeForCausalLM", _GPT2_LIKE),
    _bridge(
        "codegen",
        "CodeGenForCausalLM",
        _GPT2_LIKE | {"rotary_dim": 4, "tie_word_embeddings": False},
        parallel=True,
        wrong_in=("4",),
    ),
    Family(
        "gpt_neo",
        "GPTNeoForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        "bloom",
        "BloomForCausalLM",
        {"vocab_size": D_VOCAB, "hidden_size": 32, "n_layer": 3, "n_head": 4}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    _bridge(
        "mpt",
        "MptForCausalLM",
        {"vocab_size": D_VOCAB, "d_model": 32, "n_layers": 3, "n_heads": 4}
        | {"max_seq_len": 64, "expansion_ratio": 2},
    ),
    _bridge(
        "xglm",
        "XGLMForCausalLM",
        {"vocab_size": D_VOCAB, "d_model": 32, "num_layers": 3, "attention_heads": 4}
        | {"ffn_dim": 48, "max_position_embeddings": 64},
    ),
    _bridge("olmo", "OlmoForCausalLM", LLAMA_LIKE),
    Family("olmo3", "Olmo3ForCausalLM", LLAMA_LIKE),
    _bridge("flex_olmo", "FlexOlmoForCausalLM", LLAMA_LIKE | _EXPERTS, splits=_HEADS),
    _bridge("smollm3", "SmolLM3ForCausalLM", LLAMA_LIKE),
    _bridge("nemotron", "NemotronForCausalLM", LLAMA_LIKE),
    _bridge("ministral3", "Ministral3ForCausalLM", _LLAMA_HEADS),
    _bridge("arcee", "ArceeForCausalLM", LLAMA_LIKE),
    _bridge("seed_oss", "SeedOssForCausalLM", _LLAMA_HEADS),
    _bridge("nanochat", "NanoChatForCausalLM", LLAMA_LIKE),
    _bridge("jais2", "Jais2ForCausalLM", _LLAMA_HEADS),
    _bridge("bitnet", "BitNetForCausalLM", LLAMA_LIKE),
    _bridge("exaone4", "Exaone4ForCausalLM", LLAMA_LIKE | {"sliding_window": 8}),
    Family("apertus", "ApertusForCausalLM", LLAMA_LIKE),
    _bridge("cohere2", "Cohere2ForCausalLM", LLAMA_LIKE, parallel=True, wrong_in=("3",)),
    _bridge("hunyuan", "HunYuanDenseV1ForCausalLM", _LLAMA_HEADS, wrong_in=("3",)),
    _bridge("glm", "GlmForCausalLM", _LLAMA_HEADS),
    _bridge("glm4", "Glm4ForCausalLM", _LLAMA_HEADS),
    _bridge("glm4_moe", "Glm4MoeForCausalLM", _LLAMA_HEADS | _ROUTED_EXPERTS, splits=_HEADS),
    _bridge("ernie4_5", "Ernie4_5ForCausalLM", _LLAMA_HEADS),
    _bridge(
        "ernie4_5_moe",
        "Ernie4_5_MoeForCausalLM",
        LLAMA_LIKE | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24},
        splits=_HEADS,
    ),
    _bridge(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        LLAMA_LIKE | _EXPERTS | {"shared_expert_intermediate_size": 24},
        splits=_HEADS,
    ),
    _bridge("qwen3_moe", "Qwen3MoeForCausalLM", _LLAMA_HEADS | _EXPERTS, splits=_HEADS),
    Family("gpt_oss", "GptOssForCausalLM", _LLAMA_HEADS | _LOCAL_EXPERTS, splits=_HEADS),
    _bridge("granitemoe", "GraniteMoeForCausalLM", LLAMA_LIKE | _LOCAL_EXPERTS, splits=_HEADS),
    _bridge("minimax_m2", "MiniMaxM2ForCausalLM", _LLAMA_HEADS | _LOCAL_EXPERTS, splits=_HEADS),
    _bridge("afmoe", "AfmoeForCausalLM", _LLAMA_HEADS | _EXPERTS, splits=_HEADS),
    _bridge("laguna", "LagunaForCausalLM", _LLAMA_HEADS | _EXPERTS, splits=_HEADS),
    _bridge(
        "llama4",
        "Llama4ForCausalLM",
        _LLAMA_HEADS
        | {"intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1}
        | {"interleave_moe_layer_step": 2},
        splits=_HEADS,
    ),
    _bridge(
        "jetmoe",
        "JetMoeForCausalLM",
        LLAMA_LIKE | _LOCAL_EXPERTS | {"kv_channels": 8},
        splits=(),
    ),
    _bridge(
        "deepseek_v2", "DeepseekV2ForCausalLM", LLAMA_LIKE | _ROUTED_EXPERTS | _LATENT, splits=()
    ),
    _bridge(
        "deepseek_v3", "DeepseekV3ForCausalLM", LLAMA_LIKE | _ROUTED_EXPERTS | _LATENT, splits=()
    ),
    _bridge("youtu", "YoutuForCausalLM", LLAMA_LIKE | _LATENT, splits=_NEURONS),
    # Hybrids: some blocks have a convolution or a recurrence in place of the attention.
    _bridge(
        "lfm2",
        "Lfm2ForCausalLM",
        LLAMA_LIKE | {"layer_types": ["full_attention", "conv", "full_attention"]},
        splits=_NEURONS,
    ),
    _bridge(
        "lfm2_moe",
        "Lfm2MoeForCausalLM",
        LLAMA_LIKE
        | _EXPERTS
        | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
        splits=(),
    ),
    _bridge(
        "bamba",
        "BambaForCausalLM",
        LLAMA_LIKE
        | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
        | {"attn_layer_indices": [1]},
        splits=_NEURONS,
    ),
    _bridge(
        "jamba",
        "JambaForCausalLM",
        LLAMA_LIKE
        | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
        | {"num_experts": 2, "num_experts_per_tok": 1, "use_mamba_kernels": False},
        splits=(),
    ),
    _bridge(
        "qwen3_next",
        "Qwen3NextForCausalLM",
        _LLAMA_HEADS | _EXPERTS | _LINEAR_ATTENTION | {"shared_expert_intermediate_size": 24},
        splits=(),
    ),
    _bridge("qwen3_5", "Qwen3_5ForCausalLM", _LLAMA_HEADS | _LINEAR_ATTENTION, splits=_NEURONS),
    _bridge(
        "olmo_hybrid",
        "OlmoHybridForCausalLM",
        LLAMA_LIKE | {"layer_types": _LINEAR_ATTENTION["layer_types"]},
        splits=_NEURONS,
    ),
)
"""Families that load with a bridge, and where `hooked` also as a HookedTransformer."""

_UNKNOWN = r"cannot read it \(ValueError: .*architecture"
_NOT_ADDITIVE = "a block's input plus its attention and MLP outputs differs"
_OWN_HEAD = "probabilities read out of the last residual state differ"

REFUSED_FAMILIES = (
    (_bridge("mamba", "MambaForCausalLM", _STATE_SPACE), "block 0 has no attention"),
    (
        _bridge(
            "mamba2",
            "Mamba2ForCausalLM",
            _STATE_SPACE | {"num_heads": 8, "head_dim": 8, "n_groups": 2},
        ),
        "block 0 has no attention",
    ),
    (_bridge("falcon_mamba", "FalconMambaForCausalLM", _STATE_SPACE), "block 0 has no attention"),
    (
        _bridge("recurrent_gemma", "RecurrentGemmaForCausalLM", LLAMA_LIKE | {"lru_width": 32}),
        "block 0 has no attention",
    ),
    (
        _bridge(
            "rwkv",
            "RwkvForCausalLM",
            {"vocab_size": D_VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
            | {"context_length": 64},
        ),
        "block 0 has no attention",
    ),
    # Attention and recurrence side by side; what every layer adds of the token's own embedding.
    (
        _bridge(
            "falcon_h1",
            "FalconH1ForCausalLM",
            LLAMA_LIKE
            | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8},
        ),
        _NOT_ADDITIVE,
    ),
    (
        _bridge(
            "gemma4_per_layer_input",
            "Gemma4ForCausalLM",
            _LLAMA_HEADS
            | {"global_head_dim": 8, "num_kv_shared_layers": 0}
            | {"vocab_size_per_layer_input": D_VOCAB, "hidden_size_per_layer_input": 8},
        ),
        _NOT_ADDITIVE,
    ),
    (_bridge("modernbert", "ModernBertDecoderForCausalLM", LLAMA_LIKE), _OWN_HEAD),
    (
        _bridge(
            "bert",
            "BertLMHeadModel",
            {"vocab_size": D_VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
            | {"num_attention_heads": 4, "intermediate_size": 48, "is_decoder": True},
        ),
        _OWN_HEAD,
    ),
    (
        _bridge("opt_projecting", "OPTForCausalLM", _OPT_LIKE | {"word_embed_proj_dim": 16}),
        "residual stream has width 32 but the unembedding reads width 16",
    ),
    (
        _bridge("opt_post_norm", "OPTForCausalLM", _OPT_LIKE | {"do_layer_norm_before": False}),
        "fails .*final_layer_norm",
    ),
    (_bridge("openai_gpt", "OpenAIGPTLMHeadModel", _GPT2_LIKE), "differ from Hugging Face's"),
    (_bridge("hrm_text", "HrmTextForCausalLM", LLAMA_LIKE), "no hook blocks.0.hook_resid_pre"),
    (_bridge("bart", "BartForCausalLM", _BART_LIKE), "cannot read it .*'encoder'"),
    (_bridge("helium", "HeliumForCausalLM", _LLAMA_HEADS), _UNKNOWN),
    (_bridge("persimmon", "PersimmonForCausalLM", LLAMA_LIKE), _UNKNOWN),
    (_bridge("phimoe", "PhimoeForCausalLM", LLAMA_LIKE | {"num_local_experts": 4}), _UNKNOWN),
    # Variants of families that load, which TransformerLens trips over.
    (
        _bridge("gpt_neox_no_bias", "GPTNeoXForCausalLM", LLAMA_LIKE | {"attention_bias": False}),
        "cannot read it .*AssertionError",
    ),
    (
        _bridge(
            "falcon_new",
            "FalconForCausalLM",
            _FALCON_LIKE | {"num_kv_heads": 2, "new_decoder_architecture": True},
        ),
        "cannot read it .*split",
    ),
    # Hugging Face's eager attention, which TransformerLens reads, adds the biases of ALiBi twice.
    (
        _bridge("falcon_alibi", "FalconForCausalLM", _FALCON_LIKE | {"alibi": True}),
        "differ from Hugging Face's",
    ),
    (
        _bridge(
            "falcon_rw",
            "FalconForCausalLM",
            _FALCON_LIKE | {"alibi": True, "parallel_attn": False, "multi_query": False},
        ),
        "differ from Hugging Face's",
    ),
    (
        _bridge("phi_qk_norm", "PhiForCausalLM", LLAMA_LIKE | {"qk_layernorm": True}),
        "cannot read it .*q_norm",
    ),
    (
        _bridge(
            "granite_hybrid",
            "GraniteMoeHybridForCausalLM",
            LLAMA_LIKE
            | _LOCAL_EXPERTS
            | {"layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 8}
            | {"mamba_d_head": 8, "mamba_d_state": 8},
        ),
        "fails .*rotary_emb",
    ),
)
"""Families that are refused, each with words of the sentence that says why."""
