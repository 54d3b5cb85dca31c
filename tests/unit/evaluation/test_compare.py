"""Two evaluations side by side."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from megatron_octo import artifacts, jsonl
from megatron_octo.errors import ArtifactError
from megatron_octo.evaluation.compare import compare, left_out, other_settings, table


def evaluation(
    directory: Path,
    verdicts: Mapping[str, Sequence[Sequence[bool]]],
    *,
    prompts: str = "p",
    first: str = "q0",
    **settings: object,
) -> Path:
    """What `eval` leaves, as far as a comparison reads it."""
    with artifacts.stage(directory, kind="evaluate", config={"benchmarks": list(verdicts), **settings}):
        (directory / "samples").mkdir()
        for name, of_questions in verdicts.items():
            rows = [
                {
                    "index": index,
                    "sample": sample,
                    "question": first if index == 0 else f"q{index}",
                    "answer": "5",
                    "correct": right,
                }
                for index, samples in enumerate(of_questions)
                for sample, right in enumerate(samples)
            ]
            jsonl.append(directory / "samples" / f"{name}.jsonl", reversed(rows))
        artifacts.write_json(directory / "scores.json", {name: {"prompt_hash": prompts} for name in verdicts})
    return directory


def shares(right: int, size: int = 100) -> list[list[bool]]:
    return [[number < right] for number in range(size)]


def test_a_gain_on_the_same_questions(tmp_path: Path) -> None:
    before = evaluation(tmp_path / "a", {"gsm8k": shares(50), "amc23": [[True, False]] * 40})
    after = evaluation(tmp_path / "b", {"amc23": [[True, False]] * 39 + [[True, True]], "gsm8k": shares(60)})
    gsm8k, amc23 = compare(before, after)
    assert (gsm8k.benchmark, gsm8k.before.mean, gsm8k.after.mean) == ("gsm8k", 0.5, 0.6)
    assert gsm8k.difference.mean == pytest.approx(0.1)
    assert gsm8k.difference.p_value == pytest.approx(2 / 2**10)
    assert (amc23.difference.mean, amc23.difference.p_value) == (0.0125, 1.0)
    text = table([gsm8k, amc23])
    assert "| gsm8k | 100 | 50.0 | 60.0 | +10.0 | +3.4 to +16.2 | 0.002 |" in text
    assert "gsm8k: the second is better." in text
    assert "amc23: 40 questions cannot tell; the models may differ by up to 5.2 points." in text
    assert "prompts are not the same" not in text


def test_other_prompts_are_said(tmp_path: Path) -> None:
    found = compare(
        evaluation(tmp_path / "a", {"gsm8k": shares(5)}),
        evaluation(tmp_path / "b", {"gsm8k": shares(5)}, prompts="other"),
    )
    assert not found[0].same_prompts
    assert "gsm8k: the prompts are not the same" in table(found)


def test_other_settings_are_said(tmp_path: Path) -> None:
    alike = {"max_new_tokens": 512, "temperature": 0.0, "lenient": None, "template": "simple"}
    before = evaluation(tmp_path / "a", {"gsm8k": shares(5)}, **alike, batch_size=8)
    same = evaluation(tmp_path / "b", {"gsm8k": shares(5)}, **alike, batch_size=32)
    after = evaluation(tmp_path / "c", {"gsm8k": shares(5)}, max_new_tokens=2048, temperature=0.0, lenient=True)
    assert other_settings(before, same) == []
    assert other_settings(before, after) == ["max_new_tokens: 512 and 2048", "lenient: False and True"]


def test_benchmarks_of_only_one_are_left_out(tmp_path: Path) -> None:
    before = evaluation(tmp_path / "a", {"gsm8k": shares(5), "amc23": shares(5)})
    after = evaluation(tmp_path / "b", {"gsm8k": shares(5), "svamp": shares(5)})
    assert [each.benchmark for each in compare(before, after)] == ["gsm8k"]
    assert left_out(before, after) == ["amc23", "svamp"]


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"a holds gsm8k and .*b holds amc23"):
        compare(evaluation(tmp_path / "a", {"gsm8k": shares(5)}), evaluation(tmp_path / "b", {"amc23": shares(5)}))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"verdicts": {"gsm8k": shares(5, size=90)}}, "100 and 90, 90 of them the same"),
        ({"verdicts": {"gsm8k": shares(5)}, "first": "another"}, "100 and 100, 99 of them the same"),
    ],
)
def test_other_questions_are_refused(tmp_path: Path, other: dict, message: str) -> None:
    before = evaluation(tmp_path / "a", {"gsm8k": shares(5)})
    with pytest.raises(ArtifactError, match=message):
        compare(before, evaluation(tmp_path / "b", **other))


def test_only_finished_evaluations_are_compared(tmp_path: Path) -> None:
    before = evaluation(tmp_path / "a", {"gsm8k": shares(5)})
    with artifacts.stage(tmp_path / "model", kind="convert", config={}):
        pass
    with pytest.raises(ArtifactError, match="holds a convert stage; name what `eval` made"):
        compare(before, tmp_path / "model")
    with pytest.raises(ArtifactError, match="is no stage directory"):
        compare(before, tmp_path)


def test_a_comparison_is_plain_data(tmp_path: Path) -> None:
    before = evaluation(tmp_path / "a", {"gsm8k": shares(5)})
    assert json.loads(json.dumps(dataclasses.asdict(compare(before, before)[0])))["difference"]["mean"] == 0
