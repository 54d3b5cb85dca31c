import pytest

from megatron_octo.curation.refinement import guards

ORIGINAL = "Home | Login\nThe area of a circle of radius 3 is 9π. See page 12.\nShare this!"
REWRITTEN = "The area of a circle of radius 3 is $9\\pi$."


@pytest.mark.parametrize(
    "answer",
    [
        f"  {REWRITTEN}\n",
        f"Here is the rewritten text:\n\n{REWRITTEN}",
        f"Sure! Here's the refined version of the text: {REWRITTEN}",
        f"Certainly, here is a cleaned-up and condensed version, as you asked:\n{REWRITTEN}",
        f"Certainly! As you asked:\n\n{REWRITTEN}",
        f"**Rewritten Text:**\n\n{REWRITTEN}",
        f"# Refined text\n{REWRITTEN}",
        f"The following is the restructured document:\n\n---\n\n{REWRITTEN}",
        f"{REWRITTEN}\n\nLet me know if you need anything else!",
        f"{REWRITTEN}\n\n---\n\nNote: I have removed the navigation.",
        f"```\n{REWRITTEN}\n```",
        f"```markdown\n{REWRITTEN}\n```",
        f"Here is the rewritten text:\n```text\n{REWRITTEN}\n```\n\nI hope this helps.",
        f"<text>\n{REWRITTEN}\n</text>",
        f"<rewritten_text>{REWRITTEN}</rewritten_text>",
        f"<think>The circle...\n\nSo I write.</think>\n\n{REWRITTEN}",
    ],
)
def test_what_is_wrapped_around_goes(answer: str) -> None:
    assert guards.unwrapped(answer, ORIGINAL) == REWRITTEN


@pytest.mark.parametrize(
    "answer",
    [
        "Here is the proof:\n\nLet x = 1.",
        "Here are three ways to solve it: by hand, by table, by machine.",
        "The following is a theorem of Euler:\n$e^{i\\pi} = -1$",
        "Sure, every even number is a sum of two primes: nobody has a counterexample.",
        "```python\nx = 1\n```\nand then\n```python\ny = 2\n```",
        "```\nx = 1\n```\nand then\n```\ny = 2\n```",
        "Extracted roots are checked.\nNote: the roots are real.",
    ],
)
def test_what_belongs_to_the_text_stays(answer: str) -> None:
    assert guards.unwrapped(answer, ORIGINAL) == answer


@pytest.mark.parametrize(
    "text",
    ["# Refined text\n\nWords.", "```\nx = 1\n```", "Words.\n\nI hope this helps.", "<text>Words</text>"],
)
def test_what_the_original_has_too_stays(text: str) -> None:
    assert guards.unwrapped(text, text) == text


def test_a_fence_around_text_with_code_in_it_goes() -> None:
    inner = "Words.\n```python\nx = 1\n```\nMore."
    assert guards.unwrapped(f"```markdown\n{inner}\n```", ORIGINAL) == inner


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but I can’t help with that.", "refusal"),
        ("I cannot rewrite this text.", "refusal"),
        ("As an AI language model, I do not have opinions.", "refusal"),
        ("I apologize, but the text seems to be cut.", "refusal"),
        ("Unfortunately, I was not able to find mathematics here.", "refusal"),
        ("The provided text does not contain any mathematical content.", "refusal"),
        ("There is no content to rewrite.", "refusal"),
        ("Please provide the text you would like me to rewrite.", "refusal"),
        ("", "empty"),
        ("Keep the facts, the numbers and every step. 9π.", "echo"),
        ("Text. KEEP the facts, the numbers\nand every step.", "echo"),
        ("I cannot stress enough that division by zero is undefined.", None),
        ("Sorry states of affairs are common in game theory.", None),
        ("As an aide-mémoire: SOH CAH TOA.", None),
        ("There is no largest prime.", None),
        ("I cannot rewrite this text. " + "x" * 600, None),
        (REWRITTEN, None),
    ],
)
def test_unusable_answers(text: str, reason: str | None) -> None:
    instructions = guards.telling_lines("Rewrite it.\nKeep the facts, the numbers and every step.\n\n{text}")
    assert guards.unusable(text, ORIGINAL, instructions) == reason


def test_a_page_about_refusals_may_begin_with_one() -> None:
    page = "I'm sorry, I can't do that, said the machine. Why do machines refuse?"
    assert guards.unusable(page, page + " Login", ()) is None
    assert (
        guards.unusable("A line that is in the prompt and here.", "A line that is in the prompt and here.", ("a line",))
        is None
    )


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "too_short"), (9, "too_short"), (10, None), (200, None), (201, "too_long")]
)
def test_length(length: int, reason: str | None) -> None:
    assert guards.length_fault("x" * length, " " + "y" * 100 + "\n", min_ratio=0.1, max_ratio=2.0) == reason


WORDS = [f"word{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("text", "original", "answer"),
    [
        ("A b c", "a  B\nC", True),
        ("a b c", "a b d", False),
        (" ".join(WORDS), "\n".join(WORDS).upper(), True),
        (" ".join(["other", *WORDS[1:]]), " ".join(WORDS), True),
        (" ".join([*WORDS[:50], "other", *WORDS[51:]]), " ".join(WORDS), True),
        (" ".join(WORDS[:85]), " ".join(WORDS), False),
        (" ".join(reversed(WORDS)), " ".join(WORDS), False),
        (REWRITTEN, ORIGINAL, False),
    ],
)
def test_copies(text: str, original: str, answer: bool) -> None:
    assert guards.is_copy(text, original) is answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,000 of 1000; 3.5% in 2024.", {"1000", "3.5", "2024"}),
        ("(1,2) and 12,34", {"1", "2", "12", "34"}),
        ("x^2 + 1,234,567.89", {"2", "1234567.89"}),
        ("none", set()),
    ],
)
def test_numbers(text: str, found: set[str]) -> None:
    assert guards.numbers(text) == found
