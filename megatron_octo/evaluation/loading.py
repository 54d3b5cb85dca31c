"""Questions and few-shot examples from files, the hub and an installed lm-evaluation-harness."""

import ast
import dataclasses
import importlib.util
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_octo.errors import ConfigError, CorpusError, ResourceError
from megatron_octo.evaluation.benchmarks import BENCHMARKS, Benchmark, Hub, check_named, named, plain
from megatron_octo.evaluation.config import ShotSource, Source
from megatron_octo.evaluation.rows import Row, split_options
from megatron_octo.evaluation.sources import SUFFIXES, donor
from megatron_octo.questions import Question


def questions(source: Source) -> list[Question]:
    """All questions of a benchmark, in their order. Raises `CorpusError` with file and line, `ConfigError` for a name."""
    benchmark = named(source.name)
    if source.file is None:
        check_named(source.name)
        assert benchmark.hub is not None
        rows = _from_hub(benchmark.hub, f"the questions of {source.name}", f"DIR/{source.name}.jsonl")
    else:
        rows = _from_file(source.file)
    found = [_question(row, benchmark) for row in rows]
    if not found:
        raise CorpusError(f"{source.file or source.name} holds no questions")
    if benchmark.num_questions not in (None, len(found)):
        warnings.warn(
            f"{source.name} has {len(found):,} questions in {source.file or 'the hub'}, {benchmark.num_questions:,} in "
            "published results: the scores are not of the same set",
            stacklevel=2,
        )
    return found


def shots(source: Source, how: ShotSource) -> list[Question]:
    """Examples to choose from, in their order. Raises `CorpusError`, and `ConfigError` where there are none."""
    whose = donor(source.name)
    if source.shots_file is not None:
        return [_question(row, named(whose)) for row in _from_file(source.shots_file)]
    if how is ShotSource.LM_EVAL:
        return _published(whose, source.name)
    train = named(whose).train
    if train is None:
        raise ConfigError(f"{source.name} has no training split to take examples from; {_INSTEAD}")
    return [
        _question(row, named(whose))
        for row in _from_hub(train, f"examples for {source.name}", f"DIR/{whose}.train.jsonl")
    ]


_INSTEAD = "name a file with --shots-file, or take --num-shots 0"


def _question(row: Row, benchmark: Benchmark) -> Question:
    own_format = all(isinstance(row.values.get(column), str) for column in ("question", "solution", "answer"))
    question = (plain if own_format else benchmark.question)(row)
    return dataclasses.replace(question, extra=row.rest())


# Files ----------------------------------------------------------------------------------------------------------------


def _from_file(file: Path) -> Iterator[Row]:
    if file.suffix not in SUFFIXES:
        raise CorpusError(f"{file} is neither {' nor '.join(SUFFIXES)}")
    return (_from_parquet if file.suffix == ".parquet" else _from_jsonl)(file)


def _from_jsonl(file: Path) -> Iterator[Row]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: U+2028 is text
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot read {file}: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row(_object(line, f"{file}:{number}"), f"{file}:{number}")


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{place} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CorpusError(
            f"{place} is a {type(values).__name__}; every line must be an object with a benchmark's columns"
        )
    return values


def _from_parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise CorpusError(f"cannot read {file} as Parquet: {error}") from error
    for number, values in enumerate(rows, start=1):
        yield Row(values, f"{file}: row {number}")


# The hub --------------------------------------------------------------------------------------------------------------


def _from_hub(hub: Hub, what: str, file: str) -> Iterator[Row]:
    for config in hub.configs:
        place = "/".join(filter(None, (hub.id, config, hub.split)))
        for number, values in enumerate(_loaded(hub, config, what, file), start=1):
            yield Row(values, f"{place}: row {number}")


def _loaded(hub: Hub, config: str | None, what: str, file: str) -> list[Mapping[str, Any]]:
    try:
        import datasets

        return list(datasets.load_dataset(hub.id, config, split=hub.split))
    except ImportError as error:
        raise ResourceError(
            "questions from the hub need the package datasets: pip install megatron-octo[cpu]"
        ) from error
    except Exception as error:  # offline, gated, gone: every layer below has errors of its own
        instead = f"put them into {file} (or .parquet) and give --data DIR"
        raise CorpusError(
            f"cannot take {what} from the Hugging Face hub ({hub.id}, {config or 'default'}, {hub.split}): "
            f"{type(error).__name__}: {error}; {instead}" + (f", or {_INSTEAD}" if "examples" in what else "")
        ) from error


# lm-evaluation-harness ------------------------------------------------------------------------------------------------


def _published(whose: str, name: str) -> list[Question]:
    """The examples in lm-evaluation-harness's files, read as text: importing them needs what its extras bring."""
    within = named(whose).lm_eval
    if within is None:
        having = ", ".join(each for each in BENCHMARKS if named(donor(each)).lm_eval)
        raise ConfigError(f"lm-evaluation-harness has no published examples for {name}, only for {having}; {_INSTEAD}")
    file = _lm_eval_tasks() / within
    try:
        text = file.read_text(encoding="utf-8")
        found = (_in_python if file.suffix == ".py" else _in_yaml)(text)
        return [_from_published(each) for each in found]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ResourceError(
            f"cannot read the examples in {file}: {error!r}; this was written for lm-eval 0.4.13; {_INSTEAD}"
        ) from error


def _lm_eval_tasks() -> Path:
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(f"--shots lm-eval needs lm-evaluation-harness: pip install lm_eval; or {_INSTEAD}")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def _in_yaml(text: str) -> list[dict[str, str]]:
    import yaml

    samples: list[dict[str, str]] = yaml.safe_load(text)["fewshot_config"]["samples"]
    return samples


def _in_python(text: str) -> list[dict[str, str]]:
    """What `list_fewshot_samples` returns: one literal."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name == "list_fewshot_samples":
            returned = next(each for each in node.body if isinstance(each, ast.Return))
            samples: list[dict[str, str]] = ast.literal_eval(ast.unparse(returned.value or ast.Constant(None)))
            return samples
    raise ValueError("no function list_fewshot_samples")


_CLOSED = re.compile(
    r"(?P<solution>.*)(?:Final Answer: The final answer is \$(?P<final>.*)\$\. I hope it is correct\.|The answer is (?P<answer>.*)\.)\s*",
    re.DOTALL,
)


def _from_published(sample: Mapping[str, str]) -> Question:
    """Solution and answer apart, so that the prompt's style can put its own closing sentence."""
    solved = sample.get("solution") or sample["target"]
    closed = _CLOSED.fullmatch(solved)
    if closed is None:
        raise ValueError(f"no closing sentence in {solved!r}")
    question, final = sample.get("problem") or sample["question"], closed["final"] or closed["answer"]
    choices: tuple[str, ...] = ()
    if re.fullmatch(r"\([A-J]\)", final):
        question, _, options = question.rpartition("\n(A) ")
        choices, final = split_options(f"(A) {options}"), final.strip("()")
    return Question(question=question, answer=final, choices=choices, solution=closed["solution"].strip())
