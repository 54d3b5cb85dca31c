"""OctoThinker-8B: Llama-3.1-8B through the stable stage, three decay branches and RL.

Architecture: the model's public `config.json`. Parallelism is our choice: TP 2, because at TP 1 a micro-batch of
8,192 tokens does not fit in 80 GB by our memory estimate (NVIDIA splits it by context parallelism, CP 2, instead). The paper
reports no RL on 8B: those three recipes carry over the settings of 3B.
"""

from megatron_octo.recipes import octothinker
from megatron_octo.recipes.octothinker import CAP_4K, GROWING_CAP
from megatron_octo.recipes.study import ModelStudy
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.rl.placement import Placement
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.parallelism import Parallelism

BASE = "meta-llama/Llama-3.1-8B"  # third-party notes; the model card was not seen
MODEL = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    ffn_hidden_size=14336,
    num_attention_heads=32,
    num_query_groups=8,
    kv_channels=128,
    vocab_size=128_256,
    max_position_embeddings=131_072,
    rotary_base=500_000.0,
    rope_scaling_factor=8.0,
    share_embeddings_and_output_weights=False,
)
PARALLELISM = Parallelism(
    tensor_model_parallel_size=2, overlap_grad_reduce=True, overlap_param_gather=True
)  # our choice, see above
STABLE_LR = 1e-5  # [N32] tables 2-5
# Our choice, from arithmetic and not yet run: four nodes of 8 H100, everything on all GPUs. Per GPU (80 GB) the policy keeps
# 16 GB of bf16 weights; beside them vLLM takes 48 GB: the same weights, and a KV cache of 32 GB / 128 KiB = 240k tokens, more than
# 50 of a GPU's 64 responses at a cap of 4k. Asleep, it leaves room for 96 GB of optimizer states over 32 GPUs (12 GB each on one
# node) and the float32 logits of 16k tokens (8.4 GB, a few times over).
RL_PLACEMENT = Placement(nodes=4, gpu_memory_utilization=0.6)


def stable() -> MidTraining:
    """Stable stage: 210B tokens at a constant 1e-5."""
    return octothinker.stable(
        name="llama31_8b.stable", model=MODEL, init_from=BASE, learning_rate=STABLE_LR, parallelism=PARALLELISM
    )


def decay_long() -> MidTraining:
    """Decay branch with long chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama31_8b.decay_long", blend=octothinker.LONG_BLEND)


def decay_short() -> MidTraining:
    """Decay branch with short chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama31_8b.decay_short", blend=octothinker.SHORT_BLEND)


def decay_hybrid() -> MidTraining:
    """Decay branch with both kinds of chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama31_8b.decay_hybrid", blend=octothinker.HYBRID_BLEND)


def rl_long() -> ReinforcementLearning:
    """RL on the long branch, response cap 2k, 4k, 8k; our choice, not in the paper."""
    return octothinker.zero_from(
        decay_long(), name="llama31_8b.rl_long", placement=RL_PLACEMENT, length_schedule=GROWING_CAP
    )


def rl_short() -> ReinforcementLearning:
    """RL on the short branch, response cap 4k; our choice, not in the paper."""
    return octothinker.zero_from(
        decay_short(), name="llama31_8b.rl_short", placement=RL_PLACEMENT, length_schedule=CAP_4K
    )


def rl_hybrid() -> ReinforcementLearning:
    """RL on the hybrid branch, response cap 4k; our choice, not in the paper."""
    return octothinker.zero_from(
        decay_hybrid(), name="llama31_8b.rl_hybrid", placement=RL_PLACEMENT, length_schedule=CAP_4K
    )


def study() -> ModelStudy:
    """The whole study: corpora and the published model to evaluated RL models and a report."""
    return octothinker.study(
        name="llama31_8b.study",
        phases=(stable(), decay_long(), decay_short(), decay_hybrid()),
        rl=(rl_long(), rl_short(), rl_hybrid()),
    )
