"""Draw published curves, or any directory of W&B exports and RL metrics: figures as PNG and CSV below `OUT/figures`, the summary of
all runs as `OUT/summary.csv`, and `OUT/report.html`, which needs no other file.

Half a minute for the paper's figures. Usage: `python -m megatron_octo.plotting.published_run CONFIG.json OUT [--force]`.
"""

from pathlib import Path

from megatron_octo import artifacts, process
from megatron_octo.errors import ArtifactError
from megatron_octo.plotting import curves, pictures, published, published_page
from megatron_octo.plotting import report as pages
from megatron_octo.plotting.config import PublishedCurves

KIND = "published-curves"


def run(config: PublishedCurves, out: Path, force: bool) -> None:
    """Raises `ArtifactError` on a directory without curves and on files that are none."""
    if not config.curves.is_dir():
        raise ArtifactError(f"{config.curves} is no directory; name the one that holds the exported curves")
    stated = config.curves / published.BASE_TABLE_FILE
    read = [*curves.files(config.curves), *([stated] if stated.exists() else [])]
    inputs = {file.relative_to(config.curves).as_posix(): file for file in read}
    with artifacts.stage(out, kind=KIND, config=config, inputs=inputs, force=force) as stage:
        if stage.done:
            return
        folders = published_page.in_order(curves.read_directory(config.curves))
        summary = published_page.summary_table(folders)
        base_models = published_page.base_table(stated) if stated.exists() else None
        drawn = pictures.render(published_page.page_exhibits(folders))
        pictures.write(drawn, out / "figures")
        (out / "summary.csv").write_text(summary.csv, encoding="utf-8")
        if base_models:
            (out / "base_models.csv").write_text(base_models.csv, encoding="utf-8")
        text = pages.render(
            "published.html",
            source=config.curves.name,
            pictures=drawn,
            summary=summary,
            compared_step=published_page.compared_step(folders),
            is_paper=any(published.figure_of(folder, found) for folder, found in folders.items()),
            base_models=base_models,
        )
        (out / "report.html").write_text(text, encoding="utf-8")
        stage.counts.update(figures=len(drawn), runs=len(summary.rows), report_bytes=len(text.encode()))


if __name__ == "__main__":
    raise SystemExit(process.main(run, PublishedCurves))
