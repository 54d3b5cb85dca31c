"""The metrics of an RL run: one JSONL, a row per step and a row per evaluation, without repeats after a resume."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_octo.generation import Response
from megatron_octo.grading import Grade

Row = Mapping[str, float | int | None]


class Journal:
    """Appends rows; a row is on the disk before the next step begins."""

    def __init__(self, file: Path, *, resumed_from: int | None) -> None:
        """`resumed_from`: the step of the checkpoint continued from, whose later rows are dropped; None starts anew."""
        self._file = file
        kept = [] if resumed_from is None else [row for row in read(file) if row["step"] <= resumed_from]
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, file)

    def append(self, row: Row) -> None:
        with self._file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def read(file: Path) -> list[dict[str, float | int]]:
    """All whole rows; a kill may have cut the last one."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def training_row(step: int, logs: Mapping[str, float], seconds: float) -> Row:
    """TRL's log of one rollout batch in our names; lengths in tokens, entropy and KL in nats per token."""
    names = {
        "reward": "reward",
        "accuracy": "accuracy",
        "response_length": "completions/mean_length",
        "response_length_correct": "response_length_correct",
        "truncated": "truncated",
        "groups_without_spread": "frac_reward_zero_std",
        "grading_timeouts": "grading_timeouts",
        "entropy": "entropy",
        "kl": "kl",
        "learning_rate": "learning_rate",
        "grad_norm": "grad_norm",
    }
    return {"step": step, **{ours: logs.get(theirs) for ours, theirs in names.items()}, "seconds": round(seconds, 4)}


def evaluation_row(step: int, name: str, responses: Sequence[Response], grades: Sequence[Grade]) -> Row:
    """One evaluation set at one step."""
    lengths = [len(response.token_ids) for response in responses]
    correct = [length for length, grade in zip(lengths, grades, strict=True) if grade.correct]
    return {
        "step": step,
        f"eval/{name}/accuracy": len(correct) / len(grades),
        f"eval/{name}/response_length": sum(lengths) / len(lengths),
        f"eval/{name}/response_length_correct": sum(correct) / len(correct) if correct else None,
        f"eval/{name}/truncated": sum(not response.finished for response in responses) / len(responses),
    }
