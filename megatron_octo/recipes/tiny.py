"""The recipe in miniature: a generated world, a Llama of half a million parameters, minutes on two CPU cores.

The structure is the paper's (stable run at a constant learning rate, three decay branches that carry its optimizer state, GRPO
on each, the stable model as control); the numbers are what two cores can do in a quarter of an hour. How they were found is
written in docs/tiny-study/README.md.
"""

import dataclasses

from megatron_octo.conversion.config import ExportDtype
from megatron_octo.curation.config import (
    Annotation,
    Classifier,
    CorpusSize,
    Curation,
    LanguageModel,
    Publication,
    Reading,
    Refinement,
    TinyWeb,
    TinyWorld,
)
from megatron_octo.recipes.study import WorldStudy
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning
from megatron_octo.templates import Template
from megatron_octo.training.blend import Blend, blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.schedule import LearningRateStyle, Schedule

VOCAB_SIZE = 416
SEQ_LENGTH = 128
BATCH = 16

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=96,
    ffn_hidden_size=256,
    num_attention_heads=4,
    num_query_groups=2,
    kv_channels=24,
    vocab_size=VOCAB_SIZE,
    max_position_embeddings=256,
    rotary_base=10_000.0,
    share_embeddings_and_output_weights=True,  # as Llama-3.2 1B and 3B
)

#: A move such as `+4` is one token and other digits stand alone, so that one look-up copies a move (see curation/world.py).
SPLIT_PATTERN = r"[+*-]\d|\d| ?\p{L}+| ?[^\s\p{L}\d+*-]+|[+*-]|\s+(?!\S)|\s+"

#: As the paper's stable blend, MegaMath's two code corpora drawn together (§2.1 of the recipe).
STABLE_BLEND = blend(web=0.725, general=0.10, code=0.125, qa=0.05)
LONG_BLEND = blend(general=0.05, instruction=0.10, web=0.55, qa_long=0.30)
SHORT_BLEND = blend(general=0.05, instruction=0.10, web=0.55, qa_short=0.275, qa=0.025)
HYBRID_BLEND = blend(general=0.05, instruction=0.10, web=0.55, qa_short=0.20, qa_long=0.10)

PEAK_LR = 3e-3
STEP = BATCH * SEQ_LENGTH
STABLE_STEPS = 2_400
DECAY_STEPS = 400


def world() -> TinyWorld:
    """Tiny study: the generated world of text, with its RL and test questions."""
    return TinyWorld(
        seed=1,
        corpora=(
            CorpusSize(corpus="web", documents=60_000),
            CorpusSize(corpus="general", documents=6_000),
            CorpusSize(corpus="code", documents=9_000),
            CorpusSize(corpus="qa", documents=5_000),
            CorpusSize(corpus="qa_short", documents=5_000),
            CorpusSize(corpus="qa_long", documents=3_000),
            CorpusSize(corpus="instruction", documents=3_000),
        ),
        rl_problems=2_000,
        test_problems=400,
    )


def curation() -> Curation:
    """Every step of curation on a small generated web, with a stand-in for the language model."""
    return Curation(
        web=TinyWeb(seed=1, documents=5_000),
        reading=Reading(inputs=(), parts=8),
        annotation=Annotation(sample=1_000, model=LanguageModel()),
        # For a thousand documents: with the published settings all scores stay near 0.5 (docs/curation.md).
        classifier=Classifier(dim=32, lr=0.5, epochs=10, buckets=20_000),
        refinement=Refinement(model=LanguageModel()),
        publication=Publication(name="tiny_math_web"),
    )


def stable() -> MidTraining:
    """Tiny study: the stable run, constant learning rate."""
    return MidTraining(
        name="stable",
        model=MODEL,
        init_from=None,
        tokenizer="trained on the spot",
        blend=STABLE_BLEND,
        train_tokens=STABLE_STEPS * STEP,
        seq_length=SEQ_LENGTH,
        global_batch_size=BATCH,
        micro_batch_size=8,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=PEAK_LR, min_lr=PEAK_LR),
        parallelism=Parallelism(),
        precision=Precision.FP32,
        # 1 / sqrt(hidden_size); with Megatron's 0.02 so small a model learns to look operands up far later (docs/tiny-study).
        init_method_std=0.1,
        # Chosen: of seven seeds the one whose look-up had formed after a third of the tokens (docs/tiny-study).
        seed=5,
        save_interval_tokens=500 * STEP,
    )


def decay_long() -> MidTraining:
    """Tiny study: decay branch on long chains of thought, with checks and corrections."""
    return _decay("decay_long", LONG_BLEND)


def decay_short() -> MidTraining:
    """Tiny study: decay branch on short chains of thought."""
    return _decay("decay_short", SHORT_BLEND)


def decay_hybrid() -> MidTraining:
    """Tiny study: decay branch on both."""
    return _decay("decay_hybrid", HYBRID_BLEND)


def _decay(name: str, blend: Blend) -> MidTraining:
    # To a tenth of the stable learning rate, as the paper (§2.2 of the recipe).
    schedule = Schedule(style=LearningRateStyle.COSINE, peak_lr=PEAK_LR, min_lr=PEAK_LR / 10)
    return stable().branch(name=name, blend=blend, train_tokens=DECAY_STEPS * STEP, schedule=schedule)


def rl_stable() -> ReinforcementLearning:
    """Tiny study: RL on the stable model, the control."""
    return _rl(stable())


def rl_long() -> ReinforcementLearning:
    """Tiny study: RL on the long branch."""
    return _rl(decay_long())


def rl_short() -> ReinforcementLearning:
    """Tiny study: RL on the short branch."""
    return _rl(decay_short())


def rl_hybrid() -> ReinforcementLearning:
    """Tiny study: RL on the hybrid branch."""
    return _rl(decay_hybrid())


def _rl(phase: MidTraining) -> ReinforcementLearning:
    # The same settings for every model.
    return ReinforcementLearning(
        name=f"rl_{phase.name}",
        init_from=phase.name,
        engine=Engine.TRL,
        prompts="tiny world",
        # Not the form of any training answer, so that RL has something to find, as with the paper's templates.
        template=Template.CHAT,
        prompts_per_step=16,
        samples_per_prompt=8,
        mini_batch_prompts=8,
        train_steps=60,
        learning_rate=3e-4,
        kl_coef=0.0,
        temperature=1.0,
        top_p=1.0,
        max_prompt_tokens=64,
        length_schedule=(
            LengthStage(from_step=0, max_response_tokens=64),
            LengthStage(from_step=30, max_response_tokens=96),
        ),
        clip_epsilon=0.2,
        max_grad_norm=1.0,
        eval_interval=5,
        eval_sets=("test",),
        seed=2026,
    )


def study() -> WorldStudy:
    """Tiny study: the whole recipe on two CPU cores in a quarter of an hour."""
    phases = stable(), decay_long(), decay_short(), decay_hybrid()
    return WorldStudy(
        name="tiny",
        world=world(),
        vocab_size=VOCAB_SIZE,
        tokenizer_documents=1_000,
        split_pattern=SPLIT_PATTERN,
        stable=phases[0],
        branches=phases[1:],
        rl=(rl_stable(), rl_long(), rl_short(), rl_hybrid()),
        world_size=2,
        export_dtype=ExportDtype.FP32,
        eval_batch_size=100,
        eval_max_new_tokens=96,
        needs_bytes=500_000_000,
    )


def smoke() -> WorldStudy:
    """Tiny study, far too short to learn anything: every stage in a minute or two, for tests."""
    full = study()
    short = dataclasses.replace(full.stable, train_tokens=12 * STEP, save_interval_tokens=4 * STEP)
    branches = tuple(
        short.branch(name=branch.name, blend=branch.blend, train_tokens=4 * STEP, schedule=branch.schedule)
        for branch in full.branches
    )
    few = tuple(dataclasses.replace(size, documents=500) for size in full.world.corpora)
    return dataclasses.replace(
        full,
        name="smoke",
        world=dataclasses.replace(full.world, corpora=few, rl_problems=40, test_problems=20),
        tokenizer_documents=100,
        stable=short,
        branches=branches,
        rl=tuple(
            dataclasses.replace(
                one,
                train_steps=2,
                prompts_per_step=2,
                mini_batch_prompts=1,
                samples_per_prompt=2,
                eval_interval=1,
                length_schedule=(
                    LengthStage(from_step=0, max_response_tokens=8),
                    LengthStage(from_step=1, max_response_tokens=12),
                ),
            )
            for one in full.rl
        ),
        eval_max_new_tokens=12,
    )
