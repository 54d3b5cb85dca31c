"""The corpora of the recipe: size, where they are published, and where each number comes from.

Sizes mix tokenizers: MegaMath's are Llama-2 counts [MM §2.5], the one behind 73.8B is not stated. Llama-3's larger vocabulary
gives fewer tokens for the same text, so epochs computed from these sizes are a little low.
"""

from dataclasses import dataclass

from megatron_octo.units import B, T

MEGAMATH = "LLM360/MegaMath"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus as the blends name it."""

    #: Tokens published for it; None where the paper gives none and the subset used is not known.
    tokens: int | None
    #: Hugging Face data set ids; several where the corpus is a collection.
    datasets: tuple[str, ...]


CORPORA = {
    # [CARD] 69.2M rows; tokens [N32]. LLM-jp counted 79.4B with its own tokenizer.
    "megamath_web_pro_max": Corpus(tokens=round(73.8 * B), datasets=("OctoThinker/MegaMath-Web-Pro-Max",)),
    # [MM] 15.1B tokens, 15.0M documents; the OctoThinker authors count about 13B.
    "megamath_web_pro": Corpus(tokens=round(15.1 * B), datasets=(MEGAMATH,)),
    "megamath_text_code_block": Corpus(tokens=round(50.3 * B), datasets=(MEGAMATH,)),  # [MM]
    # [MM] 22.6M pairs of 308 tokens.
    "megamath_qa": Corpus(tokens=7 * B, datasets=(MEGAMATH,)),
    # [MM] Published as ids only: the code itself must be joined from Stack v2.
    "megamath_code": Corpus(tokens=round(28.1 * B), datasets=(MEGAMATH, "bigcode/the-stack-v2")),
    "megamath_translated_code": Corpus(tokens=round(7.2 * B), datasets=(MEGAMATH,)),  # [MM]
    # The data set's card: 4T tokens, 3B documents.
    "dclm_baseline": Corpus(tokens=4 * T, datasets=("mlfoundations/dclm-baseline-1.0",)),
    # The data set's card: 9.6B tokens, 6.7M documents.
    "finemath_4plus": Corpus(tokens=round(9.6 * B), datasets=("HuggingFaceTB/finemath",)),
    # [N32] About 0.8B tokens of the three together; conversations judged high quality only (GPT-4-class answers).
    "instruction": Corpus(
        tokens=round(0.8 * B),
        datasets=(
            "allenai/tulu-3-sft-personas-instruction-following",
            "allenai/WildChat-1M",
            "HuggingFaceH4/ultrachat_200k",
        ),
    ),
    # UNCONFIRMED for the next four: which subsets, filters and splits were used, hence their tokens.
    "openr1_math_220k": Corpus(tokens=None, datasets=("open-r1/OpenR1-Math-220k",)),
    "am_deepseek_distilled_40m": Corpus(tokens=None, datasets=("a-m-team/AM-DeepSeek-Distilled-40M",)),
    "openmathinstruct2": Corpus(tokens=None, datasets=("nvidia/OpenMathInstruct-2",)),
    "numinamath_1_5": Corpus(tokens=None, datasets=("AI-MO/NuminaMath-1.5",)),
}


def tokens(corpus: str) -> int | None:
    """Published tokens of a corpus; None for one that is unknown here, such as a user's own."""
    return CORPORA[corpus].tokens if corpus in CORPORA else None
