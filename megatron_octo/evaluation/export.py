"""An evaluation as tasks for lm-evaluation-harness: the same prompts, stop strings and grading, so the same score.

    lm_eval --include_path DIR --tasks octo_gsm8k --model hf --model_args pretrained=MODEL

DIR holds, per benchmark, octo_NAME.yaml and NAME.jsonl with the prompts in full; octo.yaml, the group of them; and utils.py, which
grades by `megatron_octo.grading`. Made for lm-eval 0.4.13. Two things are its own: it cuts prompts that leave no room for the
response, where ours refuses them, and with `add_bos_token` it puts a BOS where the tokenizer's files do not ask for one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from megatron_octo import artifacts, process
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation import loading, prompts
from megatron_octo.evaluation.benchmarks import named
from megatron_octo.evaluation.config import Evaluation, Source
from megatron_octo.evaluation.prompts import Prompts
from megatron_octo.questions import Question

GROUP = "octo"
METRIC = {"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}

_UTILS = '''\
"""Grading of these tasks: the judge that megatron-octo's own evaluations and RL rewards have."""

from megatron_octo.grading import grade

#: Whether an answer counts that stands in no box.
LENIENT = {lenient}


def process_results(doc, results):
    found = grade(results[0], doc["answer"], lenient=LENIENT, choices=tuple(doc["choices"]))
    return {{"accuracy": float(found.correct)}}
'''


def run(config: Evaluation, out: Path, force: bool) -> None:
    """Write the tasks of an evaluation; they stay where they were written.

    Raises:
        ConfigError: the evaluation samples, or a prompt cannot be made.
        CorpusError: questions or examples are missing.
        ArtifactError: the directory holds something else.
    """
    if config.temperature > 0:
        raise ConfigError(f"temperature={config.temperature}: exported tasks are greedy; take temperature=0")
    with artifacts.stage(out, kind="lm-eval-tasks", config=config, inputs=config.inputs, force=force) as stage:
        if stage.done:
            return
        for name, text in _files(config, out.absolute()).items():
            (out / name).write_text(text, encoding="utf-8")
        stage.counts["tasks"] = len(config.benchmarks)


def _files(config: Evaluation, directory: Path) -> dict[str, str]:
    """Text by file name."""
    files = {
        f"{GROUP}.yaml": _yaml(
            group=GROUP,
            task=[_task_name(source) for source in config.benchmarks],
            # As tables of benchmarks do: each counts the same.
            aggregate_metric_list=[{"metric": METRIC["metric"], "weight_by_size": False}],
        ),
        "utils.py": _UTILS.format(lenient=config.accepts_unboxed),
    }
    for source in config.benchmarks:
        asked = loading.questions(source)
        built = prompts.build(config, source, asked)
        data = directory / f"{source.name}.jsonl"
        files[data.name] = _rows(asked[: config.limit], built.texts[: config.limit])
        files[f"{_task_name(source)}.yaml"] = _task(config, source, built, data)
    return files


def _task_name(source: Source) -> str:
    return f"{GROUP}_{source.name}"


def _task(config: Evaluation, source: Source, built: Prompts, data: Path) -> str:
    fields = _yaml(
        task=_task_name(source),
        task_alias=named(source.name).title,
        dataset_path="json",
        dataset_kwargs={"data_files": {"test": str(data)}},
        test_split="test",
        output_type="generate_until",
        doc_to_text="{{prompt}}",
        doc_to_target="{{answer}}",
        num_fewshot=0,  # the examples are in the prompts
        generation_kwargs={
            "until": list(built.stop_strings),
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": config.max_new_tokens,
        },
        metric_list=[METRIC],
        metadata={"version": 1.0},
    )
    return f"{fields}process_results: !function utils.process_results\n"


def _rows(asked: Sequence[Question], texts: Sequence[str]) -> str:
    rows = (
        {"prompt": prompt, "question": each.question, "answer": each.answer, "choices": each.choices}
        for each, prompt in zip(asked, texts, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _yaml(**fields: Any) -> str:
    return str(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=120))


if __name__ == "__main__":
    raise SystemExit(process.main(run, Evaluation))
