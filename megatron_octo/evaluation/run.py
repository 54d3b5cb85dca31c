"""An evaluation as a process: `python -m megatron_octo.evaluation.run EVALUATION.json OUT`.

Leaves, per benchmark, OUT/samples/NAME.jsonl with a line per response and OUT/prompts/NAME.txt with the first prompt in full, and
OUT/scores.json. Responses are graded and written batch by batch while the model goes on; a restart asks for what is missing.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, jsonl, process, progress
from megatron_octo.errors import ArtifactError
from megatron_octo.evaluation import benchmarks, engines, loading, prompts, scoring
from megatron_octo.evaluation.completions import Completer, Completion, Sampling
from megatron_octo.evaluation.config import FEW_QUESTIONS, Evaluation, Source
from megatron_octo.grading import Grade, grade_all
from megatron_octo.questions import Question

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One benchmark as it is put to a model. A place is a question's index times the samples of each, plus the sample."""

    name: str
    title: str
    questions: Sequence[Question]
    #: One per question.
    prompts: Sequence[str]
    num_shots: int
    sampling: Sampling
    samples_per_question: int
    #: Whether an answer in no box counts.
    lenient: bool
    #: Where its rows go.
    file: Path

    def prompt_hash(self, index: int) -> str:
        return hashlib.sha256(self.prompts[index].encode()).hexdigest()


def run(config: Evaluation, out: Path, force: bool) -> None:
    """Answer, grade and score every benchmark."""
    if config.model is not None and not config.model.is_dir():
        raise ArtifactError(
            f"{config.model} is no directory; name a Hugging Face model on this machine, or fetch it first: "
            f"hf download {config.model} --local-dir DIR"
        )
    with artifacts.stage(
        out, kind="evaluate", config=config, inputs=config.inputs, resumable=True, force=force
    ) as stage:
        if stage.done:
            return
        try:
            scores = _scores(config, out)
        except BaseException:
            stage.resumable = (out / "samples").exists()  # else nothing is worth keeping another config out for
            raise
        artifacts.write_json(out / "scores.json", scores)
        stage.counts |= {
            "questions": sum(each["accuracy"]["n"] for each in scores.values()),
            "responses": sum(each["accuracy"]["n"] * each["num_samples"] for each in scores.values()),
        }
        stage.counts |= {f"accuracy_{name}": each["accuracy"]["mean"] for name, each in scores.items()}


def _scores(config: Evaluation, out: Path) -> dict[str, Row]:
    """By benchmark; every benchmark's prompts are made before the first is answered, so that what is missing is said at once."""
    exams = [_exam(config, source, out) for source in config.benchmarks]
    done = [_continue(exam) for exam in exams]
    completer = engines.completer(config)
    scores = {}
    for exam, places in zip(exams, done, strict=True):
        _answer(exam, completer, places)
        scores[exam.name] = _score(exam)
        print(result(exam.title, scores[exam.name]), flush=True)
    return scores


def _exam(config: Evaluation, source: Source, out: Path) -> Exam:
    asked = loading.questions(source)
    built = prompts.build(config, source, asked)
    first = out / "prompts" / f"{source.name}.txt"
    first.parent.mkdir(exist_ok=True)
    first.write_text(built.texts[0], encoding="utf-8")
    return Exam(
        name=source.name,
        title=benchmarks.named(source.name).title,
        questions=asked[: config.limit],
        prompts=built.texts[: config.limit],
        num_shots=built.num_shots,
        sampling=Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            stop_strings=built.stop_strings,
            seed=config.seed,
        ),
        samples_per_question=config.samples_per_question,
        lenient=config.accepts_unboxed,
        file=out / "samples" / f"{source.name}.jsonl",
    )


def _continue(exam: Exam) -> set[int]:
    """Places that an earlier try has rows of; a row that a kill has cut is dropped.

    Raises `ArtifactError` where such a row belongs to another prompt or answer than would be given today.
    """
    if not exam.file.exists():
        return set()
    rows = list(jsonl.read(exam.file))
    for row in rows:
        _check_row(exam, row)
    jsonl.replace(exam.file, rows)
    return {row["index"] * exam.samples_per_question + row["sample"] for row in rows}


def _check_row(exam: Exam, row: Row) -> None:
    index = row["index"]
    if index >= len(exam.questions):
        changed = f"there were more than the {len(exam.questions):,} questions of now"
    elif row["prompt_hash"] != exam.prompt_hash(index):
        before, now = row["prompt_hash"][:12], exam.prompt_hash(index)[:12]
        changed = f"question {index} had another prompt (sha256 {before}, now {now})"
    elif row["answer"] != exam.questions[index].answer:
        changed = f"question {index} had the answer '{row['answer']}', now '{exam.questions[index].answer}'"
    else:
        return
    raise ArtifactError(
        f"{exam.name} has changed since {exam.file} was begun: {changed}; bring its questions, examples or template back, or "
        "pass --force to begin anew"
    )


def _answer(exam: Exam, completer: Completer, done: set[int]) -> None:
    """Ask for what is missing; a batch is graded and written while the next one is generated."""
    asked = [prompt for prompt in exam.prompts for _ in range(exam.samples_per_question)]
    written: Future[None] | None = None
    with (
        progress.bar(f"evaluate {exam.name}", total=len(asked), unit="responses", done=len(done)) as advance,
        ThreadPoolExecutor(max_workers=1) as grader,
    ):
        for batch in completer.complete(asked, exam.sampling, done=done) if len(done) < len(asked) else ():
            if written is not None:
                written.result()
            written = grader.submit(_record, exam, batch)
            advance(len(batch))
        if written is not None:
            written.result()


def _record(exam: Exam, batch: Sequence[tuple[int, Completion]]) -> None:
    places = [divmod(place, exam.samples_per_question) for place, _ in batch]
    questions = [exam.questions[index] for index, _ in places]
    completions = [completion for _, completion in batch]
    grades = grade_all(
        [completion.text for completion in completions],
        [question.answer for question in questions],
        lenient=exam.lenient,
        choices=[question.choices for question in questions],
    )
    exam.file.parent.mkdir(exist_ok=True)
    jsonl.append(
        exam.file,
        [_row(exam, *parts) for parts in zip(places, completions, grades, strict=True)],
    )


def _row(exam: Exam, place: tuple[int, int], completion: Completion, grade: Grade) -> Row:
    index, sample = place
    question = exam.questions[index]
    return question.extra | {
        "index": index,
        "sample": sample,
        "question": question.question,
        "answer": question.answer,
        "prompt_hash": exam.prompt_hash(index),
        "response": completion.text,
        "num_tokens": completion.num_tokens,
        "finish_reason": "stop" if completion.finished else "length",
        "extracted": grade.extracted,
        "correct": grade.correct,
        "grading_timeout": grade.timeout,
    }


def _score(exam: Exam) -> Row:
    """Puts the rows of a benchmark in order and adds them up."""
    rows = sorted(jsonl.read(exam.file), key=lambda row: (row["index"], row["sample"]))
    jsonl.replace(exam.file, rows)
    hashes = "\n".join(map(exam.prompt_hash, range(len(exam.prompts))))
    about = {
        "title": exam.title,
        "num_shots": exam.num_shots,
        "prompt_hash": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    return about | scoring.scores(rows)


def result(title: str, scores: Row) -> str:
    """One line: `GSM8K: 42.4 % right (39.8 to 45.1) of 1,319 questions; 2.0 % truncated`."""
    accuracy = scores["accuracy"]
    mean, low, high = (100 * accuracy[key] for key in ("mean", "low", "high"))
    line = f"{title}: {mean:.1f} % right ({low:.1f} to {high:.1f}) of {accuracy['n']:,} questions"
    line += f"; {100 * scores['truncated']:.1f} % truncated"
    if accuracy["n"] >= FEW_QUESTIONS:
        return line
    return f"{line}\n  *** ONLY {accuracy['n']} questions: the interval is ±{(high - low) / 2:.0f} points ***"


if __name__ == "__main__":
    raise SystemExit(process.main(run, Evaluation))
