"""An RL recipe through OpenRLHF 0.11 as a process: `python -m megatron_octo.rl.openrlhf_run JOB.json OUT`.

One command per response cap, each resumed from the checkpoint of the one before.

    OUT/openrlhf/prompts-<k>.jsonl, eval.jsonl, agent.py, job.json, stage-<k>.json     what the commands read; the last: that one is done
    OUT/openrlhf/checkpoints                                                            DeepSpeed's, removed at the end
    OUT/logs/openrlhf-<k>.log, OUT/logs/openrlhf-tensorboard, OUT/logs/rollouts         what they said
    OUT/model, OUT/metrics.jsonl, OUT/alarms.jsonl                                      what they made (stage.py)

Runs on a Ray cluster that is there (`RAY_ADDRESS`), or on this machine.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_octo import artifacts, config, generation, process
from megatron_octo.errors import OctoError
from megatron_octo.questions import Question
from megatron_octo.rl import (
    openrlhf,
    openrlhf_agent,
    openrlhf_order,
    openrlhf_parser,
    prompts,
    ray_cluster,
    restart,
    weights,
)
from megatron_octo.rl.config import ReinforcementLearning, RLJob
from megatron_octo.rl.openrlhf import Files, Stage
from megatron_octo.rl.openrlhf_checkpoints import Checkpoints
from megatron_octo.rl.openrlhf_metrics import EVENTS, ROLLOUTS, Metrics
from megatron_octo.rl.prompts import Prompt
from megatron_octo.rl.stage import MODEL, Trained, outcome, run_stage

#: Below OUT.
WORK = "openrlhf"
LAST_LINES = 30
#: Between two looks at OpenRLHF's event files, which it writes every two minutes.
EVERY_SECONDS = 20.0
GRACE_SECONDS = 30.0


def run(job: RLJob, out: Path, force: bool) -> None:
    """Train on verifiable rewards on a Ray cluster."""
    run_stage(job, out, force=force, train=train)


def train(job: RLJob, *, asked: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path) -> Trained:
    """Train, or go on where an earlier try stopped. Leaves the model in OUT/model.

    Raises:
        ConfigError: OpenRLHF refuses the recipe, or `restart_from` has no checkpoint.
        ResourceError: Ray has fewer GPUs than the placement needs.
        OctoError: OpenRLHF ended badly, or ended well without having trained.
    """
    recipe, checkpoints = job.recipe, Checkpoints(directory=out / WORK / "checkpoints")
    tokenizer = generation.load_tokenizer(job.model)
    prepared = prompts.prepare(recipe, asked, tokenizer)
    stages = {each: _files(job, each, out) for each in openrlhf.stages(recipe)}
    for each, files in stages.items():
        openrlhf_parser.check(openrlhf.argv(recipe, each, files, resume=each.number > 0))
    ray_cluster.require_gpus(recipe)
    _write_inputs(job, eval_sets, tokenizer, out)
    restart.once(job, out, lambda step: go_back(step, stages, checkpoints, out))
    with contextlib.closing(Metrics(job, out, checkpoints)) as metrics:
        for each, files in stages.items():
            if not mark(each, out).exists():
                command = openrlhf.command(recipe, each, files, resume=checkpoints.newest() is not None)
                if not files.prompts.exists():  # a stage that was interrupted goes on in the file it began with
                    rows = _rows(recipe, each, prepared.sequence, checkpoints)
                    prompts.write_openrlhf(rows, files.prompts, tokenizer)
                _run(command, out / "logs" / f"openrlhf-{each.number}.log", metrics)
                artifacts.write_json(mark(each, out), {"command": command})
    trained = outcome(job, out, prepared, weights_changed=weights.differ(job.model, files.output))
    os.replace(files.output, out / MODEL)
    shutil.rmtree(checkpoints.directory, ignore_errors=True)
    return trained


def go_back(step: int, stages: Mapping[Stage, Files], checkpoints: Checkpoints, out: Path) -> None:
    """Forget what came after a step's checkpoint. Raises `ConfigError` where that step has none."""
    checkpoints.forget_after(step)
    for stage, files in stages.items():
        if stage.end_step > step:
            mark(stage, out).unlink(missing_ok=True)
        if stage.first_step >= step:  # its rows follow from the checkpoint it goes on from
            files.prompts.unlink(missing_ok=True)


def mark(stage: Stage, out: Path) -> Path:
    """The file that says that a stage's command is done."""
    return out / WORK / f"stage-{stage.number}.json"


def _files(job: RLJob, stage: Stage, out: Path) -> Files:
    # Absolute: Ray's workers have other working directories.
    work = (out / WORK).resolve()
    return Files(
        model=job.model.resolve(),
        prompts=work / f"prompts-{stage.number}.jsonl",
        eval_sets=work / "eval.jsonl" if job.eval_sets else None,
        agent=work / "agent.py",
        checkpoints=work / "checkpoints",
        output=work / f"model-{stage.number}",
        tensorboard=(out / "logs" / EVENTS).resolve(),
    )


def _write_inputs(
    job: RLJob, eval_sets: Mapping[str, Sequence[Question]], tokenizer: PreTrainedTokenizerBase, out: Path
) -> None:
    """What the commands of all stages read; the same at every try."""
    work = out / WORK
    work.mkdir(exist_ok=True)
    (work / "job.json").write_text(config.dumps(job))
    openrlhf_agent.write_file(work / "agent.py", job=work / "job.json", rollouts=out / "logs" / ROLLOUTS)
    sets = [prompts.render_all(job.recipe, asked, eval_set=name) for name, asked in eval_sets.items()]
    prompts.write_openrlhf([prompt for rendered in sets for prompt in rendered], work / "eval.jsonl", tokenizer)


def _rows(
    recipe: ReinforcementLearning, stage: Stage, sequence: Sequence[Prompt], checkpoints: Checkpoints
) -> Sequence[Prompt]:
    """The prompts of a stage's file: those of the stages before it, and its own where it will draw them."""
    first, end = (step * recipe.prompts_per_step for step in (stage.first_step, stage.end_step))
    if stage.first_step == 0:
        return sequence[:end]
    newest = checkpoints.newest()
    assert newest is not None, "a later stage's command needs one"
    return openrlhf_order.for_resumed(checkpoints.of(newest), drawn=sequence[:first], new=sequence[first:end])


def _run(command: Sequence[str], log: Path, metrics: Metrics) -> None:
    """One OpenRLHF command to its end; its words go to the log, its metrics to ours while it runs."""
    with log.open("a") as file:
        driver = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, process_group=0)
    try:
        while not _ended(driver):
            metrics.update()
    finally:
        process.end(driver, grace_seconds=GRACE_SECONDS)  # Ray ends the actors of a driver that is gone
    metrics.update()
    if driver.returncode:
        last = "\n".join(f"  {line}" for line in process.last_lines(log, LAST_LINES))
        raise OctoError(
            f"OpenRLHF left with exit code {driver.returncode}; run the same command again, it goes on from the newest checkpoint. "
            f"The end of {log}:\n{last}"
        )


def _ended(driver: "subprocess.Popen[bytes]") -> bool:
    """Whether a command ends within a while."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        driver.wait(EVERY_SECONDS)
    return driver.returncode is not None


if __name__ == "__main__":
    raise SystemExit(process.main(run, RLJob))
