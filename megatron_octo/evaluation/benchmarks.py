"""The benchmarks: where their questions are, what their columns mean, and how base models are prompted. No heavy import.

Read `BENCHMARKS` first. Numbers of questions and of shots are those of the original's evaluation (recipe.md, section 5.1);
hub names are lm-evaluation-harness's unless a comment says "guess".
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_octo.answer_text import LETTERS, extract_boxed
from megatron_octo.errors import ConfigError, CorpusError, nearest
from megatron_octo.evaluation.rows import Row
from megatron_octo.questions import Question


@dataclass(frozen=True, kw_only=True)
class Hub:
    """Rows on the Hugging Face hub; several configs follow one another."""

    id: str
    configs: tuple[str | None, ...] = (None,)
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class Style:
    """A few-shot prompt: examples and the question in one form, an empty line between them."""

    #: With `{question}` in it; a response follows after a space.
    asks: str
    #: How a response ends, with `{answer}` in it.
    closes: str
    #: A response ends before these.
    stop_strings: tuple[str, ...]


#: Chain of thought [arXiv 2201.11903]; of a multiple choice, the options stand below the question and the answer is `(B)`.
COT = Style(asks="Question: {question}\nAnswer:", closes=" The answer is {answer}.", stop_strings=("Question:",))
#: Minerva [arXiv 2206.14858, appendix D.2].
MINERVA = Style(
    asks="Problem:\n{question}\n\nSolution:",
    closes="\nFinal Answer: The final answer is ${answer}$. I hope it is correct.",
    stop_strings=("Problem:",),
)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What an evaluation needs to know about a benchmark."""

    title: str
    #: None for a file of the user's own.
    hub: Hub | None
    #: None where nobody published how many; another number than this is worth a warning.
    num_questions: int | None
    #: Its columns, those of the hub and of the usual JSONL. Raises `CorpusError`.
    question: Callable[[Row], Question]
    style: Style
    num_shots: int
    #: Whose examples it shows; None for its own.
    shots_of: str | None = None
    #: Rows with worked solutions.
    train: Hub | None = None
    #: Published examples within the package of lm-evaluation-harness, below `tasks`.
    lm_eval: str | None = None


# Columns to questions -------------------------------------------------------------------------------------------------


def plain(row: Row) -> Question:
    """{"question", "answer"}, and where there are any "choices" and a "solution"; or as GSM8K's files are."""
    choices = row.options("choices") if "choices" in row.values else ()
    if not choices and "\n#### " in row.text("answer"):
        return _gsm8k(row)
    return Question(
        question=row.text("question"),
        answer=row.letter("answer", options=choices) if choices else row.text("answer"),
        choices=choices,
        solution=row.optional("solution"),
    )


def _gsm8k(row: Row) -> Question:
    # The hub has steps, then `#### 18`; with the calculator's notes in them, <<16-3-4=9>>.
    steps, _, answer = row.text("answer").rpartition("####")
    solution = re.sub(r"<<[^<>]*>>", "", row.optional("cot") or steps).strip()
    return Question(question=row.text("question"), answer=answer.strip(), solution=solution or None)


def _worked(row: Row) -> Question:
    solution = row.optional("solution")
    answer = row.optional("answer") or _last_box(solution or "")
    if answer is None:
        raise CorpusError(rf"{row.place} has neither an 'answer' nor a 'solution' with a \boxed{{}}")
    return Question(question=row.text("problem", "question"), answer=answer, solution=solution)


def _ocw(row: Row) -> Question:
    question = _worked(row)
    solution = None if question.solution is None else _without_python(question.solution)
    return dataclasses.replace(question, answer=_without_python(question.answer), solution=solution)


def _without_python(text: str) -> str:
    """Some answers are code: np.arcsin(10/13), -1./3."""
    return re.sub(r"(?<=\d)\.(?=/)", "", text.replace("np.", "\\"))


def _last_box(solution: str) -> str | None:
    text = solution.replace(r"\fbox", r"\boxed")
    bare = re.findall(r"\\boxed\s+([^\s$.{}]+)", text)  # MATH has some `\boxed 5`
    return extract_boxed(text) or (bare[-1] if bare else None)


def _olympiad(row: Row) -> Question:
    context = row.optional("context")
    answers = ",".join(row.texts("final_answer", "answer"))
    if not answers:
        raise CorpusError(f"{row.place} has nothing in 'final_answer'; it needs a list of answers")
    return Question(
        question=f"{context}\n{row.text('question')}" if context else row.text("question"),
        answer=answers.replace("$", "").rstrip("."),
        solution=next(iter(row.texts("solution")), None),
    )


def _amc(row: Row) -> Question:
    return Question(question=row.text("question", "problem"), answer=row.text("answer"))


def _choice(row: Row) -> Question:
    choices = row.options("options", "choices", "Possible Answers")
    return Question(
        question=row.text("question", "Question", "problem", "Problem"),
        answer=row.letter("answer", "Answer", "correct", options=choices),
        choices=choices,
        solution=(row.optional("rationale", "Rationale") or "").strip('" ') or None,
    )


def _word_problem(row: Row) -> Question:
    body, question = row.optional("body", "Body") or "", row.text("question", "Question", "input")
    if body and body[-1].isalnum():  # SVAMP leaves the full stop out in a third of its rows
        body += "."
    # ASDiv's unit: `9 (apples)`.
    answer = re.sub(r"\s+\([^()]*\)$", "", row.text("answer", "Answer", "target", "result"))
    return Question(question=f"{body} {question}".strip(), answer=answer)


def _tabmwp(row: Row) -> Question:
    title, answer = row.optional("table_title"), row.text("answer")
    choices = row.options("choices") if row.texts("choices") else ()
    if choices and answer not in choices:
        raise CorpusError(f"{row.place} has the answer '{answer}', which is none of its choices: {', '.join(choices)}")
    parts = (f"Table: {title}" if title else None, row.text("table"), row.text("question"))
    return Question(
        question="\n".join(part for part in parts if part),
        answer=LETTERS[choices.index(answer)] if choices else answer,
        choices=choices,
        solution=row.optional("solution"),
    )


def _gpqa(row: Row) -> Question:
    question, right = row.text("Question", "question"), row.text("Correct Answer")
    wrong = [row.text(f"Incorrect Answer {number}") for number in (1, 2, 3)]
    # The file has the right answer first: an order that looks random and is the same everywhere.
    choices = sorted([right, *wrong], key=lambda each: hashlib.sha256((question + each).encode()).digest())
    return Question(
        question=question,
        answer=LETTERS[choices.index(right)],
        choices=tuple(choices),
        solution=row.optional("Explanation"),
    )


# The table ------------------------------------------------------------------------------------------------------------

_MATH_SUBJECTS = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus")  # fmt: skip
_MMLU_SUBJECTS = (
    "abstract_algebra", "astronomy", "college_biology", "college_chemistry", "college_computer_science",
    "college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering",
    "elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science",
    "high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning",
)  # fmt: skip

BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark(
        title="GSM8K", num_questions=1319, question=_gsm8k, style=COT, num_shots=8,
        hub=Hub(id="openai/gsm8k", configs=("main",)),
        train=Hub(id="openai/gsm8k", configs=("main",), split="train"),
        lm_eval="gsm8k/gsm8k-cot.yaml",
    ),
    "math": Benchmark(
        title="MATH", num_questions=5000, question=_worked, style=MINERVA, num_shots=4,
        hub=Hub(id="EleutherAI/hendrycks_math", configs=_MATH_SUBJECTS),
        train=Hub(id="EleutherAI/hendrycks_math", configs=_MATH_SUBJECTS, split="train"),
        lm_eval="minerva_math/utils.py",
    ),
    "math500": Benchmark(
        title="MATH500", num_questions=500, question=_worked, style=MINERVA, num_shots=4, shots_of="math",
        hub=Hub(id="HuggingFaceH4/MATH-500"),
    ),
    "olympiad_bench": Benchmark(
        title="OlympiadBench", num_questions=675, question=_olympiad, style=MINERVA, num_shots=4, shots_of="math",
        hub=Hub(id="Hothan/OlympiadBench", configs=("OE_TO_maths_en_COMP",), split="train"),  # guess: 674 rows there
    ),
    "amc23": Benchmark(
        title="AMC23", num_questions=40, question=_amc, style=COT, num_shots=0,
        hub=Hub(id="math-ai/amc23"),  # guess
    ),
    "sat": Benchmark(
        title="SAT-math", num_questions=32, question=_choice, style=COT, num_shots=4,
        shots_of="mmlu_stem",  # guess: it has no training split
        hub=Hub(id="mcaleste/sat_multiple_choice_math_may_23", split="train"),  # guess
    ),
    "ocw": Benchmark(
        title="OCW", num_questions=272, question=_ocw, style=MINERVA, num_shots=4, shots_of="math",
        hub=Hub(id="math-ai/minervamath"),  # guess
    ),
    "mmlu_stem": Benchmark(
        title="MMLU-STEM", num_questions=3018, question=_choice, style=COT, num_shots=4,
        hub=Hub(id="cais/mmlu", configs=_MMLU_SUBJECTS),
        train=Hub(id="cais/mmlu", configs=("elementary_mathematics",), split="dev"),  # guess; without solutions
        lm_eval="mmlu/flan_cot_fewshot/mmlu_elementary_mathematics.yaml",  # guess: one subject for all
    ),
    "mathqa": Benchmark(
        title="MathQA", num_questions=1000, question=_choice, style=COT, num_shots=4,
        hub=Hub(id="regisss/math_qa"),  # 2,985 rows there; which 1,000 the original takes is not known
        train=Hub(id="regisss/math_qa", split="train"),
        lm_eval="mmlu/flan_cot_fewshot/mmlu_elementary_mathematics.yaml",  # guess: nobody published any for MathQA
    ),
    "svamp": Benchmark(
        title="SVAMP", num_questions=1000, question=_word_problem, style=COT, num_shots=8, shots_of="gsm8k",
        hub=Hub(id="ChilleD/SVAMP", split="train+test"),  # guess
    ),
    "asdiv": Benchmark(
        title="ASDiv", num_questions=2215, question=_word_problem, style=COT, num_shots=8, shots_of="gsm8k",
        hub=Hub(id="EleutherAI/asdiv", split="validation"),  # 2,305 rows there
    ),
    "mawps": Benchmark(
        title="MAWPS", num_questions=2065, question=_word_problem, style=COT, num_shots=8, shots_of="gsm8k",
        hub=Hub(id="MU-NLPC/Calc-mawps", split="train+validation+test"),  # guess
    ),
    "tabmwp": Benchmark(
        title="TabMWP", num_questions=1000, question=_tabmwp, style=COT, num_shots=8, shots_of="gsm8k",
        hub=Hub(id="Arietem/tabmwp", split="train"),  # guess
    ),
    "gpqa_diamond": Benchmark(
        title="GPQA-diamond", num_questions=198, question=_gpqa, style=COT, num_shots=5,
        hub=Hub(id="Idavidrein/gpqa", configs=("gpqa_diamond",), split="train"),
        # It contains the diamond ones; those that are asked are not shown.
        train=Hub(id="Idavidrein/gpqa", configs=("gpqa_main",), split="train"),
    ),
}  # fmt: skip

SUITES: Mapping[str, tuple[str, ...]] = {
    #: The thirteen of the paper.
    "math13": tuple(name for name in BENCHMARKS if name != "gpqa_diamond"),
    #: Those watched during RL.
    "rl4": ("gsm8k", "math500", "olympiad_bench", "amc23"),
}


def named(name: str) -> Benchmark:
    """A benchmark; any other name is a file of the user's own, asked without examples."""
    own = Benchmark(title=name, hub=None, num_questions=None, question=plain, style=COT, num_shots=0)
    return BENCHMARKS.get(name, own)


def check_named(name: str) -> None:
    """Raises `ConfigError` for a name without a file that is no benchmark."""
    if name not in BENCHMARKS:
        raise ConfigError(
            f"'{name}' is no benchmark{nearest(name, BENCHMARKS)}; any other name needs a file of its own"
        )
