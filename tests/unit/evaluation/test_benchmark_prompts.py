"""What a model is asked to continue."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.evaluation import prompts
from megatron_octo.evaluation.benchmarks import named
from megatron_octo.evaluation.config import Evaluation, ShotSource, Source
from megatron_octo.questions import Question
from megatron_octo.templates import Template

EGGS = Question(question="How many eggs?", answer="18")
ROOT = Question(question="What is $x$?", answer=r"\{1,2\}", solution=r"So $x$ is \boxed{\{1,2\}}.")
PICK = Question(question="Which?", answer="B", choices=("10 km", "12 km"))


def evaluation(source: Source, **given: Any) -> Evaluation:
    return Evaluation(**{"model": Path("m"), "benchmarks": (source,), "template": None, "max_new_tokens": 8} | given)


def shots_file(directory: Path, rows: list[dict[str, str]]) -> Path:
    file = directory / "shots.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_chain_of_thought(tmp_path: Path) -> None:
    file = shots_file(
        tmp_path,
        [
            {"question": "1+1?", "answer": "one and one\n#### 2"},
            {"question": "2+2?", "solution": "Easy.", "answer": "4"},
        ],
    )
    source = Source(name="gsm8k", shots_file=file)
    built = prompts.build(evaluation(source, num_shots=2), source, [EGGS, EGGS])
    assert built.texts[0] == (
        "Question: 1+1?\nAnswer: one and one The answer is 2.\n\n"
        "Question: 2+2?\nAnswer: Easy. The answer is 4.\n\n"
        "Question: How many eggs?\nAnswer:"
    )
    assert built.texts[1] == built.texts[0]
    assert (built.stop_strings, built.num_shots) == (("Question:",), 2)


def test_minerva(tmp_path: Path) -> None:
    file = shots_file(tmp_path, [{"problem": "P?", "solution": r"It is \boxed{5}."}])
    source = Source(name="math500", shots_file=file)
    built = prompts.build(evaluation(source, num_shots=1), source, [ROOT])
    assert built.texts == [
        "Problem:\nP?\n\nSolution: It is \\boxed{5}.\nFinal Answer: The final answer is $5$. I hope it is correct.\n\n"
        "Problem:\nWhat is $x$?\n\nSolution:"
    ]
    assert built.stop_strings == ("Problem:",)


def test_multiple_choice_without_examples() -> None:
    source = Source(name="sat")
    built = prompts.build(evaluation(source, num_shots=0), source, [PICK])
    assert built.texts == ["Question: Which?\n(A) 10 km\n(B) 12 km\nAnswer:"]
    assert built.num_shots == 0


def test_a_template_is_zero_shot_and_shows_the_options() -> None:
    source = Source(name="sat")
    built = prompts.build(evaluation(source, template=Template.SIMPLE, stop_strings=("X",)), source, [PICK])
    assert built == prompts.Prompts(["Question: Which?\n(A) 10 km\n(B) 12 km\nAnswer:"], ("X",), 0)


def test_a_question_is_not_its_own_example(tmp_path: Path) -> None:
    rows = [{"question": " how  many eggs?", "answer": "#### 18"}, {"question": "1+1?", "answer": "#### 2"}]
    source = Source(name="gsm8k", shots_file=shots_file(tmp_path, rows))
    built = prompts.build(evaluation(source, num_shots=1), source, [EGGS])
    assert built.texts == ["Question: 1+1?\nAnswer: The answer is 2.\n\nQuestion: How many eggs?\nAnswer:"]
    with pytest.raises(ConfigError, match=r"gsm8k is to show 2 examples, but .*shots\.jsonl has 1.*--num-shots 1"):
        prompts.build(evaluation(source, num_shots=2), source, [EGGS])


def test_examples_published_with_lm_eval() -> None:
    pytest.importorskip("lm_eval")
    source = Source(name="math500")
    built = prompts.build(evaluation(source, shots=ShotSource.LM_EVAL), source, [ROOT])
    assert built.num_shots == 4
    assert built.texts[0].startswith(
        "Problem:\nFind the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.\n\n"
    )
    assert "Final Answer: The final answer is $[2,5)$. I hope it is correct.\n\nProblem:\nIf $\\det" in built.texts[0]


@pytest.mark.parametrize(
    ("name", "question", "response"),
    [
        ("gsm8k", EGGS, "The answer is 18."),
        (
            "math500",
            ROOT,
            "So $x$ is \\boxed{\\{1,2\\}}.\nFinal Answer: The final answer is $\\{1,2\\}$. I hope it is correct.",
        ),
        ("sat", PICK, "The answer is (B)."),
    ],
)
def test_gold_response(name: str, question: Question, response: str) -> None:
    assert prompts.gold_response(named(name), question) == response
