"""What the page of published curves shows: figures and tables made of curves and of the paper's stated numbers."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from megatron_octo.plotting import curve_figures, curves, published, score_figures
from megatron_octo.plotting.curve_figures import EMA_ALPHA, MAX_OTHER_PANELS, CurvePanels
from megatron_octo.plotting.curves import ACCURACY, Curve
from megatron_octo.plotting.exhibits import Exhibit
from megatron_octo.plotting.exhibits import pass_at_k as pass_at_k_exhibit
from megatron_octo.plotting.findings import SampledScores
from megatron_octo.plotting.intervals import Interval
from megatron_octo.plotting.published import COMPARED_STEP, PAPER_END, PLOTTED_PER_LOGGED_STEP, PublishedFigure
from megatron_octo.plotting.score_figures import BeforeAfter
from megatron_octo.plotting.tables import Cell, Table

Folders = Mapping[str, Sequence[Curve]]


def in_order(folders: Folders) -> Folders:
    """The paper's figures in its order, then other folders."""
    known = [figure.folder for figure in published.FIGURES]
    order = sorted(folders, key=lambda folder: known.index(folder) if folder in known else len(known))
    return {folder: folders[folder] for folder in order}


def page_exhibits(folders: Folders) -> list[Exhibit]:
    """One per folder, then what the paper states, where its runs are here."""
    shown = [of_folder(folder, found) for folder, found in folders.items()]
    bars = _bars(folders)
    return [*shown, *([base_to_rl(bars), pass_at_k()] if bars else [])]


def of_folder(folder: str, found: Sequence[Curve]) -> Exhibit:
    """All curves of a folder."""
    figure = published.figure_of(folder, found) or _own_figure(folder, found)
    is_published = figure in published.FIGURES
    panels = CurvePanels(
        labels=figure.labels,
        plotted_per_step=PLOTTED_PER_LOGGED_STEP if is_published else None,
        mark_step=PAPER_END if is_published else None,
        references=_references(figure) if is_published else {},
    )
    return Exhibit(
        name=re.sub(r"\W+", "_", folder).strip("_") or "curves",
        title=figure.title,
        caption=_caption(figure, found, panels),
        draw=partial(curve_figures.draw, found, panels),
        numbers=tuple(row for curve in found for row in _numbers(curve, panels)),
    )


def base_to_rl(bars: Sequence[BeforeAfter]) -> Exhibit:
    return Exhibit(
        name="base_to_rl",
        title="Accuracy before and after reinforcement learning",
        caption=f"Few-shot accuracy of the base models as the paper states it (hollow) and zero-shot accuracy at logged step "
        f"{COMPARED_STEP}, the last evaluation in the paper's figures (filled): one run each. Bars are 95 % intervals (Wilson) over the "
        f"questions of a benchmark, ours: {', '.join(f'{n:,} of {name}' for name, n in published.NUM_QUESTIONS.items())}. They do not "
        "cover the noise between runs.",
        draw=partial(score_figures.base_to_rl, bars),
        numbers=tuple(
            {"model": each.name, "benchmark": each.benchmark} | _interval_cells("base", each.before) | _interval_cells("after_rl", each.after)
            for each in bars
        ),
    )  # fmt: skip


def pass_at_k() -> Exhibit:
    """Stated by the authors' notebook, not computed here."""
    exhibit = pass_at_k_exhibit(
        [
            SampledScores(
                name=model, benchmark="MATH500", state=state, num_samples=256, maj_at={},
                pass_at={1 << exponent: Interval(mean=share, low=share, high=share) for exponent, share in enumerate(shares)},
            )
            for (model, state), shares in published.PASS_AT_K.items()
        ]
    )  # fmt: skip
    numbers = tuple({key: row[key] for key in ("model", "state", "k", "pass_at_k")} for row in exhibit.numbers)
    caption = (
        "Share of the questions of MATH500 that at least one of k samples answers right, before (dashed, hollow) and after reinforcement "
        "learning (solid, filled), as the authors' notebook pass_k.ipynb states it, without intervals. Responses of up to 1,024 tokens, of "
        "OctoThinker after reinforcement learning 4,096."
    )
    return Exhibit(name="pass_at_k", title="Pass@k on MATH500", caption=caption, draw=exhibit.draw, numbers=numbers)


def compared_step(folders: Folders) -> int:
    """Where runs are compared: the last evaluation in the paper's figures, or of other runs the last that all of them have."""
    if any(published.figure_of(folder, found) for folder, found in folders.items()):
        return COMPARED_STEP
    steps = [set(curve.steps) for found in folders.values() for curve in found if curve.metric == ACCURACY]
    return max(set.intersection(*steps), default=0) if steps else 0


def summary_table(folders: Folders) -> Table:
    """One row per run and folder, as the recipe's appendix A."""
    names = curves.benchmarks([curve for found in folders.values() for curve in found])
    at = compared_step(folders)
    rows = []
    for folder, found in folders.items():
        figure = published.figure_of(folder, found) or _own_figure(folder, found)
        rows += [_summary_row(figure, row, names, at) for row in curves.summary(found, at=at)]
    return Table(name="summary", rows=tuple(rows))


def base_table(file: Path) -> Table:
    """Few-shot accuracy of the decay branches before RL, benchmark by benchmark."""
    return Table(
        name="base_models",
        rows=tuple({key: _plain(key, value) for key, value in row.items()} for row in published.read_base_table(file)),
    )


def _own_figure(folder: str, found: Sequence[Curve]) -> PublishedFigure:
    runs = list(dict.fromkeys(curve.run for curve in found))
    title = "Runs" if folder == "." else f"Runs of {folder}"
    return PublishedFigure(folder=folder, title=title, note="", labels=curve_figures.short_labels(runs))


def _references(figure: PublishedFigure) -> dict[tuple[str, str], float]:
    stated = {(run, name): published.few_shot(run, name) for run in figure.labels for name in curves.BENCHMARKS}
    return {key: value for key, value in stated.items() if value is not None}


def _caption(figure: PublishedFigure, found: Sequence[Curve], panels: CurvePanels) -> str:
    sentences = [
        figure.note,
        f"Dots: logged values; lines: their exponential moving mean ({EMA_ALPHA} of the newest value), to where a run ended.",
    ]
    if panels.plotted_per_step:
        sentences.append(
            "Lower axis: verl's steps as logged; upper axis: the steps of the paper's figures, "
            f"{panels.plotted_per_step} for each logged one. The paper's figures end at {PAPER_END} logged steps (dotted)."
        )
    if any(curve.metric == curves.LENGTH_CORRECT for curve in found):
        sentences.append("Tokens: mean over correct responses alone.")
    if panels.references:
        sentences.append("Dashed: few-shot accuracy of the base models, as the paper states it.")
    left_out = len(curve_figures.other_quantities(found)) - MAX_OTHER_PANELS
    if left_out > 0:
        sentences.append(f"{left_out} more quantities are in the CSV alone.")
    return " ".join(filter(None, sentences))


def _numbers(curve: Curve, panels: CurvePanels) -> list[dict[str, Any]]:
    factor = panels.plotted_per_step
    return [
        {"run": curve.run, "metric": curve.metric, "benchmark": curve.benchmark, "step": step}
        | ({"paper_step": step * factor} if factor else {})
        | {"value": value, "smoothed": f"{smooth:.6g}"}
        for step, value, smooth in zip(curve.steps, curve.values, curve_figures.ema(curve.values), strict=True)
    ]


def _bars(folders: Folders) -> list[BeforeAfter]:
    """Of the runs that are here, benchmark by benchmark."""
    labels = {run: label for figure in published.FIGURES for run, label in figure.labels.items()}
    found = {(folder, curve.run, curve.quantity): curve for folder, own in folders.items() for curve in own}
    return [
        BeforeAfter(
            name=labels[run],
            benchmark=name,
            before=None if stated is None else published.wilson(stated / 100, name),
            after=None if after is None else published.wilson(after, name),
        )
        for name in curves.BENCHMARKS
        for folder, run in published.BARS
        for curve in [found.get((folder, run, (ACCURACY, name)))]
        if curve
        for stated, after in [(published.few_shot(run, name), curve.at(COMPARED_STEP))]
    ]


def _interval_cells(key: str, interval: Interval | None) -> dict[str, float]:
    return {key: interval.mean, f"{key}_low95": interval.low, f"{key}_high95": interval.high} if interval else {}


def _summary_row(figure: PublishedFigure, row: Mapping[str, Any], names: Sequence[str], at: int) -> dict[str, Cell]:
    label = figure.labels[row["run"]]
    run = {"folder": figure.folder, "label": label, "run": row["run"]}
    cells = {
        "run": Cell(text=label, small=figure.title, order=label, values=run),
        "last step": Cell(text=f"{row['last_step']:,}", order=row["last_step"], values={"last_step": row["last_step"]}),
    }
    for name in names:
        own = {key: value for key, value in row.items() if key.startswith(f"{name}_") and "_tokens_" not in key}
        text, _, best = published.spell_accuracy(row, name, at=at).partition(" ")
        cells[name] = Cell(text=_wrapping(text), small=best, order=_compared(row, name, at), values=own)
    for name in names[:1]:
        own = {key: value for key, value in row.items() if key.startswith(f"{name}_tokens_")}
        text = published.spell_tokens(row, name, at=at)
        cells[f"tokens, {name}"] = Cell(text=_wrapping(text), order=_compared(row, f"{name}_tokens", at), values=own)
    return cells


def _wrapping(spelled: str) -> str:
    """Where a narrow column may break."""
    return spelled.replace("→", " → ")


def _compared(row: Mapping[str, Any], key: str, at: int) -> float | None:
    """At the compared step; of runs that ended before, their last."""
    value = row.get(f"{key}_at_{at}")
    return row.get(f"{key}_last") if value is None else value


def _plain(key: str, value: float | str) -> Cell:
    return Cell(text=str(value), order=value, values={key: value})
