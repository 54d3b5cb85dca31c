"""The judge of answers: boxes, cheap verdicts, math-verify in processes that are killed when they hang."""

import json
import threading
import time
from pathlib import Path

import pytest

from megatron_octo import grading_pool
from megatron_octo.errors import ConfigError
from megatron_octo.grading import Method, equivalent, extract_boxed, grade, grade_all


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        ("so 5", None),
        (r"\boxed{5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{x = \boxed{7}}", "7"),
        (r"\boxed {3}", "3"),
        (r"\boxed{4} and \boxed{never closed", "4"),
        (r"\boxed{", None),
        (r"} \boxed{6} {", "6"),
        (r"\boxed{}", ""),
        (r"\boxed{" * 50_000, None),
        (r"\boxed{" * 50_000 + "}" * 50_000, ""),
    ],
)
def test_the_last_closed_box_counts(text: str, boxed: str | None) -> None:
    assert extract_boxed(text) == boxed


@pytest.mark.parametrize(
    ("gold", "answer", "equal", "method"),
    [
        ("7", "7", True, Method.TEXT),
        ("7", "8", False, Method.NUMBER),
        ("27.0", "27", True, Method.NUMBER),
        ("1,000", "1000", True, Method.TEXT),
        ("10{,}000", "10000", True, Method.TEXT),
        ("18", r"\$18.00", True, Method.NUMBER),
        ("12", r"12\text{ cm}", True, Method.TEXT),
        (r"\text{Evelyn}", "evelyn", True, Method.TEXT),
        ("B", r"\textbf{(B) } 12", True, Method.TEXT),
        ("0.5", r"50\%", False, Method.NUMBER),
        ("-5", "5", False, Method.NUMBER),
        ("0", "", False, Method.TEXT),
        ("5", "9^{9^{9^9}}", False, Method.GUARD),
        ("5", "100000000!", False, Method.GUARD),
        ("5", "((9!)!)!", False, Method.GUARD),
        ("5", "9" * 100_000, False, Method.GUARD),
    ],
)
def test_cheap_verdicts(gold: str, answer: str, equal: bool, method: Method) -> None:
    verdict = grade(rf"\boxed{{{answer}}}", gold)
    assert (verdict.correct, verdict.method) == (equal, method)


def test_no_box_is_wrong_even_with_the_right_number() -> None:
    assert grade("The answer is 5.", "5").method is Method.NO_BOX


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("x^2+2x+1", "(x+1)^2", True),
        (r"3\sqrt{13}", r"\sqrt{117}", True),
        ("(1,2)", "(2,1)", False),
        (r"\pi", "3.14", False),
        ("6-5i", "6-5j", False),
    ],
)
def test_math_verify_settles_the_rest(gold: str, answer: str, equal: bool) -> None:
    assert equivalent(gold, answer) is equal


def test_an_answer_that_never_ends_is_killed_and_the_next_one_graded() -> None:
    started = time.monotonic()
    endless, fine = grade_all(
        [r"\boxed{\sum_{n=1}^{\infty} \frac{1}{n^2+\sin n}}", r"\boxed{\frac{2}{4}}"], ["5", r"\frac{1}{2}"]
    )
    assert endless.timeout
    assert not endless.correct
    assert fine.correct
    # The limit, and the server's start (a second alone, several on a busy machine).
    assert time.monotonic() - started < grading_pool.HARD_TIMEOUT_SECONDS + 15


PAIRS = [json.loads(line) for line in (Path(__file__).parent / "grading_pairs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['kind']}-{number}" for number, pair in enumerate(PAIRS)])
def test_hand_made_pairs(pair: dict[str, object]) -> None:
    verdict = grade(str(pair["response"]), str(pair["gold"]), lenient=bool(pair.get("lenient")))
    assert (verdict.correct, verdict.timeout) == (pair["correct"], False)


OPTIONS = ("10 km", "12 km", "15", "none of these", "x+1")


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        ("B", "The answer is (B).", True),
        ("B", "The answer is B.", True),
        ("B", "The answer is b.", True),
        ("B", "The answer is B) 12 km.", True),
        ("B", "The answer is **B**.", True),
        ("B", "The answer is option B.", True),
        ("B", "The answer is B because it is far.", True),
        ("B", "answer : b", True),
        ("B", r"\boxed{\text{B}}", True),
        ("B", r"\boxed{\textbf{(B)}\ 12}", True),
        ("B", "Final Answer: The final answer is $(B)$. I hope it is correct.", True),
        ("B", "The answer is 12 km.", True),
        ("B", "The answer is 12.", True),
        ("B", r"\boxed{\frac{24}{2}}", True),
        ("D", "The answer is none of these.", True),
        ("E", "The answer is (E).", True),
        ("E", "The answer is e ) x + 1.", True),
        ("E", "The answer is $1+x$.", True),
        ("B", "The answer is (A).", False),
        ("B", "The answer is (A) or (B).", False),
        ("A", "The answer is (A) or (B).", False),
        ("A", "The answer is A and B.", False),
        ("B", "The answer is 10 km.", False),
        ("B", "The answer is 13.", False),
        ("B", "The answer is (F).", False),
        ("B", "It is 12", False),
        ("D", "The answer is that none of the others seems right.", False),
        ("B", "I do not know, B perhaps", False),
    ],
)
def test_multiple_choice(gold: str, response: str, correct: bool) -> None:
    assert grade(response, gold, lenient=True, choices=OPTIONS).correct is correct


def test_an_answer_that_equals_two_options_chooses_neither() -> None:
    options = ("0.5", "0.25", "2/4")
    assert not grade(r"\boxed{\frac{1}{2}}", "A", choices=options).correct
    assert grade(r"\boxed{\frac{1}{2}}", "A", choices=options[:2]).correct
    assert not grade(r"\boxed{4}", "A", choices=("4 days", "4 hours")).correct
    assert grade(r"\boxed{4 days}", "A", choices=("4 days", "4 hours")).correct


def test_options_that_begin_like_letters() -> None:
    options = ("B. rapa", "A. thaliana")
    assert grade(r"\boxed{A. thaliana}", "B", choices=options).correct
    assert not grade(r"\boxed{A. thaliana}", "A", choices=options).correct


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "answer is " * 20_000, "I hope it is correct" * 5_000, "1,5 " * 50_000]
)
@pytest.mark.parametrize("choices", [(), OPTIONS])
def test_long_responses_are_read_at_once(text: str, choices: tuple[str, ...]) -> None:
    started = time.monotonic()
    assert not grade(f"The answer is {text}", "A", lenient=True, choices=choices).correct
    assert time.monotonic() - started < 1  # milliseconds; a regular expression that looks back takes minutes


def test_strict_is_strict_with_options_too() -> None:
    assert grade("The answer is (B).", "B", choices=OPTIONS).method is Method.NO_BOX
    assert grade(r"\boxed{B}", "B", choices=OPTIONS).method is Method.CHOICE


def test_what_was_compared() -> None:
    graded = grade_all(
        ["The answer is 5 km.", r"\boxed{B}", "no"], ["5", "B", "7"], lenient=True, choices=[(), OPTIONS, ()]
    )
    assert [each.extracted for each in graded] == ["5 km", "B", None]
    assert [each.boxed for each in graded] == [None, "B", None]
    assert [each.correct for each in graded] == [True, True, False]
    assert grade("The answer is 5.", "5").extracted is None


def test_boxes_are_counted() -> None:
    assert grade(r"\boxed{1}, no, \boxed{x = \boxed{2}} \boxed{", "2").boxes == 3


@pytest.mark.parametrize(("given", "graders"), [("3", 3), ("16", 16)])
def test_the_environment_says_how_many_grade(given: str, graders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRON_OCTO_GRADERS", given)
    assert grading_pool.graders() == graders


@pytest.mark.parametrize("given", ["0", "-1", "many", ""])
def test_other_numbers_of_graders_are_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGATRON_OCTO_GRADERS", given)
    with pytest.raises(ConfigError, match="MEGATRON_OCTO_GRADERS"):
        grading_pool.graders()


def test_threads_may_grade() -> None:
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: verdicts.append(equivalent(rf"\frac{{{n}}}{{2}}", f"{n / 2}")))
        for n in (1, 3, 5, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4
