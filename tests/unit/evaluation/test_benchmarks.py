"""What the columns of each benchmark mean, in the usual JSONL and on the hub."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.evaluation import loading, prompts, sources
from megatron_octo.evaluation.benchmarks import BENCHMARKS, SUITES, check_named, named
from megatron_octo.evaluation.config import Evaluation
from megatron_octo.evaluation.rows import Row, split_options
from megatron_octo.grading import grade, grade_all
from megatron_octo.questions import Question


def test_suites() -> None:
    assert len(BENCHMARKS) == 14
    assert len(SUITES["math13"]) == 13
    assert "gpqa_diamond" not in SUITES["math13"]
    assert SUITES["rl4"] == ("gsm8k", "math500", "olympiad_bench", "amc23")


def test_whose_examples_are_shown() -> None:
    assert {name: each.shots_of for name, each in BENCHMARKS.items() if each.shots_of} == {
        "math500": "math", "olympiad_bench": "math", "ocw": "math", "sat": "mmlu_stem",
        "svamp": "gsm8k", "asdiv": "gsm8k", "mawps": "gsm8k", "tabmwp": "gsm8k",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "benchmark"), BENCHMARKS.items())
def test_examples_come_from_somewhere(name: str, benchmark: Any) -> None:
    donor = BENCHMARKS[benchmark.shots_of or name]
    assert (donor.train is not None) == (benchmark.num_shots > 0)
    assert donor.style is benchmark.style


@pytest.mark.parametrize("name", SUITES["math13"])
def test_the_suite_can_be_asked_with_published_examples(name: str) -> None:
    donor = BENCHMARKS[BENCHMARKS[name].shots_of or name]
    assert donor.lm_eval or not BENCHMARKS[name].num_shots


#: name, columns, question, answer, choices, solution
ROWS = [
    ("gsm8k", {"question": "Eggs?", "answer": "1,018", "cot": "9*2=<<9*2=18>>18", "id": "x"}, "Eggs?", "1,018", (), "9*2=18"),
    ("gsm8k", {"question": "Eggs?", "answer": "9*2=<<9*2=18>>18\n#### 18"}, "Eggs?", "18", (), "9*2=18"),
    ("gsm8k", {"question": "Eggs?", "answer": "18"}, "Eggs?", "18", (), None),
    ("mine", {"question": "Eggs?", "answer": "9*2=<<9*2=18>>18\n#### 18"}, "Eggs?", "18", (), "9*2=18"),
    ("mine", {"question": "Eggs?", "answer": "2", "choices": ["1", "2", "4"]}, "Eggs?", "B", ("1", "2", "4"), None),
    ("mine", {"question": "Eggs?", "answer": 2, "choices": ["1", "2", "4"]}, "Eggs?", "C", ("1", "2", "4"), None),
    ("mine", {"question": "Eggs?", "answer": "a dozen", "choices": ["9", "a dozen"]}, "Eggs?", "B", ("9", "a dozen"), None),
    ("mine", {"question": "Eggs?", "answer": "(A)", "choices": ["B", "A"]}, "Eggs?", "A", ("B", "A"), None),
    ("math", {"problem": "P", "solution": r"so \boxed{\frac{1}{2}}", "level": 2}, "P", r"\frac{1}{2}", (), r"so \boxed{\frac{1}{2}}"),
    ("math", {"problem": "P", "solution": r"so $\boxed 5$."}, "P", "5", (), r"so $\boxed 5$."),
    ("math500", {"problem": "P", "solution": "s", "answer": "p - q"}, "P", "p - q", (), "s"),
    ("olympiad_bench", {"context": None, "question": "Q", "solution": ["s", "t"], "final_answer": ["$2n-2$"]}, "Q", "2n-2", (), "s"),
    ("olympiad_bench", {"context": "C", "question": "Q", "solution": ["s"], "final_answer": ["$f=1$,$g=2$."]}, "C\nQ", "f=1,g=2", (), "s"),
    ("amc23", {"problem": "P", "question": "P", "answer": 27.0}, "P", "27", (), None),
    ("sat", {"question": "Q", "options": "A) 1 B) $B$ 2", "Answer": "B"}, "Q", "B", ("1", "$B$ 2"), None),
    ("sat", {"Question": "Q", "Possible Answers": "A. 1 B. 2 C. 3", "Answer": "C"}, "Q", "C", ("1", "2", "3"), None),
    ("ocw", {"problem": "P", "solution": r"\boxed{-1./3}", "answer": "-1./3"}, "P", "-1/3", (), r"\boxed{-1/3}"),
    ("ocw", {"question": "P", "answer": "np.arcsin(1)"}, "P", r"\arcsin(1)", (), None),
    ("mmlu_stem", {"question": "Q", "options": ["0", 4.0, "2", "6"], "answer": "B"}, "Q", "B", ("0", "4", "2", "6"), None),
    ("mmlu_stem", {"question": "Q", "choices": ["0", "4", "2", "6"], "answer": 0}, "Q", "A", ("0", "4", "2", "6"), None),
    ("mathqa", {"problem": "P", "rationale": '"r"', "options": "a ) 1 , b ) 2 , e", "correct": "b"}, "P", "B", ("1", "2 , e"), "r"),
    ("mathqa", {"Problem": "P", "Rationale": "r", "options": "a ) 1 : 8 , b ) 2 , c ) 3 , d ) 4 , e ) 5", "correct": "e"}, "P", "E", ("1 : 8", "2", "3", "4", "5"), "r"),
    ("svamp", {"Body": "He has 4 tickets left", "Question": "How many?", "Answer": 145.0}, "He has 4 tickets left. How many?", "145", (), None),
    ("asdiv", {"body": "If he shares,", "question": "how many?", "answer": "9 (apples)"}, "If he shares, how many?", "9", (), None),
    ("asdiv", {"body": "B.", "question": "Q?", "answer": "-(1/3)"}, "B. Q?", "-(1/3)", (), None),
    ("mawps", {"input": "I?", "target": 11.5}, "I?", "11.5", (), None),
    ("mawps", {"question": "I?", "result": "12"}, "I?", "12", (), None),
    ("tabmwp", {"table_title": "Coins", "table": "a | 1", "question": "Q?", "choices": ["yes", "no"], "answer": "no"}, "Table: Coins\na | 1\nQ?", "B", ("yes", "no"), None),
    ("tabmwp", {"table_title": "", "table": "a | 1", "question": "Q?", "choices": None, "answer": "1,234", "solution": "s"}, "a | 1\nQ?", "1,234", (), "s"),
    ("gpqa_diamond", {"Question": "Q", "Correct Answer": "r\n", "Incorrect Answer 1": "x", "Incorrect Answer 2": "y", "Incorrect Answer 3": "z", "Explanation": "e"}, "Q", "D", ("x", "y", "z", "r"), "e"),
    ("my own", {"question": "Q", "answer": "7"}, "Q", "7", (), None),
    ("my own", {"question": "Q", "answer": "b", "choices": ["1", "2"]}, "Q", "B", ("1", "2"), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "question", "answer", "choices", "solution"), ROWS)
def test_columns(
    name: str, columns: dict[str, Any], question: str, answer: str, choices: tuple[str, ...], solution: str | None
) -> None:
    assert named(name).question(Row(columns, "f:1")) == Question(
        question=question, answer=answer, choices=choices, solution=solution
    )


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("(A) 1 (B) 2", ("1", "2")),
        ("a ) a ) 4 inches , b ) b ) 6 inches", ("4 inches", "6 inches")),
        ("['a ) 462 cm ²', 'b ) none']", ("462 cm ²", "none")),
        ("A) -10 and B B) 10", ("-10 and B", "10")),
        ("A. Rana's had A. B. Both", ("Rana's had A.", "Both")),
        ("no options", ()),
        ("A) alone", ("alone",)),
    ],
)
def test_options_in_one_text(text: str, options: tuple[str, ...]) -> None:
    assert split_options(text) == options


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("gsm8k", {"question": "Q", "text": "t"}, "f:3 has no text or number in 'answer'; its columns are question, text"),
        ("svamp", {"Body": "b", "Answer": 3}, "f:3 has no text or number in 'question' or 'Question' or 'input'"),
        ("math", {"problem": "P", "solution": "none"}, "f:3 has neither an 'answer' nor a 'solution' with"),
        ("olympiad_bench", {"question": "Q", "final_answer": []}, "f:3 has nothing in 'final_answer'"),
        ("mmlu_stem", {"question": "Q", "options": ["1"], "answer": "A"}, "f:3 has 1 options in 'options'"),
        ("mmlu_stem", {"question": "Q", "options": ["1", "2"], "answer": "C"}, "has 'C' in 'answer'.*allowed: A, B"),
        ("mmlu_stem", {"question": "Q", "options": ["1", "2"], "answer": 2}, "has '2' in 'answer'.*allowed: A, B"),
        ("mathqa", {"problem": "Q", "options": "12 or 13", "correct": "a"}, "f:3 has 0 options in 'options'"),
        ("tabmwp", {"table": "t", "question": "Q", "choices": ["a", "b"], "answer": "c"}, "'c', which is none of its choices: a, b"),
        ("amc23", {"question": "Q", "answer": True}, "no text or number in 'answer'"),
    ],
)  # fmt: skip
def test_what_a_bad_row_is_told(name: str, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        named(name).question(Row(columns, "f:3"))


def test_the_order_of_gpqa_differs_between_questions() -> None:
    wrong = {f"Incorrect Answer {number}": f"w{number}" for number in (1, 2, 3)}
    rows = [Row({"Question": f"Q{number}", "Correct Answer": "r"} | wrong, "f:1") for number in range(40)]
    assert {named("gpqa_diamond").question(row).answer for row in rows} == {"A", "B", "C", "D"}


def test_an_unknown_name_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="'gsm8' is no benchmark; nearest: gsm8k"):
        check_named("gsm8")


# The real files -------------------------------------------------------------------------------------------------------

DIRECTORY = Path(__file__).parents[3].parent / "shared/data/benchmarks"
LOCAL = ("gsm8k", "math500", "olympiad_bench", "amc23", "sat", "ocw", "mmlu_stem", "mathqa", "svamp", "asdiv", "mawps")


@pytest.mark.skipif(not DIRECTORY.exists(), reason="the benchmarks' files are not here")
@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.filterwarnings("error")
def test_prompts_and_own_solutions_of_the_real_files(name: str) -> None:
    (source,) = sources.local([name], DIRECTORY)
    asked = loading.questions(source)
    config = Evaluation(model=Path("m"), benchmarks=(source,), template=None, num_shots=0, max_new_tokens=8)
    built = prompts.build(config, source, asked)
    assert len(built.texts) == len(asked) == BENCHMARKS[name].num_questions
    assert all(text.endswith(("\nAnswer:", "\n\nSolution:")) for text in built.texts)

    responses = [prompts.gold_response(BENCHMARKS[name], each) for each in asked]
    verdicts = grade_all(
        responses, [each.answer for each in asked], lenient=True, choices=[each.choices for each in asked]
    )
    assert all(verdict.correct for verdict in verdicts)
    other = [_right(response, each) for response, each in zip(responses[1:], asked, strict=False)]
    same = [each.answer == after.answer for each, after in itertools.pairwise(asked)]
    assert sum(other) <= sum(same) + len(asked) // 200


def _right(response: str, question: Question) -> bool:
    return grade(response, question.answer, lenient=True, choices=question.choices).correct
