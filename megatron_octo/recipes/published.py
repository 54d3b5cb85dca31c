"""The published data sets of the blends as documents: filtered and formatted as the paper says, or as the field does where it does not.

    megatron-octo curate published.openr1_math_220k --input /data/OpenR1-Math-220k --out corpora/openr1_math_220k
    megatron-octo tokenize openr1_math_220k --input corpora/openr1_math_220k/documents --tokenizer /models/Llama-3.2-3B \\
        --out shards/openr1_math_220k

Without `--input` they are read from the Hugging Face hub. Which rows stay is in `megatron_octo/curation/data_sets/published.py`.
"""

from megatron_octo.curation.config import Importing, Published


def dclm_baseline() -> Importing:
    """DCLM-Baseline: general web text against forgetting."""
    return Importing(corpus=Published.DCLM_BASELINE)


def megamath_web_pro() -> Importing:
    """MegaMath-Web-Pro: the web share of all decay branches."""
    return Importing(corpus=Published.MEGAMATH_WEB_PRO)


def megamath_code() -> Importing:
    """MegaMath-Code, of files that you have joined with The Stack v2."""
    return Importing(corpus=Published.MEGAMATH_CODE)


def megamath_translated_code() -> Importing:
    """MegaMath-Translated-Code: the same in Python."""
    return Importing(corpus=Published.MEGAMATH_TRANSLATED_CODE)


def megamath_text_code_block() -> Importing:
    """MegaMath-Text-Code-Block: text and code in turn."""
    return Importing(corpus=Published.MEGAMATH_TEXT_CODE_BLOCK)


def megamath_qa() -> Importing:
    """MegaMath-QA: questions and answers out of web text."""
    return Importing(corpus=Published.MEGAMATH_QA)


def openr1_math_220k() -> Importing:
    """OpenR1-Math-220K: long chains of thought, one verified trace a problem."""
    return Importing(corpus=Published.OPENR1_MATH_220K)


def am_deepseek_distilled_40m() -> Importing:
    """AM-DeepSeek-Distilled-40M: verified chains in mathematics."""
    return Importing(corpus=Published.AM_DEEPSEEK_DISTILLED_40M)


def openmathinstruct2() -> Importing:
    """OpenMathInstruct-2: short chains of thought, question and solution."""
    return Importing(corpus=Published.OPENMATHINSTRUCT2)


def numinamath_1_5() -> Importing:
    """NuminaMath-1.5: short chains of thought, questions with a valid solution."""
    return Importing(corpus=Published.NUMINAMATH_1_5)


def tulu3_personas_if() -> Importing:
    """TULU3 personas: following instructions."""
    return Importing(corpus=Published.TULU3_PERSONAS_IF)


def wildchat() -> Importing:
    """WildChat-1M: conversations in English that GPT-4 answered."""
    return Importing(corpus=Published.WILDCHAT)


def ultrachat_200k() -> Importing:
    """UltraChat-200K: conversations between two models."""
    return Importing(corpus=Published.ULTRACHAT_200K)


def instruction() -> Importing:
    """TULU3 personas, WildChat and UltraChat-200K as one; name three inputs."""
    return Importing(corpus=Published.INSTRUCTION)
