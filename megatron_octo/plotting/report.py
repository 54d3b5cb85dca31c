"""The report: one HTML page that needs nothing else. Values in, text out.

`page` gathers what `report.html` shows; `render` is for any page in the manner of `page.html`. Figures are embedded twice, for
light and for dark screens; the templates escape every text that came out of a model or a file, and the one script a page may
run is ours, known by its hash.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from megatron_octo import units
from megatron_octo.plotting import findings, tables
from megatron_octo.plotting.config import Report
from megatron_octo.plotting.exhibits import Exhibit
from megatron_octo.plotting.findings import Outcome, SampledScores
from megatron_octo.plotting.results import Evaluated, ModelResults, OverlapResults, Row
from megatron_octo.plotting.tables import NOTHING, Table

#: Longer responses are cut on the page; `samples/NAME.jsonl` has all of them.
MAX_SHOWN_CHARACTERS = 2_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A rendered exhibit: PNG bytes for light and dark screens and its numbers as CSV."""

    exhibit: Exhibit
    light: bytes
    dark: bytes
    csv: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a study's report tells of."""

    models: Sequence[ModelResults]
    #: By benchmark, the first being the headline's.
    found: Mapping[str, Sequence[Outcome]]
    sampled: Sequence[SampledScores]
    overlap: OverlapResults | None
    #: The `stage.json` of the finished stages in the order of the study.
    marks: Mapping[Path, Mapping[str, Any]]
    #: What a full report would show and this one cannot, one sentence each.
    missing: Sequence[str]

    @property
    def headline(self) -> Sequence[Outcome]:
        return next(iter(self.found.values()), ())

    @property
    def titles(self) -> dict[str, str]:
        """Of the benchmarks that were evaluated."""
        return {name: outcomes[0].benchmark for name, outcomes in self.found.items() if outcomes}


def page(report: Report, contents: Contents, *, shown: Sequence[Table], pictures: Sequence[Picture]) -> str:
    """The HTML text."""
    return render(
        "report.html",
        report=report,
        question=findings.question(contents.models),
        answer=findings.answer(contents.headline, control=contents.models[0].name),
        warning=findings.warning(contents.headline),
        facts=_facts(contents),
        tables={table.name: table for table in shown},
        pictures={picture.exhibit.name: picture for picture in pictures},
        samples=samples(contents.models, next(iter(contents.found), ""), report.num_samples),
        overlap=contents.overlap,
        titles=contents.titles,
        times=_times(contents.marks),
        versions=_spread([mark["versions"] for mark in contents.marks.values()]),
        missing=contents.missing,
    )


def study_tables(report: Report, contents: Contents) -> list[Table]:
    """The tables there is data for."""
    candidates = [
        tables.headline(contents.headline),
        tables.all_benchmarks(list(contents.found.values()) if len(contents.found) > 1 else []),
        tables.sampled(contents.sampled),
        tables.rl_runs(contents.models),
        tables.lineage(contents.models),
        tables.stages(report, contents.marks),
    ]
    if contents.overlap:
        candidates.append(tables.overlap(contents.overlap, contents.titles))
    return [table for table in candidates if table.rows]


def render(template: str, **values: Any) -> str:
    """A page from one of our templates that extends `page.html`."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_own_file),
    )
    environment.filters["data_uri"] = data_uri
    script = _own_file("report.js")
    return environment.get_template(template).render(
        **values,
        css=Markup(_own_file("report.css")),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _own_file(name: str) -> str:
    return (resources.files("megatron_octo.plotting") / name).read_text(encoding="utf-8")


def data_uri(content: bytes | str, kind: str) -> str:
    """Content as an address that carries it."""
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def samples(models: Sequence[ModelResults], benchmark: str, count: int) -> list[dict[str, Any]]:
    """`count` questions spread evenly over a benchmark, each with every model's answer before and after RL (first seed).

    Spread by position, so that nobody's best answers are picked.
    """
    evaluated = [
        (f"{model.name}, {state}", each[benchmark])
        for model in models
        for state, each in (("base", model.base), ("after RL", model.after[0] if model.after else {}))
        if benchmark in each
    ]
    if not evaluated:
        return []
    firsts = {label: _first_samples(each) for label, each in evaluated}
    questions = list(firsts[evaluated[0][0]])
    chosen = [questions[index * len(questions) // count] for index in range(min(count, len(questions)))]
    return [
        {
            "question": question,
            "answer": firsts[evaluated[0][0]][question]["answer"],
            "responses": [_response_cells(label, rows[question]) for label, rows in firsts.items() if question in rows],
        }
        for question in chosen
    ]


def _first_samples(evaluated: Evaluated) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for row in sorted(evaluated.samples, key=lambda row: (row["index"], row["sample"])):
        rows.setdefault(row["question"], row)
    return rows


def _response_cells(label: str, row: Row) -> dict[str, Any]:
    text = row["response"]
    cut = f"\n[{len(text) - MAX_SHOWN_CHARACTERS:,} more characters]" if len(text) > MAX_SHOWN_CHARACTERS else ""
    ended = "cut off at the length cap" if row["finish_reason"] == "length" else "ended by itself"
    return {
        "label": label,
        "correct": bool(row["correct"]),
        "text": text[:MAX_SHOWN_CHARACTERS] + cut,
        "note": f"{row['num_tokens']:,} tokens, {ended}",
    }


def _facts(contents: Contents) -> dict[str, str]:
    """The line of small print under the answer."""
    marks = contents.marks.values()
    commits = sorted({str(mark["git_commit"])[:12] for mark in marks if mark["git_commit"]})
    all_outcomes = [outcome for outcomes in contents.found.values() for outcome in outcomes]
    sizes = {outcome.benchmark: outcome.num_questions for outcome in all_outcomes}
    seeds = sorted({outcome.num_seeds for outcome in all_outcomes})
    return {
        "finished": max((mark["finished_at"] for mark in marks), default=NOTHING).replace("T", " "),
        "computing time": units.duration(sum(mark["wall_seconds"] for mark in marks)),
        "questions": ", ".join(f"{benchmark} {size:,}" for benchmark, size in sizes.items()) or NOTHING,
        "RL seeds": " to ".join(map(str, seeds)) or NOTHING,
        "commit": ", ".join(commits) or NOTHING,
    }


def _times(marks: Mapping[Path, Mapping[str, Any]]) -> str:
    """Wall time by kind of stage, the longest first."""
    seconds: dict[str, list[float]] = {}
    for mark in marks.values():
        seconds.setdefault(mark["kind"], []).append(mark["wall_seconds"])
    longest = sorted(seconds.items(), key=lambda item: -sum(item[1]))
    return ", ".join(
        f"{kind} {units.duration(sum(times))} ({len(times)} {'stage' if len(times) == 1 else 'stages'})"
        for kind, times in longest
    )


def _spread(dicts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Package -> version over all stages; several where stages differ."""
    names = dict.fromkeys(name for each in dicts for name in each)
    return {name: " and ".join(dict.fromkeys(each[name] for each in dicts if name in each)) for name in names}
