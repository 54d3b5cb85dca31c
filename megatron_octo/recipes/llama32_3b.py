"""OctoThinker-3B: Llama-3.2-3B through the stable stage, three decay branches and RL; the paper's main model.

Architecture: the model's public `config.json`. Parallelism is our choice: pure data parallelism with the
sharded optimizer is the plan of NVIDIA's recipes for this size, and our memory estimate leaves room for it.
"""

from megatron_octo.recipes import octothinker
from megatron_octo.recipes.octothinker import CAP_4K, GROWING_CAP
from megatron_octo.recipes.study import ModelStudy
from megatron_octo.rl.config import ReinforcementLearning
from megatron_octo.rl.placement import Placement
from megatron_octo.templates import Template
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.parallelism import Parallelism

BASE = "meta-llama/Llama-3.2-3B"
MODEL = ModelConfig(
    num_layers=28,
    hidden_size=3072,
    ffn_hidden_size=8192,
    num_attention_heads=24,
    num_query_groups=8,
    kv_channels=128,
    vocab_size=128_256,
    max_position_embeddings=131_072,
    rotary_base=500_000.0,
    rope_scaling_factor=32.0,
    share_embeddings_and_output_weights=True,
)
PARALLELISM = Parallelism(overlap_grad_reduce=True, overlap_param_gather=True)  # our choice, see above
STABLE_LR = 2e-5  # [N32] tables 2-5
# Our choice, from arithmetic and not yet run: two nodes of 8 H100, everything on all GPUs. Per GPU (80 GB) the policy keeps
# 6.4 GB of bf16 weights and each process a few GB of its own; beside them vLLM takes 56 GB: the same weights, and a KV cache of
# 49 GB / 112 KiB = 430k tokens, about 100 of a GPU's 128 responses at a cap of 4k. Asleep, it leaves room for 39 GB of optimizer
# states over 16 GPUs and the float32 logits of 16k tokens (8.4 GB, a few times over).
RL_PLACEMENT = Placement(nodes=2, gpu_memory_utilization=0.7)


def stable() -> MidTraining:
    """Stable stage: 210B tokens at a constant 2e-5."""
    return octothinker.stable(
        name="llama32_3b.stable", model=MODEL, init_from=BASE, learning_rate=STABLE_LR, parallelism=PARALLELISM
    )


def decay_long() -> MidTraining:
    """Decay branch with long chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama32_3b.decay_long", blend=octothinker.LONG_BLEND)


def decay_short() -> MidTraining:
    """Decay branch with short chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama32_3b.decay_short", blend=octothinker.SHORT_BLEND)


def decay_hybrid() -> MidTraining:
    """Decay branch with both kinds of chains of thought, 21B tokens."""
    return octothinker.decay(stable(), name="llama32_3b.decay_hybrid", blend=octothinker.HYBRID_BLEND)


def rl_long() -> ReinforcementLearning:
    """RL on the long branch, response cap 2k, 4k, 8k."""
    return octothinker.zero_from(
        decay_long(), name="llama32_3b.rl_long", placement=RL_PLACEMENT, length_schedule=GROWING_CAP
    )


def rl_short() -> ReinforcementLearning:
    """RL on the short branch, response cap 4k."""
    return octothinker.zero_from(
        decay_short(), name="llama32_3b.rl_short", placement=RL_PLACEMENT, length_schedule=CAP_4K
    )  # our choice: [P-§2]'s default


def rl_hybrid() -> ReinforcementLearning:
    """RL on the hybrid branch, response cap 4k."""
    return octothinker.zero_from(
        decay_hybrid(), name="llama32_3b.rl_hybrid", placement=RL_PLACEMENT, length_schedule=CAP_4K
    )  # [RLCODE] {0:4096}


def rl_base() -> ReinforcementLearning:
    """RL on Llama-3.2-3B itself, the control without mid-training, response cap 4k."""
    # [P-§2] simple template; [REPO] its responses run into 4,096 tokens.
    return octothinker.zero(
        name="llama32_3b.rl_base",
        init_from=BASE,
        template=Template.SIMPLE,
        placement=RL_PLACEMENT,
        length_schedule=CAP_4K,
    )


def study() -> ModelStudy:
    """The whole study: corpora and the published model to evaluated RL models and a report."""
    return octothinker.study(
        name="llama32_3b.study",
        phases=(stable(), decay_long(), decay_short(), decay_hybrid()),
        rl=(rl_base(), rl_long(), rl_short(), rl_hybrid()),
    )
