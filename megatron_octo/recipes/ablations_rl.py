"""RL on the controlled studies: `ablations_rl.X` starts from `ablations.X`.

Also a reference model, and two studies of RL itself on `ablations.qa_long_instruct`: prompt template and growing response cap.
Settings of `octothinker.zero`. Simple template, response cap 4096, for long chains of thought 8192 [P-§2], unless the run's
published name says otherwise. Steps are batches of prompts; the paper plots twice that number (see `octothinker.py`). The
MATH500 numbers are the published ones, of one run each, at step 196 or, for the OpenR1 decays, at their last step [REPO].
"""

from megatron_octo.recipes import ablations
from megatron_octo.recipes.llama32_3b import RL_PLACEMENT  # the studies are on models of this size
from megatron_octo.recipes.octothinker import CAP_4K, CAP_8K, LONG_COT_STEPS, TRAIN_STEPS, zero
from megatron_octo.rl.config import LengthStage, ReinforcementLearning
from megatron_octo.templates import Template
from megatron_octo.training.config import MidTraining

# [REPO] run names `rl2.4k` and `rlctx.4.8k`. Our choice: the step of the switch (UNCONFIRMED), that of the long branch's first.
CAP_2K_THEN_4K = (
    LengthStage(from_step=0, max_response_tokens=2048),
    LengthStage(from_step=100, max_response_tokens=4096),
)
CAP_4K_THEN_8K = (
    LengthStage(from_step=0, max_response_tokens=4096),
    LengthStage(from_step=100, max_response_tokens=8192),
)


def short_cot(base: MidTraining, *, name: str) -> ReinforcementLearning:
    """RL on web text or short chains of thought: simple template, cap 4k [P-§2]."""
    return zero(
        name=name, init_from=base.name, placement=RL_PLACEMENT, template=Template.SIMPLE, length_schedule=CAP_4K
    )


def long_cot(
    base: MidTraining,
    *,
    name: str,
    template: Template = Template.STRUCTURED,
    length_schedule: tuple[LengthStage, ...] = CAP_8K,
    train_steps: int = LONG_COT_STEPS,
) -> ReinforcementLearning:
    """RL on long chains of thought: cap 8k [P-§2]."""
    return zero(
        name=name,
        init_from=base.name,
        placement=RL_PLACEMENT,
        template=template,
        length_schedule=length_schedule,
        train_steps=train_steps,
    )


def mixed_cot(base: MidTraining, *, name: str) -> ReinforcementLearning:
    """RL on both kinds of chains of thought: structured template, cap 4k then 8k [REPO]."""
    return zero(name=name, init_from=base.name, placement=RL_PLACEMENT, length_schedule=CAP_4K_THEN_8K)


# References: the bases without mid-training are `llama32_3b.rl_base` and this one [REPO] `qwen.3b`


def qwen25_3b() -> ReinforcementLearning:
    """RL on Qwen2.5-3B, the reference: published MATH500 63.4."""
    return zero(
        name="ablations_rl.qwen25_3b",
        init_from="Qwen/Qwen2.5-3B",
        placement=RL_PLACEMENT,
        template=Template.SIMPLE,
        length_schedule=CAP_4K,
    )


# a. Web corpora. MATH500 at step 196 [REPO]


def web_fm4p() -> ReinforcementLearning:
    """RL on FineMath-4plus: published MATH500 10.4."""
    return short_cot(ablations.web_fm4p(), name="ablations_rl.web_fm4p")


def web_pro() -> ReinforcementLearning:
    """RL on MegaMath-Web-Pro: published MATH500 35.8."""
    return short_cot(ablations.web_pro(), name="ablations_rl.web_pro")


def web_pro_max() -> ReinforcementLearning:
    """RL on MegaMath-Web-Pro-Max: published MATH500 31.4."""
    return short_cot(ablations.web_pro_max(), name="ablations_rl.web_pro_max")


# b, c. QA and instructions


def qa_short() -> ReinforcementLearning:
    """RL on 10 % short CoT: published MATH500 33.4."""
    return short_cot(ablations.qa_short(), name="ablations_rl.qa_short")


def qa_short_instruct() -> ReinforcementLearning:
    """RL on 10 % short CoT, 1 % instructions: published MATH500 38.0."""
    return short_cot(ablations.qa_short_instruct(), name="ablations_rl.qa_short_instruct")


def qa_long() -> ReinforcementLearning:
    """RL on 10 % long CoT: published peak 47.6, then collapse."""
    return long_cot(ablations.qa_long(), name="ablations_rl.qa_long", template=Template.SIMPLE)


def qa_long_instruct() -> ReinforcementLearning:
    """RL on 10 % long CoT, 1 % instructions: published peak 50.6, collapse."""
    return long_cot(ablations.qa_long_instruct(), name="ablations_rl.qa_long_instruct", template=Template.SIMPLE)


# d. The structured template [REPO]: `cpt8k_rl8k_math.8k_orztemplate` against `qa_long_instruct`


def template_structured() -> ReinforcementLearning:
    """RL on the same, structured template: published peak 48.0, decline."""
    return long_cot(ablations.qa_long_instruct(), name="ablations_rl.template_structured")


# e. A growing response cap [REPO]: `cpt8k_rl2.4k_math.8k_orztemplate` against `template_structured`


def length_schedule() -> ReinforcementLearning:
    """RL on the same, cap 2k then 4k too: published 55.4, stable."""
    return long_cot(
        ablations.qa_long_instruct(),
        name="ablations_rl.length_schedule",
        length_schedule=CAP_2K_THEN_4K,
        train_steps=TRAIN_STEPS,
    )


# f. Token budget. The 20B and 70B checkpoints (35.4 and 38.4) take the same recipe with another `--model`


def budget_100b() -> ReinforcementLearning:
    """RL on the 100B-token run: published MATH500 42.2."""
    return short_cot(ablations.budget_100b(), name="ablations_rl.budget_100b")


# g. QA shares. OpenR1's run names say `orzbase`: the structured template; they end at steps 104 to 116 [REPO]


def decay_megamath_qa_10() -> ReinforcementLearning:
    """RL on 10 % MegaMath-QA: published MATH500 41.6."""
    return short_cot(ablations.decay_megamath_qa_10(), name="ablations_rl.decay_megamath_qa_10")


def decay_megamath_qa_20() -> ReinforcementLearning:
    """RL on 20 % MegaMath-QA: published MATH500 40.2."""
    return short_cot(ablations.decay_megamath_qa_20(), name="ablations_rl.decay_megamath_qa_20")


def decay_megamath_qa_30() -> ReinforcementLearning:
    """RL on 30 % MegaMath-QA: published MATH500 39.2."""
    return short_cot(ablations.decay_megamath_qa_30(), name="ablations_rl.decay_megamath_qa_30")


def decay_megamath_qa_40() -> ReinforcementLearning:
    """RL on 40 % MegaMath-QA: published MATH500 38.2."""
    return short_cot(ablations.decay_megamath_qa_40(), name="ablations_rl.decay_megamath_qa_40")


def decay_omi2_10() -> ReinforcementLearning:
    """RL on 10 % OMI2: published MATH500 46.6."""
    return short_cot(ablations.decay_omi2_10(), name="ablations_rl.decay_omi2_10")


def decay_omi2_20() -> ReinforcementLearning:
    """RL on 20 % OMI2: published MATH500 50.8."""
    return short_cot(ablations.decay_omi2_20(), name="ablations_rl.decay_omi2_20")


def decay_omi2_30() -> ReinforcementLearning:
    """RL on 30 % OMI2: published MATH500 53.6."""
    return short_cot(ablations.decay_omi2_30(), name="ablations_rl.decay_omi2_30")


def decay_omi2_40() -> ReinforcementLearning:
    """RL on 40 % OMI2: published MATH500 55.2."""
    return short_cot(ablations.decay_omi2_40(), name="ablations_rl.decay_omi2_40")


def decay_openr1_10() -> ReinforcementLearning:
    """RL on 10 % OpenR1: published MATH500 49.8."""
    return long_cot(ablations.decay_openr1_10(), name="ablations_rl.decay_openr1_10")


def decay_openr1_20() -> ReinforcementLearning:
    """RL on 20 % OpenR1: published MATH500 56.2."""
    return long_cot(ablations.decay_openr1_20(), name="ablations_rl.decay_openr1_20")


def decay_openr1_30() -> ReinforcementLearning:
    """RL on 30 % OpenR1: published MATH500 59.2."""
    return long_cot(ablations.decay_openr1_30(), name="ablations_rl.decay_openr1_30")


def decay_openr1_40() -> ReinforcementLearning:
    """RL on 40 % OpenR1: published MATH500 58.0."""
    return long_cot(ablations.decay_openr1_40(), name="ablations_rl.decay_openr1_40")


# h. QA blends [REPO]: `rlctx.4.8k`, `orzbase`


def mix_openr1_10_omi2_20() -> ReinforcementLearning:
    """RL on 10 % OpenR1 and 20 % OMI2: published MATH500 57.0."""
    return mixed_cot(ablations.mix_openr1_10_omi2_20(), name="ablations_rl.mix_openr1_10_omi2_20")


def mix_openr1_15_omi2_15() -> ReinforcementLearning:
    """RL on 15 % OpenR1 and 15 % OMI2: published MATH500 57.2."""
    return mixed_cot(ablations.mix_openr1_15_omi2_15(), name="ablations_rl.mix_openr1_15_omi2_15")


def mix_openr1_20_omi2_10() -> ReinforcementLearning:
    """RL on 20 % OpenR1 and 10 % OMI2: published MATH500 56.8."""
    return mixed_cot(ablations.mix_openr1_20_omi2_10(), name="ablations_rl.mix_openr1_20_omi2_10")
