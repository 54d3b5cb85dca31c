"""The study of a published model as a graph: what runs, on what of the user's, after what."""

import dataclasses
from pathlib import Path

import pytest

from megatron_octo import config, recipes
from megatron_octo.conversion.config import Direction
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.evaluation.benchmarks import SUITES
from megatron_octo.evaluation.config import Engine
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch
from megatron_octo.launch.place import Kind, Place
from megatron_octo.launch.slurm import submitting
from megatron_octo.launch.study import graph, grounds
from megatron_octo.recipes.study import ModelStudy, Study
from megatron_octo.templates import Template

OUT = Path("out")
BRANCHES = ("decay_long", "decay_short", "decay_hybrid")
PLACE = Place(kind=Kind.SLURM, gpus_per_node=8, cpus_per_node=64, time_limit="24:00:00")
STUDIES = ("llama32_1b.study", "llama32_3b.study", "llama31_8b.study")


def study() -> ModelStudy:
    found = recipes.load("llama32_3b.study")
    assert isinstance(found, ModelStudy)
    given = ("corpora=/data/corpora", "base=/models/base", "prompts=/data/math8k.jsonl", "eval_sets=/data/sets")
    return config.override(found, given)


def jobs(of: Study | None = None) -> dict[str, Job]:
    return {job.name: job for job in graph.jobs(of or study(), OUT, command="repeat me")}


@pytest.mark.parametrize("name", STUDIES)
def test_every_stage_once_and_after_those_it_needs(name: str) -> None:
    found = jobs(recipes.load(name))
    shards = {name for name in found if name.startswith("shards/")}
    assert len(shards) == 12
    per_branch = {f"{stage}/{branch}" for branch in BRANCHES for stage in ("hf", "base_eval")}
    control = ("base",) if name == "llama32_3b.study" else ()  # the paper's, of the 3B model alone
    rl = {f"{stage}/{model}/seed0" for model in (*BRANCHES, *control) for stage in ("rl", "rl_eval")}
    base = {f"base_eval/{model}" for model in control}
    assert found.keys() == shards | {"import", "overlap", "stable", *BRANCHES, "report"} | per_branch | rl | base
    seen: set[str] = set()
    for job in found.values():
        assert (job.out, job.logs) == (OUT / job.name, OUT / "logs" / job.name)
        assert set(job.needs) <= seen, job.name
        seen.add(job.name)


def test_text_of_the_user_becomes_shards_with_the_models_tokenizer() -> None:
    shards = jobs()["shards/openmathinstruct2"]
    assert shards.config.inputs == (Path("/data/corpora/openmathinstruct2"),)
    assert shards.config.text_field == "problem,generated_solution"
    assert shards.config.tokenizer == Path("/models/base")
    assert (shards.config.tasks, shards.config.workers, shards.needs) == (8, 16, ())
    assert jobs()["shards/instruction"].config.text_field == "text"


def test_the_stable_run_goes_on_from_the_imported_model_and_branches_from_the_stable_run() -> None:
    found = jobs()
    assert (found["import"].config.direction, found["import"].config.source) == (
        Direction.FROM_HF,
        Path("/models/base"),
    )
    assert found["stable"].config.init_checkpoint == OUT / "import"
    assert {"import", "shards/dclm_baseline"} < set(found["stable"].needs)
    for branch in BRANCHES:
        assert found[branch].config.init_checkpoint == OUT / "stable"
        assert "stable" in found[branch].needs
        assert "import" not in found[branch].needs
    # Other recipes and `lineage.json` know it by its whole name.
    assert found["decay_long"].config.recipe.name == "llama32_3b.decay_long"


def test_the_model_without_mid_training_is_the_control() -> None:
    found = jobs()
    asked, rl = found["base_eval/base"], found["rl/base/seed0"]
    assert (asked.config.model, asked.needs) == (Path("/models/base"), ())
    assert (rl.config.model, rl.needs, rl.config.recipe.name) == (Path("/models/base"), (), "llama32_3b.rl_base")
    assert (found["rl_eval/base/seed0"].needs, "hf/base" in found) == (("rl/base/seed0",), False)
    control = found["report"].config.models[0]
    assert (control.name, control.training) == ("base", None)
    assert [model.training for model in found["report"].config.models[1:]] == [OUT / branch for branch in BRANCHES]


def test_branches_go_through_export_rl_and_evaluation() -> None:
    found = jobs()
    export, rl = found["hf/decay_short"], found["rl/decay_short/seed0"]
    assert (export.config.source, export.config.check, export.config.reference) == (OUT / "decay_short", True, None)
    assert rl.module == "megatron_octo.rl.openrlhf_run"
    assert (rl.config.model, rl.config.prompts) == (OUT / "hf" / "decay_short", Path("/data/math8k.jsonl"))
    assert rl.config.eval_sets["gsm8k"] == Path("/data/sets/gsm8k.jsonl")
    assert rl.needs == ("hf/decay_short",)


def test_base_models_are_asked_few_shot_and_models_after_rl_as_in_rl() -> None:
    base, after = jobs()["base_eval/decay_long"].config, jobs()["rl_eval/decay_long/seed0"].config
    assert (base.template, base.max_new_tokens, base.engine) == (None, 1024, Engine.VLLM)
    assert tuple(source.name for source in base.benchmarks) == SUITES["math13"]
    assert (after.template, after.max_new_tokens) == (Template.STRUCTURED, 8192)
    assert tuple(source.name for source in after.benchmarks) == SUITES["rl4"]
    assert after.model == OUT / "rl" / "decay_long" / "seed0" / "model"
    assert jobs()["rl_eval/decay_short/seed0"].config.max_new_tokens == 4096
    assert {source.file for source in base.benchmarks} == {None}


def test_benchmarks_of_the_user(tmp_path: Path) -> None:
    for name in SUITES["rl4"]:
        (tmp_path / f"{name}.jsonl").touch()
    here = dataclasses.replace(study(), benchmarks=tmp_path, base_suite="rl4")
    assert jobs(here)["base_eval/decay_long"].config.benchmarks[0].file == tmp_path / "gsm8k.jsonl"
    assert jobs(here)["overlap"].config.benchmarks[0].file == tmp_path / "gsm8k.jsonl"
    with pytest.raises(CorpusError, match=r"has no files of math, sat"):
        jobs(dataclasses.replace(here, base_suite="math13"))


def test_the_report_reads_everything() -> None:
    report = jobs()["report"]
    assert set(report.needs) == jobs().keys() - {"report"}
    assert [model.name for model in report.config.models] == ["base", *BRANCHES]
    assert set(report.config.all_stages) == {job.out for job in jobs().values()} - {OUT / "report"}


def test_seeds_repeat_the_rl_stage_alone() -> None:
    more = jobs(dataclasses.replace(study(), seeds=2)).keys() - jobs().keys()
    assert more == {f"{stage}/{branch}/seed1" for stage in ("rl", "rl_eval") for branch in ("base", *BRANCHES)}


def test_what_is_missing_is_named_with_the_field_that_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").touch()
    (tmp_path / "corpora").mkdir()
    for corpus in study().corpora_read:
        (tmp_path / "corpora" / corpus).mkdir()
    here = dataclasses.replace(study(), base=tmp_path / "base", corpora=tmp_path / "corpora")
    with pytest.raises(
        CorpusError, match=r"not here: /data/math8k.jsonl, /data/sets/amc23.jsonl, .*prompts=FILE eval_sets=DIR"
    ):
        grounds.require_inputs(here)
    sets = tmp_path / "sets"
    sets.mkdir()
    for name in SUITES["rl4"]:
        (sets / f"{name}.jsonl").touch()
    grounds.require_inputs(dataclasses.replace(here, prompts=sets / "gsm8k.jsonl", eval_sets=sets))
    grounds.require_inputs(recipes.load("tiny.study"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"tokenize_tasks": 0}, "tokenize_tasks is 0"),
        ({"eval_engine": Engine.SERVER}, "eval_engine=server"),
        ({"texts": ()}, r"the phases read megamath_web_pro_max, .*name no text"),
        ({"stable": dataclasses.replace(study().stable, init_from=None)}, "starts from random weights"),
        ({"rl": study().rl[:1] * 2}, "2 RL stages would share the directory 'base'"),
        ({"rl": study().rl[1:2] * 2}, "2 RL stages would share the directory 'decay_long'"),
        (
            {"branches": study().branches[:1] * 2, "rl": study().rl[:1]},
            "2 phases would share the directory 'decay_long'",
        ),
    ],
)
def test_studies_that_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(study(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", STUDIES)
def test_a_cluster_is_given_every_stage_and_arrays_twice_for_the_shuffle(name: str, tmp_path: Path) -> None:
    found = graph.jobs(recipes.load(name), tmp_path, command="")
    made = submitting.submissions(batch.prepare(found, PLACE, 8, tmp_path, tmp_path), PLACE)
    assert len(made) == len(found) + 12
    after = {each.name: each.after_ok for each in made}
    assert after["rl_eval.decay_long.seed0"] == ("rl.decay_long.seed0",)
    assert "shards.megamath_qa-2" in after["stable"]
    assert "import" in after["stable"]
