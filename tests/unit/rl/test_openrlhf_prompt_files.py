"""Prompt files that go on from one another: every prompt is drawn once, whatever happens to the run between."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from megatron_octo import jsonl
from megatron_octo.errors import OctoError
from megatron_octo.rl import openrlhf_prompt_files as prompt_files
from megatron_octo.rl.openrlhf_prompt_files import Row

PROMPTS_PER_STEP = 2


class Run:
    """Draws as OpenRLHF's loader does: in a permutation of its own for every length, after as many rows as it has drawn."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.drawn, self.step = directory, list[int](), 0

    def until(self, step: int, *, end_step: int) -> Path:
        """Draw up to a step of a run whose file goes to `end_step`, from the newest checkpoint: the step it came to before."""
        file = prompt_files.prepare(
            self.directory,
            rows(40),
            end_step=end_step,
            prompts_per_step=PROMPTS_PER_STEP,
            newest=self.step or None,
            remaining=self.remaining,
        )
        written = list(jsonl.read(file))
        assert len(written) == end_step * PROMPTS_PER_STEP
        places = self.remaining(len(written))[: (step - self.step) * PROMPTS_PER_STEP]
        self.drawn += [number(written[place]) for place in places]
        self.step = step
        return file

    def remaining(self, length: int) -> list[int]:
        return Random(length).sample(range(length), length)[self.step * PROMPTS_PER_STEP :]


def rows(count: int) -> list[Row]:
    return [{"label": json.dumps({"number": number}), "input": f"{number}?"} for number in range(count)]


def number(row: Row) -> int:
    found: int = json.loads(row["label"])["number"]
    return found


@pytest.mark.parametrize(
    "ends",
    [
        [(10, 10)],
        [(4, 10), (10, 10)],  # killed
        [(10, 10), (16, 16)],  # another response cap, or a longer run after it was finished
        [(4, 10), (12, 12)],  # a longer run before it was finished
        [(4, 10), (7, 12), (9, 9)],  # longer, and then shorter after all
        [(4, 16), (8, 8), (12, 12), (16, 16)],
    ],
)
def test_every_prompt_is_drawn_once(ends: Sequence[tuple[int, int]], tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step, end_step in ends:
        run.until(step, end_step=end_step)
    assert len(run.drawn) == len(set(run.drawn)) == ends[-1][0] * PROMPTS_PER_STEP
    if max(end for _, end in ends) == ends[-1][1]:  # no later prompt was in a file that was cut
        assert sorted(run.drawn) == list(range(len(run.drawn)))


def test_an_interrupted_stage_goes_on_in_its_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = run.until(4, end_step=10)
    written = first.stat().st_mtime_ns
    assert run.until(8, end_step=10) == first == tmp_path / "prompts-0-10.jsonl"
    assert first.stat().st_mtime_ns == written


def test_a_longer_run_that_has_saved_nothing_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "prompts-0-10.jsonl").write_text("")
    Run(tmp_path).until(2, end_step=12)
    assert [file.path.name for file in prompt_files.found(tmp_path)] == ["prompts-0-12.jsonl"]


def test_files_are_found_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    for name in ("prompts-100-160", "prompts-0-100", "prompts-20-100"):
        (tmp_path / f"{name}.jsonl").touch()
    assert [file.first_step for file in prompt_files.found(tmp_path)] == [0, 20, 100]
    prompt_files.forget_from(tmp_path, 20)
    assert [file.first_step for file in prompt_files.found(tmp_path)] == [0]


def test_a_loader_that_would_draw_another_number_is_an_error() -> None:
    with pytest.raises(OctoError, match="would draw 12 prompts where 8 of 12 are left"):
        prompt_files.continued(rows(8), rows(12), 12, lambda length: range(4, 8) if length == 8 else range(length))


def test_checkpoints_without_a_prompt_file_are_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step = 5
    with pytest.raises(OctoError, match="has checkpoints and no prompt file"):
        run.until(6, end_step=10)
