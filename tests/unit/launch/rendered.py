"""The jobs whose batch scripts are kept in golden/. `python rendered.py` beside this file writes them anew."""

import dataclasses
from pathlib import Path

from megatron_octo import recipes
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch, scripts
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import Container, Kind, Place
from megatron_octo.rl.config import RLJob
from megatron_octo.tokenization.config import Tokenization
from megatron_octo.training.config import TrainingJob

GOLDEN = Path(__file__).with_name("golden")
RUNS = Path("/lustre/runs")
PLAIN = Place(
    kind=Kind.SLURM, account="llm", partition="h100", cpu_partition="cpu", cpus_per_node=112, time_limit="24:00:00"
)
CONTAINERS = dataclasses.replace(
    PLAIN,
    container=Container(
        image="nvcr.io#nvidia/pytorch:25.09-py3", mounts=("/lustre/data:/lustre/data:ro",), env=("HF_HOME",)
    ),
    sbatch={"exclusive": True, "mem": 0},
    srun=("--mpi=none",),
)
PLACES = {"plain": PLAIN, "containers": CONTAINERS}


def stable(model: str, study: Path = RUNS, **changes: object) -> Job:
    """The stable phase of a model."""
    job = TrainingJob(
        recipe=recipes.load(f"{model}.stable"), shards=study / "shards", init_checkpoint=Path("/lustre/models", model)
    )
    given = {"name": "stable", "module": "megatron_octo.training.run", "config": job}
    return Job(**given | {"out": study / model / "stable", "logs": study / model / "logs" / "stable"} | changes)  # type: ignore[arg-type]


def rl(study: Path = RUNS / "llama32_3b") -> Job:
    recipe = recipes.load("llama32_3b.rl_long")
    sets = {name: Path(f"/lustre/data/{name}.jsonl") for name in recipe.eval_sets}
    return Job(
        name="rl/long/seed0",
        module="megatron_octo.rl.openrlhf_run",
        config=RLJob(recipe=recipe, model=study / "hf/long", prompts=Path("/lustre/data/rl.jsonl"), eval_sets=sets),
        out=study / "rl/long/seed0",
        logs=study / "logs/rl/long/seed0",
        needs=("hf/long",),
    )


def tokenize(study: Path = RUNS / "llama32_3b", *, tasks: int = 16, shuffle_seed: int | None = 1234) -> Job:
    settings = Tokenization(
        corpus="web", inputs=(Path("/lustre/data/web"),), tokenizer=Path("/lustre/models/llama"), workers=32, tasks=tasks,
        shuffle_seed=shuffle_seed,
    )  # fmt: skip
    return Job(
        name="shards/web",
        module="megatron_octo.tokenization.run",
        config=settings,
        out=study / "shards/web",
        logs=study / "logs/shards/web",
        always_starts=True,
    )


def batches() -> dict[str, tuple[BatchJob, Place]]:
    """Each batch job with its place, by the name of its golden file."""
    found = {}
    for kind, place in PLACES.items():
        for model in ("llama32_1b", "llama32_3b", "llama31_8b"):
            for nodes in (1, 8, 64):
                found[f"{model}-{nodes}-{kind}"] = _one(stable(model), place, nodes, RUNS / model), place
        found[f"rl-{kind}"] = _one(rl(), place, None, RUNS / "llama32_3b"), place
        found[f"tokenize-{kind}"] = _one(tokenize(), place, None, RUNS / "llama32_3b"), place
    return found


def _one(job: Job, place: Place, nodes: int | None, study: Path) -> BatchJob:
    return batch.prepare([job], place, nodes, study, RUNS)[0]


def text(one: BatchJob, place: Place) -> str:
    return scripts.sbatch_script(one, place, run_directory=one.job.logs)


if __name__ == "__main__":
    for name, (one, place) in batches().items():
        (GOLDEN / f"{name}.sbatch").write_text(text(one, place))
