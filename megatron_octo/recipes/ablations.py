"""The controlled mid-training studies on Llama-3.2-3B: web corpus, QA, instructions, token budget, QA share, QA blends.

Sources as in `octothinker.py`; each section names the fragment of the published run names it stands for. Their RL stages are in
`ablations_rl.py`. One run each and no seeds in the paper: gaps under about 4 points should not be read as real.
"""

from megatron_octo.recipes import llama32_3b, octothinker
from megatron_octo.training.blend import Blend, blend
from megatron_octo.training.config import MidTraining
from megatron_octo.units import B

PEAK_LR = 3e-5  # [P-§2] cosine, no warmup, floor a tenth; 3B of [MM] table 13 is the same
CONTROLLED_TOKENS = 20 * B  # [P-§2]
BUDGET_TOKENS = 100 * B  # [P-§2]
# our choice: 10B lands within a step of the 20B, 70B and 100B checkpoints that were compared.
BUDGET_SAVE_INTERVAL_TOKENS = 10 * B
PILOT_TOKENS = 10 * B  # [REPO] run names `decay.*.10B`
# [REPO] run names `stable.130b`: 31,000 steps are 130.02B tokens, and a checkpoint of our stable recipe.
PILOT_BRANCH_TOKENS = 31_000 * octothinker.TOKENS_PER_STEP


def controlled(
    *,
    name: str,
    blend: Blend,
    train_tokens: int = CONTROLLED_TOKENS,
    save_interval_tokens: int = octothinker.SAVE_INTERVAL_TOKENS,
    keep_checkpoints: int = 3,
) -> MidTraining:
    """One controlled run on Llama-3.2-3B base [P-§2]."""
    return MidTraining(
        name=name,
        model=llama32_3b.MODEL,
        init_from=llama32_3b.BASE,
        tokenizer=llama32_3b.BASE,
        blend=blend,
        train_tokens=train_tokens,
        seq_length=octothinker.SEQ_LENGTH,
        global_batch_size=octothinker.GLOBAL_BATCH_SIZE,
        micro_batch_size=octothinker.MICRO_BATCH_SIZE,
        schedule=octothinker.cosine(PEAK_LR),
        parallelism=llama32_3b.PARALLELISM,
        save_interval_tokens=save_interval_tokens,
        keep_checkpoints=keep_checkpoints,
    )


def pilot(*, name: str, web: float, **qa: float) -> MidTraining:
    """A decay pilot from the 130B-token checkpoint: DCLM 5 %, instruction 10 %, QA as given, the rest web [REPO]."""
    return llama32_3b.stable().branch(
        name=name,
        blend=blend(dclm_baseline=0.05, instruction=0.10, megamath_web_pro=web, **qa),
        train_tokens=PILOT_TOKENS,
        schedule=octothinker.cosine(llama32_3b.STABLE_LR),  # our choice: as the final decay; the pilots' is UNCONFIRMED
        at_tokens=PILOT_BRANCH_TOKENS,
    )


# a. Which web corpus [P-§2]: `fm4p.20B`, `mm.web.pro.20B`, `mm.web.pro.plus.20B`


def web_fm4p() -> MidTraining:
    """Web corpus: FineMath-4plus, 20B tokens."""
    return controlled(name="ablations.web_fm4p", blend=blend(finemath_4plus=1.0))


def web_pro() -> MidTraining:
    """Web corpus: MegaMath-Web-Pro, 20B tokens."""
    return controlled(name="ablations.web_pro", blend=blend(megamath_web_pro=1.0))


def web_pro_max() -> MidTraining:
    """Web corpus: MegaMath-Web-Pro-Max, 20B tokens."""
    return controlled(name="ablations.web_pro_max", blend=blend(megamath_web_pro_max=1.0))


# b. Web to QA 9:1 [P-§2]: `synqa.91`, `openr1.91`


def qa_short() -> MidTraining:
    """Web-Pro with 10 % short-CoT QA (MegaMath-QA), 20B tokens."""
    return controlled(name="ablations.qa_short", blend=blend(megamath_web_pro=0.9, megamath_qa=0.1))


def qa_long() -> MidTraining:
    """Web-Pro with 10 % long-CoT QA (OpenR1), 20B tokens."""
    return controlled(name="ablations.qa_long", blend=blend(megamath_web_pro=0.9, openr1_math_220k=0.1))


# c. Instruction to web to QA 1:89:10 [P-§2]: `synqa.ins.89101`, `openr1.ins.89101`


def qa_short_instruct() -> MidTraining:
    """Web-Pro with 10 % short-CoT QA and 1 % instructions, 20B tokens."""
    return controlled(
        name="ablations.qa_short_instruct", blend=blend(instruction=0.01, megamath_web_pro=0.89, megamath_qa=0.1)
    )


def qa_long_instruct() -> MidTraining:
    """Web-Pro with 10 % long-CoT QA and 1 % instructions, 20B tokens."""
    return controlled(
        name="ablations.qa_long_instruct", blend=blend(instruction=0.01, megamath_web_pro=0.89, openr1_math_220k=0.1)
    )


# f. Token budget [P-§2]: `mm.web.pro.plus.{20,70,100}B`, all from one 100B cosine run


def budget_100b() -> MidTraining:
    """Token budget: Web-Pro-Max, 100B tokens in one cosine."""
    return controlled(
        name="ablations.budget_100b",
        blend=blend(megamath_web_pro_max=1.0),
        train_tokens=BUDGET_TOKENS,
        save_interval_tokens=BUDGET_SAVE_INTERVAL_TOKENS,
        keep_checkpoints=11,
    )


# g. Share of one QA set in a 10B-token decay [REPO]: `stable.130b_decay.{synthqa,omi,openr1}.0X0.10B`


def decay_megamath_qa_10() -> MidTraining:
    """Decay pilot, 10B tokens: 10 % MegaMath-QA."""
    return pilot(name="ablations.decay_megamath_qa_10", web=0.75, megamath_qa=0.1)


def decay_megamath_qa_20() -> MidTraining:
    """Decay pilot, 10B tokens: 20 % MegaMath-QA."""
    return pilot(name="ablations.decay_megamath_qa_20", web=0.65, megamath_qa=0.2)


def decay_megamath_qa_30() -> MidTraining:
    """Decay pilot, 10B tokens: 30 % MegaMath-QA."""
    return pilot(name="ablations.decay_megamath_qa_30", web=0.55, megamath_qa=0.3)


def decay_megamath_qa_40() -> MidTraining:
    """Decay pilot, 10B tokens: 40 % MegaMath-QA."""
    return pilot(name="ablations.decay_megamath_qa_40", web=0.45, megamath_qa=0.4)


def decay_omi2_10() -> MidTraining:
    """Decay pilot, 10B tokens: 10 % OpenMathInstruct2."""
    return pilot(name="ablations.decay_omi2_10", web=0.75, openmathinstruct2=0.1)


def decay_omi2_20() -> MidTraining:
    """Decay pilot, 10B tokens: 20 % OpenMathInstruct2."""
    return pilot(name="ablations.decay_omi2_20", web=0.65, openmathinstruct2=0.2)


def decay_omi2_30() -> MidTraining:
    """Decay pilot, 10B tokens: 30 % OpenMathInstruct2."""
    return pilot(name="ablations.decay_omi2_30", web=0.55, openmathinstruct2=0.3)


def decay_omi2_40() -> MidTraining:
    """Decay pilot, 10B tokens: 40 % OpenMathInstruct2."""
    return pilot(name="ablations.decay_omi2_40", web=0.45, openmathinstruct2=0.4)


def decay_openr1_10() -> MidTraining:
    """Decay pilot, 10B tokens: 10 % OpenR1."""
    return pilot(name="ablations.decay_openr1_10", web=0.75, openr1_math_220k=0.1)


def decay_openr1_20() -> MidTraining:
    """Decay pilot, 10B tokens: 20 % OpenR1."""
    return pilot(name="ablations.decay_openr1_20", web=0.65, openr1_math_220k=0.2)


def decay_openr1_30() -> MidTraining:
    """Decay pilot, 10B tokens: 30 % OpenR1."""
    return pilot(name="ablations.decay_openr1_30", web=0.55, openr1_math_220k=0.3)


def decay_openr1_40() -> MidTraining:
    """Decay pilot, 10B tokens: 40 % OpenR1."""
    return pilot(name="ablations.decay_openr1_40", web=0.45, openr1_math_220k=0.4)


# h. Two QA sets, 30 % together [REPO]: `openr1.0X0.omi2.0X0`; their budget is not in the name: our choice, as g


def mix_openr1_10_omi2_20() -> MidTraining:
    """Decay pilot, 10B tokens: 10 % OpenR1 and 20 % OpenMathInstruct2."""
    return pilot(name="ablations.mix_openr1_10_omi2_20", web=0.55, openr1_math_220k=0.1, openmathinstruct2=0.2)


def mix_openr1_15_omi2_15() -> MidTraining:
    """Decay pilot, 10B tokens: 15 % OpenR1 and 15 % OpenMathInstruct2."""
    return pilot(name="ablations.mix_openr1_15_omi2_15", web=0.55, openr1_math_220k=0.15, openmathinstruct2=0.15)


def mix_openr1_20_omi2_10() -> MidTraining:
    """Decay pilot, 10B tokens: 20 % OpenR1 and 10 % OpenMathInstruct2."""
    return pilot(name="ablations.mix_openr1_20_omi2_10", web=0.55, openr1_math_220k=0.2, openmathinstruct2=0.1)
