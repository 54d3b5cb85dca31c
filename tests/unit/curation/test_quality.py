import dataclasses

import pytest
import raw_corpora

from megatron_octo.curation.config import Quality
from megatron_octo.curation.raw.quality import fault, share_repeated, share_with_letters

OFF = Quality(**{field.name: None for field in dataclasses.fields(Quality)})


@pytest.mark.parametrize(
    ("text", "rule", "reason"),
    [
        ("one two three", {"min_words": 4}, "too_short"),
        ("one two three", {"max_words": 2}, "too_long"),
        ("a b c d", {"min_mean_word_length": 2.0}, "short_words"),
        ("abcdefgh", {"max_mean_word_length": 7.0}, "long_words"),
        ("12 34 = x", {"min_share_with_letters": 0.5}, "few_letters"),
        ("menu\nhome\nmenu\nhome", {"max_share_in_repeated_lines": 0.3}, "repeated_lines"),
        ("read on ...\nmore…\nwhole", {"max_share_of_ellipses": 0.5}, "ellipses"),
    ],
)
def test_each_rule_has_a_reason_and_can_be_off(text: str, rule: dict[str, float], reason: str) -> None:
    assert fault(text, dataclasses.replace(OFF, **rule)) == reason
    assert fault(text, OFF) is None


def test_borders_are_kept() -> None:
    rules = dataclasses.replace(OFF, min_words=3, max_words=3, min_mean_word_length=2.0, max_mean_word_length=2.0)
    assert fault("ab cd ef", rules) is None


def test_defaults_keep_prose_and_formulas() -> None:
    formulas = r"Let $f: X \to Y$ be continuous and $U \subset Y$ open. Then $f^{-1}(U)$ is open. " * 4
    assert fault(raw_corpora.PROSE, Quality()) is None
    assert fault(formulas, Quality()) is None
    assert fault("", Quality()) == "too_short"


def test_shares() -> None:
    assert share_with_letters(["(x)", "12", "é", "数", "+"]) == pytest.approx(0.6)
    assert share_repeated(["abcd", "ab", "abcd"]) == pytest.approx(0.4)
    assert share_repeated([]) == 0.0
