"""The study as a graph of jobs: what runs, on what, after what."""

import dataclasses
from pathlib import Path

import pytest

from megatron_octo import recipes
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Source
from megatron_octo.launch import verbs
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.study import graph
from megatron_octo.recipes.study import Study
from megatron_octo.training.blend import blend

OUT = Path("out")
MODELS = ("stable", "decay_long", "decay_short", "decay_hybrid")


def jobs(study: Study | None = None) -> dict[str, Job]:
    return {job.name: job for job in graph.jobs(study or recipes.load("tiny.study"), OUT, command="repeat me")}


def test_every_stage_of_four_models() -> None:
    shards = [f"shards/{name}" for name in ("web", "general", "code", "qa", "qa_short", "qa_long", "instruction")]
    per_model = [f"{stage}/{model}" for model in MODELS for stage in ("hf", "base_eval")]
    rl = [f"{stage}/{model}/seed0" for model in MODELS for stage in ("rl", "rl_eval")]
    assert sorted(jobs()) == sorted(["world", "tokenizer", *shards, "overlap", *MODELS, *per_model, *rl, "report"])


def test_names_are_directories_and_needs_come_first() -> None:
    seen: set[str] = set()
    for name, job in jobs().items():
        assert job.out == OUT / name
        assert job.logs == OUT / "logs" / name
        assert set(job.needs) <= seen, name
        seen.add(name)


def test_branches_start_from_the_stable_run() -> None:
    branch = jobs()["decay_long"]
    assert branch.config.init_checkpoint == OUT / "stable"
    assert set(branch.needs) == {"stable", "shards/web", "shards/general", "shards/instruction", "shards/qa_long"}
    assert jobs()["stable"].config.init_checkpoint is None
    assert {job.ranks for job in jobs().values()} == {1, 2}


def test_models_go_through_conversion_rl_and_evaluation() -> None:
    found = jobs()
    assert found["hf/decay_long"].config.source == OUT / "decay_long"
    assert found["hf/decay_long"].config.check_logits
    assert found["rl/decay_long/seed0"].config.model == OUT / "hf" / "decay_long"
    assert found["rl_eval/decay_long/seed0"].config.model == OUT / "rl" / "decay_long" / "seed0" / "model"
    assert found["base_eval/decay_long"].config.model == OUT / "hf" / "decay_long"
    test_set = OUT / "world" / "test.jsonl"
    asked = (Source(name="test", file=test_set),)
    assert {job.config.benchmarks for name, job in found.items() if "eval/" in name or name == "overlap"} == {asked}


def test_seeds_repeat_the_rl_stage_alone() -> None:
    one, three = jobs(), jobs(dataclasses.replace(recipes.load("tiny.study"), seeds=3))
    more = {name for name in three if name not in one}
    assert more == {f"{stage}/{model}/seed{seed}" for stage in ("rl", "rl_eval") for model in MODELS for seed in (1, 2)}
    assert [three[f"rl/stable/seed{seed}"].config.recipe.seed for seed in range(3)] == [2026, 2027, 2028]
    for name in one.keys() - {"report"}:
        assert one[name] == three[name], name


def test_the_report_reads_everything_and_names_the_control_first() -> None:
    report = jobs()["report"]
    assert set(report.needs) == jobs().keys() - {"report"}
    assert [model.name for model in report.config.models] == list(MODELS)
    assert report.config.command == "repeat me"
    assert report.config.overlap == OUT / "overlap"
    assert set(report.config.all_stages) == {job.out for job in jobs().values()} - {OUT / "report"}


def test_text_of_the_user_takes_the_place_of_the_web(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("")
    study = verbs.adapt_study(recipes.load("tiny.study"), seeds=None, files=(mine,), text_field="question,answer")
    shards = jobs(study)
    assert shards["shards/web"].config.inputs == (mine,)
    assert shards["shards/web"].config.text_field == "question,answer"
    assert shards["shards/qa"].config.inputs == (OUT / "world" / "qa.jsonl",)
    assert shards["tokenizer"] == jobs()["tokenizer"]


def test_smoke_is_the_study_made_short() -> None:
    assert jobs(recipes.load("tiny.smoke")).keys() == jobs().keys()


def test_studies_that_cannot_be() -> None:
    study: Study = recipes.load("tiny.study")
    with pytest.raises(ConfigError, match="seeds is 0"):
        dataclasses.replace(study, seeds=0)
    with pytest.raises(ConfigError, match=r"starts from decay_long, which the study does not train: .*stable"):
        dataclasses.replace(study, branches=study.branches[1:])
    books = dataclasses.replace(study.stable, blend=blend(books=1.0))
    with pytest.raises(ConfigError, match="stable reads books, which the world does not write"):
        dataclasses.replace(study, stable=books)
