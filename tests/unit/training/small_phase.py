"""A phase with numbers of its own: the tiny study's are tuned now and then."""

from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.schedule import LearningRateStyle, Schedule


def stable() -> MidTraining:
    """900 steps of 16 sequences of 256 tokens."""
    model = ModelConfig(
        num_layers=3, hidden_size=96, ffn_hidden_size=256, num_attention_heads=4, num_query_groups=2, kv_channels=24,
        vocab_size=384, max_position_embeddings=512,
    )  # fmt: skip
    return MidTraining(
        name="stable", model=model, init_from=None, tokenizer="none", blend=blend(web=0.9, qa=0.1),
        train_tokens=900 * 4096, seq_length=256, global_batch_size=16, micro_batch_size=8,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=3e-3, min_lr=3e-3), save_interval_tokens=200 * 4096,
    )  # fmt: skip
