"""The tables of a report. Each value is there three times: as a reader sees it, as its column sorts, and as its CSV has it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import artifacts, units
from megatron_octo.plotting import exhibits
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.findings import Outcome, SampledScores, points, span
from megatron_octo.plotting.intervals import Interval
from megatron_octo.plotting.results import FoundQuestions, ModelResults, OverlapResults, RLRun, Row

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value, with small print under it."""

    text: str
    small: str = ""
    #: What its column is sorted by; None goes last.
    order: float | str | None
    #: Column of the CSV -> value.
    values: Row
    #: Whether the small print is a warning.
    warns: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of heading -> cell; all have the same headings, and the first cell names the row."""

    name: str
    rows: tuple[Mapping[str, Cell], ...]

    @property
    def headings(self) -> tuple[str, ...]:
        return tuple(self.rows[0])

    @property
    def csv(self) -> str:
        return exhibits.to_csv(
            [{key: value for cell in row.values() for key, value in cell.values.items()} for row in self.rows]
        )


def headline(found: Sequence[Outcome]) -> Table:
    """One benchmark in full."""
    return Table(name="headline", rows=tuple(_headline_row(outcome) for outcome in found))


def all_benchmarks(found: Sequence[Sequence[Outcome]]) -> Table:
    """Every benchmark, model by model. `found` is by benchmark."""
    return Table(
        name="benchmarks",
        rows=tuple(_benchmark_row(outcome) for outcomes in found for outcome in outcomes),
    )


def sampled(found: Sequence[SampledScores]) -> Table:
    """Pass@k and majority@k of models that answered each question several times."""
    ks = sorted({k for scores in found for k in scores.pass_at})
    return Table(
        name="several_samples",
        rows=tuple(
            _sampled_row(scores, measure, at, ks)
            for scores in found
            for measure, at in (("pass@k", scores.pass_at), ("maj@k", scores.maj_at))
        ),
    )


def rl_runs(models: Sequence[ModelResults]) -> Table:
    """Every run of reinforcement learning with its alarms."""
    return Table(name="rl_runs", rows=tuple(_rl_row(model.name, run) for model in models for run in model.rl))


def lineage(models: Sequence[ModelResults]) -> Table:
    """What every model was made from."""
    return Table(name="mid_training_runs", rows=tuple(_lineage_row(model) for model in models if model.training))


def overlap(looked: OverlapResults, titles: Mapping[str, str]) -> Table:
    """Benchmarks, by their titles where those are known, against corpora."""
    places = {(each.benchmark, each.corpus): each for each in looked.found}
    return Table(
        name="overlap",
        rows=tuple(
            {"benchmark": _words("benchmark", titles.get(benchmark, benchmark))}
            | {corpus: _found_cell(corpus, places.get((benchmark, corpus))) for corpus in looked.documents}
            for benchmark in looked.benchmarks
        ),
    )


def stages(report: Report, marks: Mapping[Path, Mapping[str, Any]]) -> Table:
    """`marks` are the `stage.json` of the finished stages in the order of the study."""
    return Table(name="stages", rows=tuple(_stage_row(report.stage_name(path), mark) for path, mark in marks.items()))


def _headline_row(outcome: Outcome) -> dict[str, Cell]:
    return (
        {"model": _words("model", outcome.name, small=units.counted(outcome.num_seeds, "RL seed"))}
        | _gain_cells(outcome)
        | {
            "tokens per response": _before_after("tokens_per_response", outcome.response_length, "{:.0f}"),
            "truncated": _before_after("truncated", outcome.truncated, "{:.0%}"),
            "answered": _before_after("answered", outcome.answered, "{:.0%}"),
        }
    )


def _benchmark_row(outcome: Outcome) -> dict[str, Cell]:
    return {
        "benchmark": _words("benchmark", outcome.benchmark),
        "model": _words("model", outcome.name),
        "questions": _questions_cell(outcome),
        **_gain_cells(outcome),
        "shots": _shots_cell(outcome),
    }


def _gain_cells(outcome: Outcome) -> dict[str, Cell]:
    gain = outcome.gain
    return {
        "base": _accuracy("base", outcome.base),
        "after RL": _accuracy("after_rl", gain.after if gain else None),
        "gain": _difference("gain", gain.gain if gain else None),
        "gain over control’s": _difference("gain_over_control", gain.over_control if gain else None),
    }


def _questions_cell(outcome: Outcome) -> Cell:
    few = outcome.has_few_questions
    return Cell(
        text=f"{outcome.num_questions:,}",
        small=f"⚠ few: ± {points(outcome.half_width)} points" if few else "",
        order=outcome.num_questions,
        values={"questions": outcome.num_questions},
        warns=few,
    )


def _shots_cell(outcome: Outcome) -> Cell:
    before, after = outcome.num_shots
    return Cell(
        text=f"{before}" if after in (before, None) else f"{before} → {after}",
        order=before,
        values={"shots_base": before, "shots_after_rl": after},
    )


def _sampled_row(scores: SampledScores, measure: str, at: Mapping[int, Interval], ks: Sequence[int]) -> dict[str, Cell]:
    return {
        "model": Cell(
            text=scores.name,
            small=scores.state,
            order=f"{scores.name}, {scores.state}",
            values={"model": scores.name, "state": scores.state},
        ),
        "benchmark": _words("benchmark", scores.benchmark),
        "samples": _number("samples", scores.num_samples),
        "measure": _words("measure", measure),
        **{f"k = {k}": _accuracy(f"k{k}", at.get(k)) for k in ks},
    }


def _rl_row(model: str, run: RLRun) -> dict[str, Cell]:
    lines = [_alarm_words(alarm) for alarm in run.alarms]
    return {
        "model": _words("model", model),
        "seed": _number("seed", run.seed),
        "steps": _number("steps", max((row["step"] for row in run.rows), default=0)),
        "alarms": Cell(
            text=f"{len(lines)}" if lines else "none",
            small="\n".join(lines),
            order=len(lines),
            values={"alarms": len(lines), "alarm_texts": " | ".join(lines)},
            warns=bool(lines),
        ),
    }


def _alarm_words(alarm: Row) -> str:
    restart = alarm.get("restart_from")
    way = "" if restart is None else f"; it began after step {restart}"
    return f"⚠ step {alarm['step']}, {alarm['kind']}: {alarm['seen']}{way}"


def _lineage_row(model: ModelResults) -> dict[str, Cell]:
    assert model.training
    recipe, point = model.training.recipe, model.training.recipe.get("branch_point")
    last: Row = model.training.rows[-1] if model.training.rows else {}
    blend = sorted(recipe["blend"]["shares"], key=lambda share: -share["weight"])
    start = f"{point['parent']} at {units.count(point['at_tokens'])} tokens" if point else recipe["init_from"]
    return {
        "model": _words("model", model.name),
        "starts from": _words("starts_from", start or "random weights"),
        "tokens": _tokens("tokens", last.get("tokens", 0)),
        "in total": _tokens("total_tokens", last.get("total_tokens", 0)),
        "blend": _words("blend", ", ".join(f"{share['corpus']} {100 * share['weight']:g} %" for share in blend)),
    }


def _found_cell(corpus: str, found: FoundQuestions | None) -> Cell:
    if found is None:
        return Cell(text=NOTHING, order=None, values={})
    share = found.found / found.questions
    return Cell(
        text=f"{points(share)} %",
        small=f"{found.found:,} of {found.questions:,}; {found.too_short:,} too short",
        order=share,
        values={
            f"{corpus}_found": found.found,
            f"{corpus}_questions": found.questions,
            f"{corpus}_too_short": found.too_short,
        },
    )


def _stage_row(name: str, mark: Mapping[str, Any]) -> dict[str, Cell]:
    counts = {key: value for key, value in mark["counts"].items() if isinstance(value, (int, float))}
    seconds = mark["wall_seconds"]
    listed = ", ".join(f"{key} {_spelled(value)}" for key, value in counts.items())
    inputs = ", ".join(f"{name} {artifacts.spell_input(source)}" for name, source in mark["inputs"].items())
    return {
        "stage": _words("stage", name),
        "kind": _words("kind", mark["kind"]),
        "time": Cell(text=units.duration(seconds), order=seconds, values={"seconds": seconds}),
        "counts": _words("counts", listed or NOTHING),
        "inputs": _words("inputs", inputs or NOTHING),
    }


def _words(column: str, text: str, *, small: str = "") -> Cell:
    return Cell(text=text, small=small, order=text, values={column: text})


def _number(column: str, value: int) -> Cell:
    return Cell(text=f"{value:,}", order=value, values={column: value})


def _tokens(column: str, value: int) -> Cell:
    return Cell(text=units.count(value), order=value, values={column: value})


def _accuracy(column: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(text=NOTHING, order=None, values={})
    return Cell(
        text=f"{points(interval.mean)} %", small=span(interval), order=interval.mean, values=_ends(column, interval)
    )


def _difference(column: str, interval: Interval | None) -> Cell:
    if interval is None:
        return Cell(text=NOTHING, order=None, values={})
    return Cell(
        text=points(interval.mean, signed=True),
        small=span(interval, signed=True),
        order=interval.mean,
        values=_ends(column, interval),
    )


def _ends(column: str, interval: Interval) -> Row:
    return {column: interval.mean, f"{column}_low95": interval.low, f"{column}_high95": interval.high}


def _before_after(column: str, measured: tuple[float, float | None], spelling: str) -> Cell:
    """Sorted by what was measured last."""
    before, after = measured
    texts = [NOTHING if value is None else spelling.format(value).replace("%", " %") for value in measured]
    return Cell(
        text=" → ".join(texts),
        order=before if after is None else after,
        values={f"{column}_base": before, f"{column}_after_rl": after},
    )


def _spelled(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
