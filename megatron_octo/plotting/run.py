"""Draw a study: figures as PNG and CSV below `OUT/figures`, and `OUT/report.html`, which needs no other file.

Two seconds on an idle machine, so a report is always drawn anew: a study that got more seeds gets a report of all of them.
Usage: `python -m megatron_octo.plotting.run CONFIG.json OUT [--force]`.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo import artifacts, process, progress
from megatron_octo.plotting import exhibits, figures, findings, results
from megatron_octo.plotting import report as pages
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.exhibits import Exhibit
from megatron_octo.plotting.findings import Outcome
from megatron_octo.plotting.report import Picture
from megatron_octo.plotting.results import ModelResults

KIND = "report"


def run(config: Report, out: Path, force: bool) -> None:
    """Raises `ArtifactError` on stages whose files cannot be read or whose evaluations do not compare."""
    present = [path for path in config.all_stages if results.is_finished(path)]
    inputs = {str(path): path for path in present}
    with artifacts.stage(out, kind=KIND, config=config, inputs=inputs, force=force or _is_report(out)) as stage:
        models = results.read(config)
        found = findings.outcomes(models)
        shown = _exhibits(models, found)
        pictures = _render(shown)
        _write_figures(pictures, out / "figures")
        text = pages.page(
            config,
            models=models,
            found=found,
            pictures=pictures,
            marks={path: artifacts.finished(path) for path in present},
            missing=results.missing(config),
        )
        (out / "report.html").write_text(text, encoding="utf-8")
        stage.counts.update(figures=len(pictures), stages=len(present), report_bytes=len(text.encode()))


def _is_report(out: Path) -> bool:
    mark = artifacts.read_mark(out)
    return mark is not None and mark["kind"] == KIND


def _exhibits(models: Sequence[ModelResults], found: Sequence[Outcome]) -> list[Exhibit]:
    """The figures there is data for."""
    runs = [model.training for model in models if model.training and model.training.rows]
    shown = [exhibits.base_to_rl(found)] if found else []
    if any(model.rl for model in models):
        shown += [exhibits.rl_accuracy(models), exhibits.rl_length(models)]
    if runs:
        shown += [exhibits.mid_training(runs), exhibits.corpus_losses(runs)]
    return shown


def _render(shown: Sequence[Exhibit]) -> list[Picture]:
    pictures = []
    with progress.bar("draw figures", total=len(shown), unit="figures") as advance:
        for exhibit in shown:
            light, dark = (_draw(exhibit, theme) for theme in ("light", "dark"))
            pictures.append(Picture(exhibit=exhibit, light=light, dark=dark, csv=exhibits.to_csv(exhibit.numbers)))
            advance(1)
    return pictures


def _draw(exhibit: Exhibit, theme: str) -> bytes:
    with figures.style(theme):
        return figures.png(exhibit.draw())


def _write_figures(pictures: Sequence[Picture], directory: Path) -> None:
    directory.mkdir()
    for picture in pictures:
        name = picture.exhibit.name
        (directory / f"{name}.png").write_bytes(picture.light)
        (directory / f"{name}_dark.png").write_bytes(picture.dark)
        (directory / f"{name}.csv").write_text(picture.csv)


if __name__ == "__main__":
    raise SystemExit(process.main(run, Report))
