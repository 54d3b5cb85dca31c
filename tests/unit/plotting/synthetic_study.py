"""A study in the files its stages would leave behind: small, seeded, and with answers one can predict."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from megatron_octo import artifacts
from megatron_octo.evaluation.config import Evaluation, Overlap, Source
from megatron_octo.plotting.config import Report, ReportedModel
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning, RLJob
from megatron_octo.templates import Template
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig, TrainingJob
from megatron_octo.training.schedule import LearningRateStyle, Schedule

#: Accuracy before and after RL.
ACCURACY = {"stable": (0.2, 0.25), "long": (0.3, 0.7), "short": (0.35, 0.6), "hybrid": (0.3, 0.3)}
LENGTH = {"stable": (20, 25), "long": (60, 110), "short": (25, 30), "hybrid": (40, 60)}
LONGER_CAP_FROM = 12
#: Benchmark -> title and share of its accuracy that is left: the second is harder.
BENCHMARKS = {"gsm8k": ("GSM8K", 1.0), "math500": ("MATH500", 0.5)}
SAMPLES = 4
ALARM = {
    "step": 16,
    "kind": "truncation",
    "seen": "52% of the responses reached the cap (limit 50%)",
    "restart_from": 12,
}
HOSTILE = "</pre><script>alert('out')</script> & \u2028 \\boxed{3}"


def make_study(root: Path, *, steps: int = 60, questions: int = 40, seeds: tuple[int, ...] = (1, 2)) -> Report:
    """Write all stage directories below `root`; no seeds means that RL has not been run. The second benchmark is thrice as large."""
    _stage(root / "world", "world", {"seed": 1}, {}, {"documents": 12_000})
    stable = MidTraining(
        name="stable", model=_MODEL, init_from=None, tokenizer="tiny", blend=blend(web=0.8, qa=0.2),
        train_tokens=steps * 1024, seq_length=128, global_batch_size=8, micro_batch_size=4, save_interval_tokens=1024,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=1e-3, min_lr=1e-3),
    )  # fmt: skip
    models = [_model(root, _phase(stable, name, steps), questions, seeds) for name in ACCURACY]
    return Report(
        title="A study of <tiny> models", command="megatron-octo study tiny --seeds 2", models=tuple(models),
        stages=(root / "world",), overlap=_overlap(root / "overlap"),
    )  # fmt: skip


_MODEL = ModelConfig(
    num_layers=2, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, num_query_groups=2, kv_channels=16,
    vocab_size=512, max_position_embeddings=256,
)  # fmt: skip


def _phase(stable: MidTraining, name: str, steps: int) -> MidTraining:
    if name == "stable":
        return stable
    decay = Schedule(style=LearningRateStyle.COSINE, peak_lr=1e-3, min_lr=1e-4)
    corpora = {"long": {"qa_long": 0.4}, "short": {"qa_short": 0.4}, "hybrid": {"qa_long": 0.2, "qa_short": 0.2}}
    shares = blend(web=0.4, qa=0.2, **corpora[name])
    return stable.branch(name=name, blend=shares, train_tokens=steps // 2 * 1024, schedule=decay)


def _model(root: Path, recipe: MidTraining, questions: int, seeds: tuple[int, ...]) -> ReportedModel:
    name = recipe.name
    before, after = ACCURACY[name]
    training = _stage(
        root / "train" / name, "train", TrainingJob(recipe=recipe, shards=root / "shards"),
        {"metrics.jsonl": _jsonl(_training_rows(recipe))}, {"tokens": recipe.trained_tokens, "steps": recipe.train_iters},
    )  # fmt: skip
    base = _evaluation(root / "eval" / name, before, LENGTH[name][0], questions, shift=0)
    rl = [_rl(root / "rl" / f"{name}-{seed}", name, seed) for seed in seeds]
    evaluated = [
        _evaluation(root / "eval" / f"{name}-rl-{seed}", after, LENGTH[name][1], questions, shift=seed)
        for seed in seeds
    ]
    return ReportedModel(
        name=name, training=training, base_evaluation=base, rl=tuple(rl), rl_evaluations=tuple(evaluated)
    )


def _training_rows(recipe: MidTraining) -> Iterable[dict[str, Any]]:
    noise = Random(recipe.name)
    parent = recipe.branch_point.at_tokens if recipe.branch_point else 0
    for step in range(1, recipe.train_iters + 1):
        tokens, progress = step * recipe.tokens_per_step, step / recipe.train_iters
        loss = (1.1 - 0.3 * progress if parent else 1.2 + 5 * math.exp(-25 * progress)) + noise.gauss(0, 0.05)
        low, high = recipe.schedule.min_lr, recipe.schedule.peak_lr
        yield {
            "step": step, "tokens": tokens, "total_tokens": parent + tokens, "loss": loss,
            **{f"loss/{share.corpus}": loss + len(share.corpus) / 10 for share in recipe.blend.shares},
            "learning_rate": low + (high - low) * (1 + math.cos(math.pi * progress)) / 2,
            "grad_norm": 0.5, "seconds": 0.1, "tokens_per_second": 10_240.0,
        }  # fmt: skip


def _rl(directory: Path, name: str, seed: int) -> Path:
    recipe = ReinforcementLearning(
        name=f"rl_{name}", init_from=name, engine=Engine.TRL, prompts="tiny", template=Template.SIMPLE,
        prompts_per_step=8, samples_per_prompt=4, mini_batch_prompts=8, train_steps=24, learning_rate=1e-5, kl_coef=0.0,
        temperature=1.0, top_p=1.0, max_prompt_tokens=64, clip_epsilon=0.2, max_grad_norm=1.0, eval_interval=4,
        eval_sets=("test",), seed=seed,
        length_schedule=(LengthStage(from_step=0, max_response_tokens=64),
                         LengthStage(from_step=LONGER_CAP_FROM, max_response_tokens=128)),
    )  # fmt: skip
    job = RLJob(recipe=recipe, model=Path("hf") / name, prompts=Path("p.jsonl"), eval_sets={"test": Path("t.jsonl")})
    files = {"metrics.jsonl": _jsonl(_rl_rows(name, seed))}
    if (name, seed) == ("short", 2):
        files["alarms.jsonl"] = _jsonl([ALARM])
    return _stage(directory, "rl", job, files, {"steps": 24, "rollouts": 768})


def _rl_rows(name: str, seed: int) -> Iterable[dict[str, Any]]:
    noise = Random(f"{name} {seed}")
    (before, after), (short, long) = ACCURACY[name], LENGTH[name]
    for step in range(25):
        progress = step / 24
        if step:
            yield {"step": step, "reward": 0.1, "accuracy": 0.5, "response_length": 30.0, "entropy": 0.4}
        if step % 4 == 0:
            accuracy = before + (after - before) * progress + noise.gauss(0, 0.02) * progress
            length = short + (long - short) * progress + noise.gauss(0, 3) * progress
            correct = length - 5 if step else None
            yield {
                "step": step, "eval/test/accuracy": accuracy, "eval/test/response_length": length,
                "eval/test/response_length_correct": correct,
            }  # fmt: skip


def _evaluation(directory: Path, accuracy: float, length: float, questions: int, *, shift: int) -> Path:
    """On the first benchmark the first `accuracy` of the questions, counted from `shift`, are answered correctly each time."""
    files, scores = {}, {}
    for place, (name, (title, left)) in enumerate(BENCHMARKS.items()):
        asked = questions * (1 + 2 * place)
        files[f"samples/{name}.jsonl"] = _jsonl(_samples(accuracy * left, length, asked, shift))
        scores[name] = _scores(accuracy * left, length, asked) | {"title": title, "num_shots": 8 if shift == 0 else 0}
    config = Evaluation(
        model=Path("hf"), benchmarks=tuple(Source(name=name) for name in BENCHMARKS), template=Template.SIMPLE,
        max_new_tokens=128, samples_per_question=SAMPLES, temperature=1.0,
    )  # fmt: skip
    return _stage(directory, "evaluate", config, files | {"scores.json": json.dumps(scores)}, {"questions": questions})


def _samples(accuracy: float, length: float, questions: int, shift: int) -> Iterable[dict[str, Any]]:
    num_correct = round(accuracy * questions)
    for number in range(questions):
        for sample in range(SAMPLES):
            yield {
                "index": number, "sample": sample, "question": f"What is {number} + 1 < 99?", "answer": str(number + 1),
                "prompt_hash": "0" * 64, "response": HOSTILE, "num_tokens": int(length), "finish_reason": "stop",
                "extracted": "3", "correct": (number - shift) % questions < num_correct, "grading_timeout": False,
            }  # fmt: skip


def _scores(accuracy: float, length: float, questions: int) -> dict[str, Any]:
    def interval(mean: float) -> dict[str, float]:
        half = 1.96 * math.sqrt(mean * (1 - mean) / questions)
        return {"mean": mean, "low": mean - half, "high": mean + half, "n": questions}

    return {
        "accuracy": interval(accuracy),
        "pass_at": {str(k): interval(1 - (1 - accuracy) ** k) for k in (1, 2, 4)},
        "maj_at": {str(k): interval(accuracy) for k in (1, 2, 4)},
        "response_length": length, "response_length_correct": length - 1, "truncated": 0.125, "answered": 0.875,
        "grading_timeouts": 0, "num_samples": SAMPLES, "prompt_hash": "0" * 64,
    }  # fmt: skip


def _overlap(directory: Path) -> Path:
    """Of the first benchmark's questions three stand in `qa`; nothing else was found."""

    def corpus(found: Mapping[str, int]) -> dict[str, Any]:
        return {
            "documents": 1_000, "of": 12_000,
            "benchmarks": {
                name: {"questions": 130, "found": found.get(name, 0), "too_short": 2,
                       "examples": [{"question": HOSTILE, "text": "… 13 words in a row …"}][: found.get(name, 0)]}
                for name in BENCHMARKS
            },
        }  # fmt: skip

    config = Overlap(benchmarks=tuple(Source(name=name) for name in BENCHMARKS), shards=Path("s"), tokenizer=Path("t"))
    written = {"ngram": 13, "corpora": {"web": corpus({}), "qa": corpus({"gsm8k": 3})}}
    return _stage(directory, "overlap", config, {"overlap.json": json.dumps(written)}, {"documents": 2_000})


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _stage(directory: Path, kind: str, config: Any, files: Mapping[str, str], counts: Mapping[str, Any]) -> Path:
    with artifacts.stage(directory, kind=kind, config=config) as stage:
        for name, text in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_text(text)
        stage.counts.update(counts)
    return directory
