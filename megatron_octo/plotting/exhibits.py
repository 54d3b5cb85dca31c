"""The figures of a report with their captions and the numbers behind them."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from megatron_octo.plotting import figures, score_figures
from megatron_octo.plotting.figures import Panel
from megatron_octo.plotting.findings import Outcome, SampledScores
from megatron_octo.plotting.results import ModelResults, Row, TrainingRun
from megatron_octo.plotting.score_figures import BeforeAfter

#: Steps of the longest run over the window of its moving mean; our choice, fine enough to see a branch bend.
STEPS_PER_WINDOW = 40


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One figure: `draw` makes it in whatever style is in force; `numbers` are the rows of its CSV."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]
    numbers: tuple[Row, ...]


def base_to_rl(found: Sequence[Outcome]) -> Exhibit:
    """Of one benchmark or of several."""
    benchmarks = list(dict.fromkeys(outcome.benchmark for outcome in found))
    on = f"the held-out questions of {benchmarks[0]}" if len(benchmarks) == 1 else f"{len(benchmarks)} benchmarks"
    return Exhibit(
        name="base_to_rl" if len(benchmarks) == 1 else "all_benchmarks",
        title="Accuracy before and after reinforcement learning",
        caption=f"Accuracy on {on} of each base model (hollow) and of the same model after reinforcement learning "
        "(filled; mean over seeds). Bars are 95 % intervals; small dots are single seeds.",
        draw=partial(score_figures.base_to_rl, [_before_after(outcome) for outcome in found]),
        numbers=tuple(_outcome_row(outcome) for outcome in found),
    )


def pass_at_k(sampled: Sequence[SampledScores]) -> Exhibit:
    return Exhibit(
        name="pass_at_k",
        title="Pass@k",
        caption="Share of the questions that at least one of k samples answers right (unbiased estimate) of each base model "
        "(dashed, hollow) and after reinforcement learning (solid, filled; mean over seeds). Bands are 95 % intervals. The axis "
        "of k is logarithmic.",
        draw=partial(score_figures.pass_at_k, sampled),
        numbers=tuple(
            {"model": each.name, "benchmark": each.benchmark, "state": each.state, "k": k, "pass_at_k": interval.mean}
            | {"low95": interval.low, "high95": interval.high}
            for each in sampled
            for k, interval in each.pass_at.items()
        ),
    )


def rl_accuracy(models: Sequence[ModelResults]) -> Exhibit:
    panels = [
        Panel(metric=f"eval/{name}/accuracy", label=f"Accuracy on {name} (%)", scale=100) for name in _sets(models)
    ]
    return Exhibit(
        name="rl_accuracy",
        title="Accuracy during reinforcement learning",
        caption=f"Greedy accuracy on held-out questions by RL step; step 0 is the base model. {_band_words(models)}",
        draw=partial(figures.rl_dynamics, models, panels),
        numbers=_rl_numbers(models, panels),
    )


def rl_length(models: Sequence[ModelResults]) -> Exhibit:
    kinds = {"response_length": "all", "response_length_correct": "correct"}
    candidates = [
        Panel(metric=f"eval/{name}/{key}", label=f"Tokens per response\n({kind}, {name})", shows_caps=True)
        for name in _sets(models)
        for key, kind in kinds.items()
    ]
    panels = [panel for panel in candidates if _has(models, panel.metric)]
    return Exhibit(
        name="rl_length",
        title="Response length during reinforcement learning",
        caption="Mean length of the responses to held-out questions by RL step, in tokens: of all responses, and of the "
        "correct ones alone (which the paper plots). Dashed lines mark changes of the length cap, where there are any. "
        f"{_band_words(models)}",
        draw=partial(figures.rl_dynamics, models, panels),
        numbers=_rl_numbers(models, panels),
    )


def mid_training(runs: Sequence[TrainingRun]) -> Exhibit:
    window = smoothing_window(runs)
    return Exhibit(
        name="mid_training",
        title="Mid-training loss and learning rate",
        caption="Training loss against total tokens (a branch counts its parent's), with the learning rate under it. "
        f"{_smoothing_words(window)}",
        draw=partial(figures.mid_training, runs, window=window),
        numbers=_training_numbers(runs, "loss", "learning_rate"),
    )


def corpus_losses(runs: Sequence[TrainingRun]) -> Exhibit:
    window = smoothing_window(runs)
    corpora = dict.fromkeys(corpus for run in runs for corpus in run.corpora)
    return Exhibit(
        name="corpus_losses",
        title="Mid-training loss by corpus",
        caption="The same runs on the tokens of each corpus of their blends; the scales of the panels differ. "
        f"{_smoothing_words(window)}",
        draw=partial(figures.corpus_losses, runs, window=window),
        numbers=_training_numbers(runs, *(f"loss/{corpus}" for corpus in corpora)),
    )


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV; columns in the order they first appear, blank where a row lacks one."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def smoothing_window(runs: Sequence[TrainingRun]) -> int:
    """Steps under the moving mean: one for all runs, so that their curves compare."""
    return max(1, max(len(run.rows) for run in runs) // STEPS_PER_WINDOW)


def _sets(models: Sequence[ModelResults]) -> list[str]:
    return list(dict.fromkeys(name for model in models for run in model.rl for name in run.recipe["eval_sets"]))


def _has(models: Sequence[ModelResults], metric: str) -> bool:
    return any(len(figures.over_seeds(model.rl, metric)[0]) for model in models)


def _band_words(models: Sequence[ModelResults]) -> str:
    if max(len(model.rl) for model in models) == 1:
        return "One seed per model, no smoothing."
    return "Lines are means over seeds, bands reach from the lowest to the highest seed; no smoothing."


def _smoothing_words(window: int) -> str:
    return (
        f"Faint points are single steps; lines are moving means over {window} steps, centred. "
        "The steep start of a run from nothing lies above the panel."
    )


def _before_after(outcome: Outcome) -> BeforeAfter:
    return BeforeAfter(
        name=outcome.name,
        benchmark=outcome.benchmark,
        before=outcome.base,
        after=outcome.gain.after if outcome.gain else None,
        after_by_seed=outcome.accuracy_by_seed,
    )


def _outcome_row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": outcome.name,
        "benchmark": outcome.benchmark,
        "questions": outcome.num_questions,
        "seeds": outcome.num_seeds,
    }
    measured = {"base": outcome.base}
    if outcome.gain:
        measured |= {"after_rl": outcome.gain.after, "gain": outcome.gain.gain}
        if outcome.gain.over_control:
            measured["gain_over_control"] = outcome.gain.over_control
    for name, interval in measured.items():
        row |= {name: interval.mean, f"{name}_low95": interval.low, f"{name}_high95": interval.high}
    return row


def _rl_numbers(models: Sequence[ModelResults], panels: Sequence[Panel]) -> tuple[Row, ...]:
    metrics = [panel.metric for panel in panels]
    return tuple(
        {"model": model.name, "seed": run.seed, "step": row["step"]} | {key: row[key] for key in metrics if key in row}
        for model in models
        for run in model.rl
        for row in run.rows
        if any(key in row for key in metrics)
    )


def _training_numbers(runs: Sequence[TrainingRun], *columns: str) -> tuple[Row, ...]:
    keys = ("step", "total_tokens", *columns)
    return tuple(
        {"model": run.name} | {key: row[key] for key in keys if key in row} for run in runs for row in run.rows
    )
