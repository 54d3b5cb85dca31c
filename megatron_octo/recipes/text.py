"""The published corpora as text to tokenise: where their text stands in a row. `--input` and `--tokenizer` name your copies.

    megatron-octo tokenize text.openmathinstruct2 --input /data/openmathinstruct2 --tokenizer /models/Llama-3.2-3B \\
        --out shards/openmathinstruct2

Field names as the data sets' authors publish them; all rows are taken. How the paper joined question and solution, and whether it put
a BOS before documents, is UNCONFIRMED: joined by a newline (recipe of the paper, section 2, of OpenR1), EOD alone between documents.
Corpora that are filtered, formatted or put together first (`instruction`, `megamath_code`, and these too, of verified rows only) come
out of `megatron-octo curate published.CORPUS` as JSONL with a field `text`, in `documents/`.
"""

from pathlib import Path

from megatron_octo.tokenization.config import Tokenization


def curated(corpus: str) -> Tokenization:
    """A corpus that curation has put together: JSONL with a field `text`."""
    return _published(corpus)


def _published(corpus: str, *, text_field: str = "text") -> Tokenization:
    return Tokenization(
        corpus=corpus, inputs=(Path("corpora") / corpus,), text_field=text_field, tokenizer=Path("tokenizer")
    )


def megamath_web_pro_max() -> Tokenization:
    """MegaMath-Web-Pro-Max, refined math web: main corpus of the stable stage."""
    return _published("megamath_web_pro_max")


def megamath_web_pro() -> Tokenization:
    """MegaMath-Web-Pro: the web share of all decay branches."""
    return _published("megamath_web_pro")


def dclm_baseline() -> Tokenization:
    """DCLM-Baseline: general web text against forgetting."""
    return _published("dclm_baseline")


def finemath_4plus() -> Tokenization:
    """FineMath-4+: the web corpus MegaMath-Web-Pro is compared with."""
    return _published("finemath_4plus")


def openr1_math_220k() -> Tokenization:
    """OpenR1-Math-220K: long chains of thought, as turns."""
    return _published("openr1_math_220k", text_field="messages")


def openmathinstruct2() -> Tokenization:
    """OpenMathInstruct-2: short chains of thought, question and solution."""
    return _published("openmathinstruct2", text_field="problem,generated_solution")


def numinamath_1_5() -> Tokenization:
    """NuminaMath-1.5: short chains of thought, question and solution."""
    return _published("numinamath_1_5", text_field="problem,solution")
