"""An evaluation as a process: `python -m megatron_octo.evaluation.run EVALUATION.json OUT`.

Leaves OUT/samples.jsonl, a line per response, and OUT/scores.json.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_octo import artifacts, process, progress, questions, templates
from megatron_octo.evaluation import metrics
from megatron_octo.evaluation.config import Evaluation
from megatron_octo.grading import Grade, grade_all
from megatron_octo.questions import Question

if TYPE_CHECKING:
    from megatron_octo.generation import Response

Row = dict[str, Any]


def run(config: Evaluation, out: Path, force: bool) -> None:
    """Answer, grade and score one set of questions."""
    with artifacts.stage(out, kind="evaluate", config=config, inputs=_inputs(config), force=force) as stage:
        if stage.done:
            return
        asked = questions.read(config.dataset)
        samples = _sample(config, [each for each in asked for _ in range(config.samples_per_question)])
        _write_jsonl(out / "samples.jsonl", samples)
        scores = score(samples, config.samples_per_question)
        artifacts.write_json(out / "scores.json", scores)
        stage.counts |= {
            "questions": len(asked),
            "responses": len(samples),
            "tokens": sum(sample["num_tokens"] for sample in samples),
            "accuracy": scores["accuracy"]["mean"],
        }


def _inputs(config: Evaluation) -> dict[str, Path]:
    template = {"template_file": config.template_file} if config.template_file is not None else {}
    return {"model": config.model, "dataset": config.dataset} | template


def score(samples: Sequence[Row], samples_per_question: int) -> Row:
    """Scores of samples in file order; lengths in tokens, the rest shares."""
    correct = [sample["correct"] for sample in samples]
    by_question = [correct[i : i + samples_per_question] for i in range(0, len(correct), samples_per_question)]
    return {
        "accuracy": dataclasses.asdict(metrics.accuracy(by_question)),
        "response_length": _mean([sample["num_tokens"] for sample in samples]),
        "response_length_correct": _mean([sample["num_tokens"] for sample in samples if sample["correct"]]),
        "truncated": _mean([sample["finish_reason"] == "length" for sample in samples]),
        "boxed": _mean([sample["extracted"] is not None for sample in samples]),
        "grading_timeouts": sum(sample["grading_timeout"] for sample in samples),
    }


def _sample(config: Evaluation, asked: Sequence[Question]) -> list[Row]:
    # Not at the top: the grader's worker processes import this module again, and have no use for torch (seconds).
    from megatron_octo.evaluation import engines

    template = templates.load(config.template, config.template_file)
    prompts = [templates.render(template, each.question) for each in asked]
    with progress.bar(f"evaluate {config.dataset.stem}", total=len(asked), unit="responses") as advance:
        responses = engines.answer(
            config.model,
            prompts,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            batch_size=config.batch_size,
            seed=config.seed,
            stop_strings=config.stop_strings,
            advance=advance,
        )
    grades = grade_all([response.text for response in responses], [each.answer for each in asked])
    return [_row(*parts) for parts in zip(asked, prompts, responses, grades, strict=True)]


def _row(question: Question, prompt: str, response: "Response", grade: Grade) -> Row:
    return question.extra | {
        "question": question.question,
        "answer": question.answer,
        "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
        "response": response.text,
        "num_tokens": len(response.token_ids),
        "finish_reason": "stop" if response.finished else "length",
        "extracted": grade.boxed,
        "correct": grade.correct,
        "grading_timeout": grade.timeout,
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _write_jsonl(file: Path, rows: Sequence[Row]) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    os.replace(temporary, file)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Evaluation))
