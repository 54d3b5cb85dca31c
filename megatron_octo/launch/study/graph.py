"""A study as a graph of jobs, on one machine or on a cluster.

    [world -> tokenizer ->] shards/<corpus> -> stable -> branches -> hf/<model> -> base_eval/<model>
    [import ->]             overlap                              -> rl/<model>/seed<k> -> rl_eval/... -> report

What stands in brackets depends on what the study stands on (grounds.py). Directories below the study's carry the jobs' names.
Rooms meet only through these directories.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.launch.jobs import Job, stage
from megatron_octo.launch.study import grounds
from megatron_octo.launch.study.grounds import Ground
from megatron_octo.launch.verbs import RL_MODULES
from megatron_octo.plotting.config import Report, ReportedModel
from megatron_octo.recipes.study import Study, directory_name
from megatron_octo.rl.config import ReinforcementLearning, RLJob
from megatron_octo.training.config import MidTraining, TrainingJob


def jobs(study: Study, out: Path, *, command: str) -> list[Job]:
    """Every stage of the study below `out`; `command` is what the report says repeats it.

    Raises `CorpusError` where the study names a directory of benchmarks and one is not there.
    """
    ground = grounds.of(study, out)
    before = [*ground.jobs(), _overlap(ground, out), *(_phase(study, phase, ground, out) for phase in study.phases)]
    after = [job for rl in study.rl for job in _model_jobs(study, rl, ground, out)]
    return [*before, *after, _report(study, out, [*before, *after], command)]


def _overlap(ground: Ground, out: Path) -> Job:
    shards = tuple(job.name for job in ground.jobs() if job.name.startswith("shards/"))
    return stage(out, "overlap", "evaluation.overlap_run", ground.overlap(), needs=shards)


def _phase(study: Study, phase: MidTraining, ground: Ground, out: Path) -> Job:
    parent = directory_name(phase.branch_point.parent) if phase.branch_point else ground.start
    return stage(
        out,
        directory_name(phase.name),
        "training.run",
        TrainingJob(recipe=phase, shards=out / "shards", init_checkpoint=out / parent if parent else None),
        ranks=study.world_size,
        needs=(*(f"shards/{corpus}" for corpus in phase.corpora), *((parent,) if parent else ())),
    )


def _model_jobs(study: Study, rl: ReinforcementLearning, ground: Ground, out: Path) -> list[Job]:
    """Export of what a phase trained, base evaluation, and per seed RL and its evaluation, of one model."""
    name, model = study.model_name(rl), study.published(rl)
    exports = []
    if model is None:
        exports = [stage(out, f"hf/{name}", "conversion.run", ground.export(out / name), needs=(name,))]
        model = exports[0].out
    needs = tuple(job.name for job in exports)
    base = stage(out, f"base_eval/{name}", "evaluation.run", ground.base_evaluation(model, rl), needs=needs)
    seeded = [
        job
        for seed in range(study.seeds)
        for job in _seed_jobs(rl, f"{name}/seed{seed}", seed, model=model, needs=needs, ground=ground, out=out)
    ]
    return [*exports, base, *seeded]


def _seed_jobs(
    rl: ReinforcementLearning, place: str, seed: int, *, model: Path, needs: tuple[str, ...], ground: Ground, out: Path
) -> list[Job]:
    config = RLJob(
        recipe=dataclasses.replace(rl, seed=rl.seed + seed),
        model=model,
        prompts=ground.prompts,
        eval_sets=dict(ground.eval_sets(rl)),
    )
    module = RL_MODULES[rl.engine].removeprefix("megatron_octo.")
    training = stage(out, f"rl/{place}", module, config, needs=needs)
    scored = ground.rl_evaluation(training.out / "model", rl)
    return [training, stage(out, f"rl_eval/{place}", "evaluation.run", scored, needs=(training.name,))]


def _report(study: Study, out: Path, before: Sequence[Job], command: str) -> Job:
    models = tuple(_reported(study, rl, out) for rl in study.rl)
    shown = {
        path for model in models for path in (model.training, model.base_evaluation, *model.rl, *model.rl_evaluations)
    }
    config = Report(
        title=f"{study.name}: stable-then-decay mid-training, then RL",
        command=command,
        models=models,
        overlap=out / "overlap",
        stages=tuple(job.out for job in before if job.out not in shown and job.name != "overlap"),
    )
    needs = tuple(job.name for job in before)
    return stage(out, "report", "plotting.run", config, needs=needs, always_starts=True)


def _reported(study: Study, rl: ReinforcementLearning, out: Path) -> ReportedModel:
    model, seeds = study.model_name(rl), range(study.seeds)
    return ReportedModel(
        name=model,
        training=out / model if study.published(rl) is None else None,
        base_evaluation=out / "base_eval" / model,
        rl=tuple(out / "rl" / model / f"seed{seed}" for seed in seeds),
        rl_evaluations=tuple(out / "rl_eval" / model / f"seed{seed}" for seed in seeds),
    )
