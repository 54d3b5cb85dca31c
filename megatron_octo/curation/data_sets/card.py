"""The card of a curated data set: how many documents each step took and gave, and why, by what models and settings.

All of it comes from the `stage.json` of the steps. Nothing of the machine is in it: stages and files go by their names.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import units
from megatron_octo.curation.config import Duplicates, InParts, LanguageModel
from megatron_octo.curation.documents import NO_YEAR
from megatron_octo.servers import Server

#: What has a meaning in Markdown, inside a cell.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")
#: Of counts: a filter's drops by reason, documents kept in a year.
_DROPPED = re.compile(r"(?P<filter>.+?)_dropped_(?P<reason>.+)")
_YEAR = re.compile(r"kept_year_(?P<year>.+)")
_BENCHMARK = "benchmark_"
#: Settings that decide which documents stay, by where they are in a step's config.
_THRESHOLDS = (
    "language.language", "language.min_score", "positive_from", "threshold", "normalise", "bands", "rows", "ngram",
    "min_length_ratio", "max_length_ratio",
)  # fmt: skip
#: How steps ran on a machine; it changes nothing in what they made.
_AT_RUN_TIME = {
    field.name
    for noun in (InParts, Duplicates, LanguageModel, Server)
    for field in dataclasses.fields(noun)
    if field.metadata.get("at_run_time")
}
#: Settings that are paths, also where they look like other words, such as `data/raw`.
_PLACES = {
    "inputs", "documents", "annotations", "classifier", "signatures", "duplicates", "steps", "prompt_file", "file",
}  # fmt: skip
_PACKAGES = ("python", "megatron-octo", "datatrove", "pyarrow", "vllm")

Rows = Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished stage, as its mark tells."""

    name: str
    config: Mapping[str, Any]
    counts: Mapping[str, Any]
    versions: Mapping[str, str]
    git_commit: str | None

    @property
    def num_kept(self) -> int | None:
        """Documents it wrote; None where it writes none."""
        kept: int | None = self.counts.get("kept_documents")
        return kept

    @property
    def num_taken(self) -> int | None:
        """Documents it read, or, of raw files, those that came to its first filter."""
        totals: list[int] = [count for name, count in self.counts.items() if name.endswith("_total")]
        read: int | None = self.counts.get("read_documents", max(totals, default=None))
        return read

    def dropped(self) -> Iterator[tuple[str, str, int]]:
        """Filter, reason and number of documents."""
        for name, count in self.counts.items():
            found = _DROPPED.fullmatch(name)
            if found and f"{found['filter']}_total" in self.counts:
                yield found["filter"], found["reason"], count


def step_of(name: str, mark: Mapping[str, Any]) -> Step:
    return Step(
        name=name,
        config=mark["config"],
        counts=mark["counts"],
        versions=mark["versions"],
        git_commit=mark["git_commit"],
    )


def text(name: str, steps: Sequence[Step], *, last: Step) -> str:
    """The README.md of a data set that these steps made, one after the other; `last` wrote its documents."""
    parts = [
        _head(name, steps, last),
        f"# {_cell(name)}",
        f"{last.num_kept or 0:,} documents, {last.counts.get('kept_characters', 0):,} characters, curated with "
        "megatron-octo.",
        "```python\n"
        "from datasets import load_dataset\n\n"
        'load_dataset("parquet", data_files="data/*.parquet", split="train", streaming=True)\n'
        "```",
        *_columns(),
        *_flow(steps),
        *_reasons(steps),
        *_years(steps),
        *_models(steps),
        *_decontamination(steps),
        *_thresholds(steps),
        *_licence(steps),
        *_making(steps),
    ]
    return "\n\n".join(parts) + "\n"


# What is in it --------------------------------------------------------------------------------------------------------


def _head(name: str, steps: Sequence[Step], last: Step) -> str:
    """The YAML that the hub reads."""
    languages = sorted({step.config["language"]["language"] for step in steps if step.config.get("language")})
    return "\n".join(
        [
            "---",
            "# license: yours to choose, see Licence below",
            f"pretty_name: {json.dumps(name)}",
            *(["language:", *(f"- {language}" for language in languages)] if languages else []),
            "task_categories:",
            "- text-generation",
            "size_categories:",
            f"- {size_category(last.num_kept or 0)}",
            "configs:",
            "- config_name: default",
            "  data_files: data/*.parquet",
            "---",
        ]
    )


def size_category(num_rows: int) -> str:
    """The hub's name for a size: 12,000 -> `10K<n<100K`."""
    bounds = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]
    above = sum(num_rows >= 1_000 * 10**power for power in range(len(bounds)))
    if above == 0:
        return "n<1K"
    return "n>1T" if above == len(bounds) else f"{bounds[above - 1]}<n<{bounds[above]}"


def _columns() -> Iterator[str]:
    yield "## Columns"
    yield _table(
        ("column", "meaning"),
        [
            ("text", "the document"),
            ("id", "of the document first read; the same through all steps"),
            ("cc-path, domain, url, timestamp", "where and when it was crawled"),
            ("math_score", "of the corpus it was read from"),
            ("finemath_score", "of the classifier trained for this data set"),
            ("lang, lang_score", "language and how sure the language model is"),
            ("refined, refiner, refined_chunks, original_characters", "whether and by whom it was rewritten, and from how much"),
            ("year", "of the crawl"),
        ],
    )  # fmt: skip


def _flow(steps: Sequence[Step]) -> Iterator[str]:
    rows = [
        (
            step.name,
            step.num_taken,
            step.num_kept,
            _share(step.num_kept, step.num_taken),
            step.counts.get("kept_characters"),
        )
        for step in steps
        if step.num_kept is not None
    ]
    yield "## Documents by step"
    yield _table(("step", "documents in", "kept", "share", "characters kept"), rows)


def _reasons(steps: Sequence[Step]) -> Iterator[str]:
    rows = [
        (step.name, which, reason.replace("_", " "), count, _share(count, step.num_taken))
        for step in steps
        for which, reason, count in step.dropped()
        if count
    ]
    if rows:
        yield "## Why documents were dropped"
        yield _table(("step", "filter", "reason", "documents", "share of the step's"), rows)
    if damaged := sum(step.counts.get("rows_damaged_files", 0) for step in steps):
        yield f"{units.counted(damaged, 'raw file')} could not be read to the end; what came before the damage is in."


def _years(steps: Sequence[Step]) -> Iterator[str]:
    counts = {step.name: _by_year(step) for step in steps if _by_year(step)}
    years = sorted({year for found in counts.values() for year in found}, key=lambda year: (year == NO_YEAR, year))
    if years:
        yield "## Documents by year"
        yield _table(
            ("year", *counts), [(str(year), *(found.get(year, 0) for found in counts.values())) for year in years]
        )


def _by_year(step: Step) -> dict[str, int]:
    found = ((_YEAR.fullmatch(name), count) for name, count in step.counts.items())
    return {match["year"]: count for match, count in found if match}


# How it was made ------------------------------------------------------------------------------------------------------


def _models(steps: Sequence[Step]) -> Iterator[str]:
    rows = [
        (step.name, _model(step.config["model"]), f"{step.config['model']['temperature']:g}", _prompt(step.config),
         _sum(step, "prompt_tokens"), _sum(step, "answer_tokens"))
        for step in steps if step.config.get("model")
    ]  # fmt: skip
    if rows:
        yield "## Language models asked"
        yield _table(("step", "model", "temperature", "prompt", "prompt tokens", "answer tokens"), rows)


def _model(config: Mapping[str, Any]) -> str:
    if config.get("server"):
        return str(config["server"]["model"])
    return _named(config["vllm"]) if config.get("vllm") else "none: a stand-in that answers by rule"


def _prompt(config: Mapping[str, Any]) -> str:
    return _named(config["prompt_file"]) if config.get("prompt_file") else "megatron-octo's"


def _sum(step: Step, ending: str) -> int | None:
    found = [count for name, count in step.counts.items() if name.endswith(ending)]
    return sum(found) if found else None


def _decontamination(steps: Sequence[Step]) -> Iterator[str]:
    rows = [
        (
            reason.removeprefix(_BENCHMARK),
            step.counts.get(f"{which}_questions_{reason.removeprefix(_BENCHMARK)}"),
            count,
        )
        for step in steps
        for which, reason, count in step.dropped()
        if reason.startswith(_BENCHMARK)
    ]
    yield "## Benchmarks"
    if rows:
        yield "Documents that share a run of words with a question were removed."
        yield _table(("benchmark", "questions", "documents removed"), rows)
    else:
        yield "No benchmark was looked for: documents may hold test questions."


def _thresholds(steps: Sequence[Step]) -> Iterator[str]:
    found = ((step.name, path, _lookup(step.config, path)) for step in steps for path in _THRESHOLDS)
    rows = [(name, path, _spelled(value)) for name, path, value in found if value is not None]
    if rows:
        yield "## Thresholds"
        yield _table(("step", "setting", "value"), rows)


def _lookup(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _spelled(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _licence(steps: Sequence[Step]) -> Iterator[str]:
    yield "## Licence"
    yield (
        "To be chosen by whoever publishes this: the terms of the raw corpora apply (for Common Crawl its terms of use), and those of "
        "the models asked. Llama's licences carry a naming clause: whoever distributes a model trained on outputs of a Llama model "
        'must put "Llama" at the beginning of its name and ship the licence along.'
    )
    llamas = sorted({_model(step.config["model"]) for step in steps if step.config.get("model")})
    if asked := [name for name in llamas if "llama" in name.lower()]:
        yield f"**It applies here**: {_cell(', '.join(asked))} was asked."


def _making(steps: Sequence[Step]) -> Iterator[str]:
    yield "## How it was made"
    versions = {name: version for step in steps for name, version in step.versions.items() if name in _PACKAGES}
    codes = sorted({step.git_commit for step in steps if step.git_commit})
    yield _table(("", ""), [*versions.items(), *(("code", commit) for commit in codes)])
    yield "`megatron-octo curate` with these settings; all that each step counted stands beside them."
    yield from (_details(step) for step in steps)


def _details(step: Step) -> str:
    content = json.dumps({"config": _without_places(step.config), "counts": step.counts}, indent=2, ensure_ascii=False)
    return f"<details><summary>{step.name}</summary>\n\n```json\n{content}\n```\n\n</details>"


def _without_places(value: Any) -> Any:
    """A config without how and where it ran."""
    if isinstance(value, Mapping):
        return {
            key: _last_names(item) if key in _PLACES else _without_places(item)
            for key, item in value.items()
            if key not in _AT_RUN_TIME
        }
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return _named(value) if isinstance(value, str) else value


def _last_names(places: Any) -> Any:
    """Of one path or several; None stays."""
    if isinstance(places, list):
        return [_last_names(place) for place in places]
    return Path(places).name if isinstance(places, str) else places


def _named(place: str) -> str:
    """A path of this machine by its last name; other words as they are."""
    return Path(place).name if place.startswith(("/", "~", "./", "../")) else place


def _share(part: int | None, whole: int | None) -> str:
    return f"{part / whole:.2%}" if part is not None and whole else ""


def _table(header: Sequence[str], rows: Rows) -> str:
    """Numbers stand to the right."""
    rule = ["---:" if any(isinstance(value, int) for value in column) else "---" for column in zip(*rows, strict=True)]
    lines = [header, rule, *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split())) if value is not None else ""
