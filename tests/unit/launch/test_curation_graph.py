"""A curation as jobs: who reads what of whom, in how many parts, on what."""

import dataclasses
from pathlib import Path

import pytest

from megatron_octo import recipes
from megatron_octo.curation.config import Curation, Importing, InParts, LanguageModel
from megatron_octo.errors import ConfigError, CorpusError
from megatron_octo.evaluation.config import Source
from megatron_octo.launch import curation, verbs
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch
from megatron_octo.launch.place import Kind, Place

OUT = Path("/lustre/runs/c")
PLACE = Place(kind=Kind.SLURM, partition="gpu", cpu_partition="cpu", cpus_per_node=96, time_limit="24:00:00")


def tiny(**changes: object) -> Curation:
    return dataclasses.replace(recipes.load("tiny.curation"), **changes)


def by_name(config: Curation) -> dict[str, Job]:
    return {job.name: job for job in curation.jobs(config, OUT)}


def test_every_step_reads_the_directories_of_the_jobs_it_waits_for() -> None:
    jobs = by_name(tiny())
    assert list(jobs) == [
        "web", "documents", "annotations", "classifier", "relevant", "signatures", "duplicates", "unique", "refined", "corpus",
    ]  # fmt: skip
    assert jobs["relevant"].needs == ("documents", "classifier")
    assert jobs["relevant"].config.documents == OUT / "documents"
    assert jobs["relevant"].config.classifier == OUT / "classifier"
    assert jobs["unique"].needs == ("relevant", "duplicates")
    assert jobs["corpus"].config.documents == OUT / "refined"
    assert jobs["corpus"].config.steps == tuple(OUT / name for name in list(jobs)[1:-1])


def test_the_planted_questions_of_a_generated_web_are_looked_for() -> None:
    own = Source(name="gsm8k")
    asked = by_name(tiny(unique=dataclasses.replace(tiny().unique, benchmarks=(own,))))["unique"].config.benchmarks
    assert asked == (Source(name="planted", file=OUT / "web" / "questions.jsonl"), own)


def test_without_refinement_the_corpus_is_what_is_unique() -> None:
    jobs = by_name(tiny(refinement=None))
    assert "refined" not in jobs
    assert jobs["corpus"].config.documents == OUT / "unique"


def test_all_steps_are_cut_as_the_first() -> None:
    reading = dataclasses.replace(tiny().reading, parts=12, workers=3, tasks=4)
    steps = [job.config for job in by_name(tiny(reading=reading)).values() if isinstance(job.config, InParts)]
    assert len(steps) == 6
    assert {(step.parts, step.workers, step.tasks) for step in steps} == {(12, 3, 4)}


@pytest.mark.parametrize("override", ["relevance.parts=3", "refinement.workers=5", "publication.tasks=2"])
def test_a_step_that_would_be_cut_another_way_is_refused(override: str) -> None:
    found = verbs.curation_recipe("tiny", [override], inputs=(), workers=2)
    assert isinstance(found, Curation)
    field = override.partition(".")[2]
    with pytest.raises(ConfigError, match=f"has {field}; .* give reading.{field}"):
        curation.jobs(found, OUT)


def test_the_way_to_the_run_makes_no_other_run_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert curation.jobs(tiny(), OUT.relative_to("/")) == curation.jobs(tiny(), OUT)


def test_here_one_machine_does_all_of_it() -> None:
    reading = dataclasses.replace(tiny().reading, tasks=4)
    assert curation.here(tiny(reading=reading)).reading.tasks == 1


def test_on_a_cluster_steps_are_arrays_and_a_vllm_of_ours_gets_its_gpus() -> None:
    model = LanguageModel(vllm="/models/llama", gpus=4)
    reading = dataclasses.replace(tiny().reading, tasks=4, workers=16)
    config = tiny(reading=reading, annotation=dataclasses.replace(tiny().annotation, model=model))
    jobs = {job.name: job for job in batch.prepare(curation.jobs(config, OUT), PLACE, None, OUT, OUT)}
    assert (jobs["relevant"].tasks, jobs["relevant"].request.cpus_per_task) == (4, 16)
    assert (jobs["relevant"].request.gpus_per_node, jobs["relevant"].request.partition) == (0, "cpu")
    assert (jobs["duplicates"].tasks, jobs["classifier"].tasks) == (1, 1)
    assert (jobs["annotations"].request.gpus_per_node, jobs["annotations"].request.partition) == (4, "gpu")
    assert jobs["refined"].request.gpus_per_node == 0


def test_inputs_take_the_place_of_the_generated_web() -> None:
    found = verbs.curation_recipe("tiny", [], inputs=(Path("a.parquet"),), workers=2)
    assert isinstance(found, Curation)
    assert (found.web, found.reading.inputs, found.reading.workers) == (None, (Path("a.parquet"),), 2)


def test_inputs_of_a_published_data_set() -> None:
    found = verbs.curation_recipe("published.wildchat", ["limit=5"], inputs=(Path("copy"),), workers=None)
    assert isinstance(found, Importing)
    assert (found.inputs, found.limit) == ((Path("copy"),), 5)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        (
            "tiny.stable",
            (),
            "recipe 'tiny.stable' is a MidTraining; this verb takes a Curation, Importing or TinyWorld",
        ),
        ("tiny.world", (Path("a"),), "--input is for recipes that read files, a TinyWorld is generated"),
    ],
)
def test_what_cannot_be_curated(name: str, inputs: tuple[Path, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verbs.curation_recipe(name, [], inputs=inputs, workers=None)


def test_benchmarks_from_a_directory(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text("")
    unique = dataclasses.replace(tiny().unique, benchmarks=(Source(name="gsm8k"), Source(name="math")))
    with pytest.raises(CorpusError, match=r"has no files of math, such as math\.jsonl"):
        curation.with_benchmarks(tiny(unique=unique), tmp_path)
    (tmp_path / "math.parquet").write_text("")
    named = curation.with_benchmarks(tiny(unique=unique), tmp_path).unique.benchmarks
    assert [source.file for source in named] == [tmp_path / "gsm8k.jsonl", tmp_path / "math.parquet"]
    with pytest.raises(ConfigError, match="would have no effect"):
        curation.with_benchmarks(tiny(), tmp_path)


def test_an_output_among_the_inputs_is_refused(tmp_path: Path) -> None:
    """What the first try writes there would be read by the second."""
    importing = verbs.curation_recipe("published.wildchat", [], inputs=(tmp_path,), workers=None)
    assert isinstance(importing, Importing)
    with pytest.raises(CorpusError, match="lies in the input directory"):
        verbs.curate(importing, tmp_path / "run")
