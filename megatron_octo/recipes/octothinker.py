"""What every OctoThinker run shares: batch, budgets, blends, schedules and the RL stage (arXiv 2506.20512).

Sources named beside the numbers here and in the model files:
  [P-§2]    the paper's preliminaries        [P-App]  its appendix
  [N32]     readers' notes that restate its tables 2-5 and agree with each other
  [REPO]    the published repository's evaluation and plots        [RLCODE]  its RL scripts; not always what the paper says
  [HFNAMES] names of the released models     [MM]     the MegaMath paper, 2504.02807
Where the paper is silent the comment says `our choice`. Silent too: precision, Adam's betas and epsilon, clipping, seeds and
whether a branch keeps its parent's optimizer state; those are the defaults of `training/config.py` and `rl/config.py`.
"""

from megatron_octo.conversion.config import ExportDtype
from megatron_octo.evaluation.config import Engine as EvaluationEngine
from megatron_octo.recipes import text
from megatron_octo.recipes.study import ModelStudy
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning
from megatron_octo.rl.placement import Placement
from megatron_octo.templates import Template
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training.blend import Blend, blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.schedule import LearningRateStyle, Schedule

SEQ_LENGTH = 8192  # [P-§2], [HFNAMES] seq8k
GLOBAL_BATCH_SIZE = 512  # [P-§2], [HFNAMES] bs4M: 512 x 8192 = 4,194,304 tokens
TOKENS_PER_STEP = GLOBAL_BATCH_SIZE * SEQ_LENGTH
STABLE_TOKENS = 50_000 * TOKENS_PER_STEP  # [N32] 50,000 steps; "200B" in the text, 209.7B by arithmetic
DECAY_TOKENS = 5_000 * TOKENS_PER_STEP  # [N32] 5,000 steps; "20B" in the text, 20.97B by arithmetic
MIN_LR_SHARE = 0.1  # [P-§2], [N32] cosine down to a tenth of the stable learning rate

MICRO_BATCH_SIZE = 1  # our choice, as NVIDIA's Llama recipes at this length
SAVE_INTERVAL_TOKENS = 1_000 * TOKENS_PER_STEP  # our choice; a multiple of it is near every published branch point
KEEP_STABLE_CHECKPOINTS = 50  # our choice: all of the stable run, because a branch may leave at any of them

STABLE_BLEND = blend(  # [N32] tables 2-5
    megamath_web_pro_max=0.725,
    dclm_baseline=0.10,
    megamath_text_code_block=0.10,
    megamath_qa=0.05,
    megamath_code=0.0125,
    megamath_translated_code=0.0125,
)
# [N32] tables 2-5. The web corpus of the decay is Web-Pro, not Web-Pro-Max.
LONG_BLEND = blend(
    dclm_baseline=0.05,
    instruction=0.10,
    megamath_web_pro=0.55,
    openr1_math_220k=0.15,
    am_deepseek_distilled_40m=0.15,
)
SHORT_BLEND = blend(
    dclm_baseline=0.05,
    instruction=0.10,
    megamath_web_pro=0.55,
    openmathinstruct2=0.175,
    numinamath_1_5=0.10,
    megamath_qa=0.025,
)
HYBRID_BLEND = blend(
    dclm_baseline=0.05,
    instruction=0.10,
    megamath_web_pro=0.55,
    openr1_math_220k=0.10,
    openmathinstruct2=0.10,
    numinamath_1_5=0.10,
)


def constant(learning_rate: float) -> Schedule:
    """The stable stage's learning rate; no warmup [N32]."""
    return Schedule(style=LearningRateStyle.CONSTANT, peak_lr=learning_rate, min_lr=learning_rate)


def cosine(peak_lr: float) -> Schedule:
    """Cosine to a tenth of the peak, no warmup: every decay branch and every controlled run [P-§2], [N32]."""
    # Rounded because 0.1 x 2e-5 is 2.0000000000000003e-06 in floating point.
    return Schedule(style=LearningRateStyle.COSINE, peak_lr=peak_lr, min_lr=float(f"{peak_lr * MIN_LR_SHARE:.6g}"))


def stable(
    *, name: str, model: ModelConfig, init_from: str, learning_rate: float, parallelism: Parallelism
) -> MidTraining:
    """The stable stage of one model [N32] tables 2-5."""
    return MidTraining(
        name=name,
        model=model,
        init_from=init_from,
        tokenizer=init_from,
        blend=STABLE_BLEND,
        train_tokens=STABLE_TOKENS,
        seq_length=SEQ_LENGTH,
        global_batch_size=GLOBAL_BATCH_SIZE,
        micro_batch_size=MICRO_BATCH_SIZE,
        schedule=constant(learning_rate),
        parallelism=parallelism,
        save_interval_tokens=SAVE_INTERVAL_TOKENS,
        keep_checkpoints=KEEP_STABLE_CHECKPOINTS,
    )


def decay(parent: MidTraining, *, name: str, blend: Blend) -> MidTraining:
    """A decay branch from the end of a stable run [N32] tables 2-5."""
    return parent.branch(name=name, blend=blend, train_tokens=DECAY_TOKENS, schedule=cosine(parent.schedule.peak_lr))


# Reinforcement learning. Templates: the paper's `orz_base` and `simple` with the same roles in our wording (templates.py), our
# choice; a base model's first scores depend on such wording. A step is one batch of prompts, the step verl logs. The paper's plots show twice that number: 400
# plotted steps are 200 here. With the paper's two updates per batch a plotted step is one optimizer update, but whether that
# is what the factor means, or a batch of 256 renormalised to 128, is UNCONFIRMED. The scripts' length schedule and the
# paper's agree under it.

PLOTTED_STEPS_PER_STEP = 2  # [REPO] the notebooks plot 8 per evaluation, which came every 4 steps
TRAIN_STEPS = 200  # the figures end at 400 plotted steps; how long each run went on differs (196 to 876 logged) [REPO]
LONG_COT_STEPS = 100  # the long chain-of-thought panels end at 200 plotted steps [REPO]
CAP_4K = (LengthStage(from_step=0, max_response_tokens=4096),)  # [P-§2]
CAP_8K = (LengthStage(from_step=0, max_response_tokens=8192),)  # [P-§2] for long chains of thought
GROWING_CAP = (  # [RLCODE] {0:2048, 100:4096, 160:8192}; [N32] 2048 to 200, 4096 to 320, 8192 to 400 plotted steps
    LengthStage(from_step=0, max_response_tokens=2048),
    LengthStage(from_step=100, max_response_tokens=4096),
    LengthStage(from_step=160, max_response_tokens=8192),
)


def zero(
    *,
    name: str,
    init_from: str,
    placement: Placement,
    template: Template = Template.STRUCTURED,
    length_schedule: tuple[LengthStage, ...] = CAP_4K,
    train_steps: int = TRAIN_STEPS,
) -> ReinforcementLearning:
    """GRPO on a base model, the paper's settings; its scripts have 256 prompts in mini-batches of 16 instead [RLCODE]."""
    return ReinforcementLearning(
        name=name,
        init_from=init_from,
        engine=Engine.OPENRLHF,  # our choice; the paper ran verl [P-§2]
        prompts="hkust-nlp/SimpleRL-Zoo-Data",  # [P-§2] MATH8K: MATH level 3-5, about 8,000 questions
        template=template,
        prompts_per_step=128,  # [P-§2]
        samples_per_prompt=16,  # [P-§2]
        mini_batch_prompts=64,  # [P-§2] two updates per batch, found steadier
        train_steps=train_steps,
        learning_rate=1e-6,  # [P-§2]; constant, no warmup [RLCODE]
        kl_coef=0.0,  # [P-§2]
        temperature=1.0,  # [P-§2]
        top_p=1.0,  # [RLCODE]
        max_prompt_tokens=400,  # [RLCODE]
        length_schedule=length_schedule,
        clip_epsilon=0.2,  # [RLCODE] verl's default; the paper does not say
        max_grad_norm=1.0,  # [RLCODE] verl's default; the paper does not say
        eval_interval=4,  # [RLCODE]
        eval_sets=("gsm8k", "math500", "olympiad_bench", "amc23"),  # [REPO] the four curves of the plots
        placement=placement,
    )


def zero_from(
    base: MidTraining, *, name: str, placement: Placement, length_schedule: tuple[LengthStage, ...]
) -> ReinforcementLearning:
    """The final RL stage of a decay branch: structured template (`orz_base` in the scripts) [RLCODE]."""
    return zero(name=name, init_from=base.name, placement=placement, length_schedule=length_schedule)


# The study. Numbers about the machine (tasks, workers, ranks, batch) are our choice and change nothing in what is learned.

#: Corpora whose data sets have their text in a field of another name; what curation puts together has `text`.
_PUBLISHED_TEXTS = {
    each.corpus: each
    for each in (
        text.megamath_web_pro_max(), text.megamath_web_pro(), text.dclm_baseline(), text.openr1_math_220k(),
        text.openmathinstruct2(), text.numinamath_1_5(),
    )
}  # fmt: skip


def study(*, name: str, phases: tuple[MidTraining, ...], rl: tuple[ReinforcementLearning, ...]) -> ModelStudy:
    """A model's whole way: its stable stage, the decay branches, RL on each of these.

    Args:
        phases: the stable stage first.
    """
    corpora = dict.fromkeys(corpus for phase in phases for corpus in phase.corpora)
    return ModelStudy(
        name=name,
        stable=phases[0],
        branches=phases[1:],
        rl=rl,
        world_size=8,
        export_dtype=ExportDtype.BF16,  # what the published models have
        texts=tuple(_text(corpus) for corpus in corpora),
        tokenize_tasks=8,
        tokenize_workers=16,
        eval_engine=EvaluationEngine.VLLM,
        eval_batch_size=32,
        eval_max_new_tokens=1024,  # our choice; few-shot responses end with their example's closing sentence
        overlap_documents=1_000_000,
        overlap_workers=16,
    )


def _text(corpus: str) -> Tokenization:
    return _PUBLISHED_TEXTS.get(corpus) or text.curated(corpus)
