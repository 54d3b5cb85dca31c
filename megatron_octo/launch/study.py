"""A study as a graph of jobs on one machine.

    world -> tokenizer -> shards/<corpus> -> stable -> branches -> hf/<model> -> base_eval/<model>
                                          -> overlap                         -> rl/<model>/seed<k> -> rl_eval/... -> report

Directories below the study's carry the jobs' names. Rooms meet only through these directories.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.curation.config import TinyWorld
from megatron_octo.evaluation.config import Evaluation, Overlap, Source
from megatron_octo.launch.jobs import Job
from megatron_octo.plotting.config import Report, ReportedModel
from megatron_octo.recipes.study import Study
from megatron_octo.rl.config import ReinforcementLearning, RLJob
from megatron_octo.tokenization.config import Tokenization, TokenizerTraining
from megatron_octo.training.config import TrainingJob

#: The held-out questions every model is scored on, in evaluation and during RL.
TEST_SET = "test"


def jobs(study: Study, out: Path, *, command: str) -> list[Job]:
    """Every stage of the study below `out`; `command` is what the report says repeats it."""
    models = [_model_jobs(study, rl, out) for rl in study.rl]
    shards = _shards(study, out)
    before = [_world(study, out), _tokenizer(study, out), *shards, _overlap(out, shards), *_phases(study, out)]
    after = [job for of_model in models for job in of_model]
    return [*before, *after, _report(study, out, [*before, *after], command)]


def _world(study: Study, out: Path) -> Job:
    return Job(
        name="world",
        module="megatron_octo.curation.run",
        config=study.world,
        out=out / "world",
        logs=_logs(out, "world"),
    )


def _texts(study: Study, out: Path, corpus: str) -> tuple[tuple[Path, ...], str]:
    """Files and text field of a corpus: the user's where given, else the world's."""
    if study.user_corpus is not None and study.user_corpus.corpus == corpus:
        return study.user_corpus.files, study.user_corpus.text_field
    return (out / "world" / f"{corpus}.jsonl",), "text"


def _corpora(world: TinyWorld) -> Sequence[str]:
    return [size.corpus for size in world.corpora]


def _tokenizer(study: Study, out: Path) -> Job:
    # The user's text takes part through the byte fallback: the tokenizer is the world's, so that studies compare.
    config = TokenizerTraining(
        inputs=tuple(out / "world" / f"{corpus}.jsonl" for corpus in _corpora(study.world)),
        vocab_size=study.vocab_size,
        max_documents_per_input=study.tokenizer_documents,
        split_pattern=study.split_pattern,
        model_max_length=study.stable.model.max_position_embeddings,
    )
    return Job(
        name="tokenizer",
        module="megatron_octo.tokenization.train_tokenizer",
        config=config,
        out=out / "tokenizer",
        logs=_logs(out, "tokenizer"),
        needs=("world",),
    )


def _shards(study: Study, out: Path) -> list[Job]:
    return [
        Job(
            name=f"shards/{corpus}",
            module="megatron_octo.tokenization.run",
            config=Tokenization(corpus=corpus, inputs=files, text_field=field, tokenizer=out / "tokenizer"),
            out=out / "shards" / corpus,
            logs=_logs(out, f"shards/{corpus}"),
            needs=("tokenizer",),
        )
        for corpus in _corpora(study.world)
        for files, field in [_texts(study, out, corpus)]
    ]


def _overlap(out: Path, shards: Sequence[Job]) -> Job:
    return Job(
        name="overlap",
        module="megatron_octo.evaluation.overlap_run",
        config=Overlap(benchmarks=_test_set(out), shards=out / "shards", tokenizer=out / "tokenizer"),
        out=out / "overlap",
        logs=_logs(out, "overlap"),
        needs=tuple(job.name for job in shards),
    )


def _test_set(out: Path) -> tuple[Source, ...]:
    return (Source(name=TEST_SET, file=out / "world" / "test.jsonl"),)


def _phases(study: Study, out: Path) -> list[Job]:
    return [
        Job(
            name=phase.name,
            module="megatron_octo.training.run",
            config=TrainingJob(
                recipe=phase,
                shards=out / "shards",
                init_checkpoint=out / phase.branch_point.parent if phase.branch_point else None,
            ),
            out=out / phase.name,
            logs=_logs(out, phase.name),
            ranks=study.world_size,
            needs=(
                *(f"shards/{share.corpus}" for share in phase.blend.shares),
                *((phase.branch_point.parent,) if phase.branch_point else ()),
            ),
        )
        for phase in study.phases
    ]


def _model_jobs(study: Study, rl: ReinforcementLearning, out: Path) -> list[Job]:
    """Export, base evaluation, and per seed RL and its evaluation, of one model."""
    model = rl.init_from
    export = Job(
        name=f"hf/{model}",
        module="megatron_octo.conversion.run",
        config=Conversion(
            direction=Direction.TO_HF,
            source=out / model,
            tokenizer=out / "tokenizer",
            dtype=study.export_dtype,
            check_logits=True,
        ),
        out=out / "hf" / model,
        logs=_logs(out, f"hf/{model}"),
        needs=(model,),
    )
    base = _evaluation(study, rl, model=export.out, name=f"base_eval/{model}", out=out, needs=export.name)
    return [export, base, *(job for seed in range(study.seeds) for job in _seed_jobs(study, rl, seed, export, out))]


def _seed_jobs(study: Study, rl: ReinforcementLearning, seed: int, export: Job, out: Path) -> list[Job]:
    place = f"{rl.init_from}/seed{seed}"
    training = Job(
        name=f"rl/{place}",
        module="megatron_octo.rl.run",
        config=RLJob(
            recipe=dataclasses.replace(rl, seed=rl.seed + seed),
            model=export.out,
            prompts=out / "world" / "rl.jsonl",
            eval_sets={TEST_SET: out / "world" / "test.jsonl"},
        ),
        out=out / "rl" / place,
        logs=_logs(out, f"rl/{place}"),
        needs=(export.name,),
    )
    scored = _evaluation(study, rl, model=training.out / "model", name=f"rl_eval/{place}", out=out, needs=training.name)
    return [training, scored]


def _evaluation(study: Study, rl: ReinforcementLearning, *, model: Path, name: str, out: Path, needs: str) -> Job:
    config = Evaluation(
        model=model,
        benchmarks=_test_set(out),
        template=rl.template,
        template_file=rl.template_file,
        stop_strings=rl.stop_strings,
        max_new_tokens=study.eval_max_new_tokens,
        batch_size=study.eval_batch_size,
    )
    return Job(
        name=name,
        module="megatron_octo.evaluation.run",
        config=config,
        out=out / name,
        logs=_logs(out, name),
        needs=(needs,),
    )


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
    return Job(
        name="report",
        module="megatron_octo.plotting.run",
        config=config,
        out=out / "report",
        logs=_logs(out, "report"),
        always_starts=True,
        needs=tuple(job.name for job in before),
    )


def _reported(study: Study, rl: ReinforcementLearning, out: Path) -> ReportedModel:
    model, seeds = rl.init_from, range(study.seeds)
    return ReportedModel(
        name=model,
        training=out / model,
        base_evaluation=out / "base_eval" / model,
        rl=tuple(out / "rl" / model / f"seed{seed}" for seed in seeds),
        rl_evaluations=tuple(out / "rl_eval" / model / f"seed{seed}" for seed in seeds),
    )


def _logs(out: Path, name: str) -> Path:
    return out / "logs" / name
