"""config.json of published models, field by field as they stand on the hub, and the model each one describes.

Compared in November 2026 with copies in public repositories, every field: Llama-2-7b, Llama-3.1-8B, Llama-3.2-1B and 3B, Qwen2.5-7B,
Qwen3-8B; all but the version of transformers: Mistral-7B-v0.1; sizes alone: Qwen2.5-1.5B, Qwen3-0.6B, Mistral-7B-v0.3. No copy
was found of Qwen2.5-Math-7B, which is written from memory.
"""

from typing import Any

from megatron_octo.training.config import ModelConfig

LLAMA_3_SCALING = {
    "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
LLAMA_2_7B: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.31.0.dev0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
LLAMA_31_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": LLAMA_3_SCALING | {"factor": 8.0}, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True,
    "vocab_size": 128256,
}  # fmt: skip
LLAMA_32_1B: dict[str, Any] = LLAMA_31_8B | {
    "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 16,
    "rope_scaling": LLAMA_3_SCALING, "tie_word_embeddings": True, "transformers_version": "4.45.0.dev0",
}  # fmt: skip
LLAMA_32_3B: dict[str, Any] = LLAMA_32_1B | {
    "head_dim": 128, "hidden_size": 3072, "num_attention_heads": 24, "num_hidden_layers": 28,
}  # fmt: skip
QWEN25_1B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
    "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02, "intermediate_size": 8960,
    "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 12,
    "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN25_7B: dict[str, Any] = QWEN25_1B | {
    "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4,
    "tie_word_embeddings": False, "vocab_size": 152064,
}  # fmt: skip
QWEN25_MATH_7B: dict[str, Any] = QWEN25_7B | {
    "max_position_embeddings": 4096, "rope_theta": 10000.0, "sliding_window": 4096,
}  # fmt: skip
QWEN3_06B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
QWEN3_8B: dict[str, Any] = QWEN3_06B | {
    "hidden_size": 4096, "intermediate_size": 12288, "max_window_layers": 36, "num_attention_heads": 32,
    "num_hidden_layers": 36, "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_7B_V01: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
MISTRAL_7B_V03: dict[str, Any] = MISTRAL_7B_V01 | {
    "attention_dropout": 0.0, "rope_theta": 1000000.0, "sliding_window": None, "transformers_version": "4.42.0.dev0",
    "vocab_size": 32768,
}  # fmt: skip

#: What Megatron-LM keeps of a Llama-3.1-8B in `common.pt`, as far as it matters here.
MEGATRON_LM_LLAMA: dict[str, Any] = {
    "num_layers": 32, "hidden_size": 4096, "ffn_hidden_size": 14336, "num_attention_heads": 32,
    "group_query_attention": True, "num_query_groups": 8, "kv_channels": 128, "vocab_size": 128256,
    "padded_vocab_size": 128512, "max_position_embeddings": 131072, "rotary_base": 500000, "rotary_percent": 1.0,
    "rotary_interleaved": False, "rotary_seq_len_interpolation_factor": None, "use_rope_scaling": True,
    "rope_scaling_factor": 8.0, "norm_epsilon": 1e-5, "untie_embeddings_and_output_weights": True, "add_qkv_bias": False,
    "add_bias_linear": False, "qk_layernorm": False, "normalization": "RMSNorm", "swiglu": True,
    "position_embedding_type": "rope", "num_experts": None, "multi_latent_attention": False, "window_size": None,
}  # fmt: skip

MODELS = {
    "Llama-2-7b": (
        LLAMA_2_7B,
        ModelConfig(
            num_layers=32, hidden_size=4096, ffn_hidden_size=11008, num_attention_heads=32, num_query_groups=32,
            kv_channels=128, vocab_size=32000, max_position_embeddings=4096, rotary_base=10000.0,
        ),
    ),
    "Llama-3.1-8B": (
        LLAMA_31_8B,
        ModelConfig(
            num_layers=32, hidden_size=4096, ffn_hidden_size=14336, num_attention_heads=32, num_query_groups=8,
            kv_channels=128, vocab_size=128256, max_position_embeddings=131072, rotary_base=500000.0,
            rope_scaling_factor=8.0,
        ),
    ),
    "Llama-3.2-1B": (
        LLAMA_32_1B,
        ModelConfig(
            num_layers=16, hidden_size=2048, ffn_hidden_size=8192, num_attention_heads=32, num_query_groups=8,
            kv_channels=64, vocab_size=128256, max_position_embeddings=131072, rotary_base=500000.0,
            rope_scaling_factor=32.0, share_embeddings_and_output_weights=True,
        ),
    ),
    "Llama-3.2-3B": (
        LLAMA_32_3B,
        ModelConfig(
            num_layers=28, hidden_size=3072, ffn_hidden_size=8192, num_attention_heads=24, num_query_groups=8,
            kv_channels=128, vocab_size=128256, max_position_embeddings=131072, rotary_base=500000.0,
            rope_scaling_factor=32.0, share_embeddings_and_output_weights=True,
        ),
    ),
    "Qwen2.5-1.5B": (
        QWEN25_1B,
        ModelConfig(
            num_layers=28, hidden_size=1536, ffn_hidden_size=8960, num_attention_heads=12, num_query_groups=2,
            kv_channels=128, vocab_size=151936, max_position_embeddings=131072, rotary_base=1000000.0,
            layernorm_epsilon=1e-6, share_embeddings_and_output_weights=True, add_qkv_bias=True,
        ),
    ),
    "Qwen2.5-7B": (
        QWEN25_7B,
        ModelConfig(
            num_layers=28, hidden_size=3584, ffn_hidden_size=18944, num_attention_heads=28, num_query_groups=4,
            kv_channels=128, vocab_size=152064, max_position_embeddings=131072, rotary_base=1000000.0,
            layernorm_epsilon=1e-6, add_qkv_bias=True,
        ),
    ),
    "Qwen2.5-Math-7B": (
        QWEN25_MATH_7B,
        ModelConfig(
            num_layers=28, hidden_size=3584, ffn_hidden_size=18944, num_attention_heads=28, num_query_groups=4,
            kv_channels=128, vocab_size=152064, max_position_embeddings=4096, rotary_base=10000.0,
            layernorm_epsilon=1e-6, add_qkv_bias=True,
        ),
    ),
    "Qwen3-0.6B": (
        QWEN3_06B,
        ModelConfig(
            num_layers=28, hidden_size=1024, ffn_hidden_size=3072, num_attention_heads=16, num_query_groups=8,
            kv_channels=128, vocab_size=151936, max_position_embeddings=40960, rotary_base=1000000.0,
            layernorm_epsilon=1e-6, share_embeddings_and_output_weights=True, qk_layernorm=True,
        ),
    ),
    "Qwen3-8B": (
        QWEN3_8B,
        ModelConfig(
            num_layers=36, hidden_size=4096, ffn_hidden_size=12288, num_attention_heads=32, num_query_groups=8,
            kv_channels=128, vocab_size=151936, max_position_embeddings=40960, rotary_base=1000000.0,
            layernorm_epsilon=1e-6, qk_layernorm=True,
        ),
    ),
    "Mistral-7B-v0.3": (
        MISTRAL_7B_V03,
        ModelConfig(
            num_layers=32, hidden_size=4096, ffn_hidden_size=14336, num_attention_heads=32, num_query_groups=8,
            kv_channels=128, vocab_size=32768, max_position_embeddings=32768, rotary_base=1000000.0,
        ),
    ),
}  # fmt: skip
