"""Draw a study: `OUT/figures` (PNG and CSV), `OUT/tables` (CSV) and `OUT/report.html`, which needs no other file.

A few seconds, so a report is always drawn anew: a study that got more seeds gets a report of all of them.
Usage: `python -m megatron_octo.plotting.run CONFIG.json OUT [--force]`.
"""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo import artifacts, process
from megatron_octo.plotting import exhibits, findings, pictures, results
from megatron_octo.plotting import report as pages
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.exhibits import Exhibit
from megatron_octo.plotting.report import Contents
from megatron_octo.plotting.tables import Table

KIND = "report"


def run(config: Report, out: Path, force: bool) -> None:
    """Raises `ArtifactError` on stages whose files cannot be read or whose evaluations do not compare."""
    present = [path for path in config.all_stages if results.is_finished(path)]
    inputs = {str(path): path for path in present}
    with artifacts.stage(out, kind=KIND, config=config, inputs=inputs, force=force or _is_report(out)) as stage:
        contents = _contents(config, present)
        tables = pages.study_tables(config, contents)
        drawn = pictures.render(_exhibits(contents))
        pictures.write(drawn, out / "figures")
        _write_tables(tables, out / "tables")
        text = pages.page(config, contents, shown=tables, pictures=drawn)
        (out / "report.html").write_text(text, encoding="utf-8")
        stage.counts.update(
            figures=len(drawn), tables=len(tables), stages=len(present), report_bytes=len(text.encode())
        )


def _is_report(out: Path) -> bool:
    mark = artifacts.read_mark(out)
    return mark is not None and mark["kind"] == KIND


def _contents(config: Report, present: Sequence[Path]) -> Contents:
    models = results.read(config)
    benchmarks = results.benchmarks(models)
    return Contents(
        models=models,
        found={name: findings.outcomes(models, name) for name in benchmarks},
        sampled=[scores for name in benchmarks for scores in findings.sampled_scores(models, name)],
        overlap=results.read_overlap(config),
        marks={path: artifacts.finished(path) for path in present},
        missing=results.missing(config, models),
    )


def _exhibits(contents: Contents) -> list[Exhibit]:
    """The figures there is data for."""
    models = contents.models
    runs = [model.training for model in models if model.training and model.training.rows]
    shown = [exhibits.base_to_rl(contents.headline)] if contents.headline else []
    if len(contents.titles) > 1:
        shown.append(exhibits.base_to_rl([outcome for found in contents.found.values() for outcome in found]))
    if contents.sampled:
        shown.append(exhibits.pass_at_k(contents.sampled))
    if any(model.rl for model in models):
        shown += [exhibits.rl_accuracy(models), exhibits.rl_length(models)]
    if runs:
        shown += [exhibits.mid_training(runs), exhibits.corpus_losses(runs)]
    return shown


def _write_tables(tables: Sequence[Table], directory: Path) -> None:
    directory.mkdir()
    for table in tables:
        (directory / f"{table.name}.csv").write_text(table.csv, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(process.main(run, Report))
