"""An RL recipe through OpenRLHF 0.11 as a process: `python -m megatron_octo.rl.openrlhf_run JOB.json OUT`.

One command per response cap, each resumed from the checkpoint of the one before.

    OUT/openrlhf/prompts-<first>-<end>.jsonl, eval.jsonl, agent.py, job.json     what the commands read
    OUT/openrlhf/checkpoints                                                     DeepSpeed's newest `keep_checkpoints`; they stay, for a
                                                                                 longer run and `restart_from`
    OUT/openrlhf/trained-<end>.json                                              the run came to that step, and its model was written
    OUT/logs/openrlhf-<k>.log, OUT/logs/openrlhf-tensorboard, OUT/logs/rollouts  what they said
    OUT/model, OUT/metrics.jsonl, OUT/alarms.jsonl                               what they made (stage.py)

Runs on a Ray cluster that is there (`RAY_ADDRESS`), or on this machine.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_octo import generation, jsonl, process
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
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.openrlhf import Stage
from megatron_octo.rl.openrlhf_metrics import ROLLOUTS, Metrics
from megatron_octo.rl.openrlhf_prompt_files import Row
from megatron_octo.rl.openrlhf_work import Work
from megatron_octo.rl.stage import Trained, outcome, run_stage

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
        ArtifactError: the starting model is not one of safetensors.
        ConfigError: OpenRLHF refuses the recipe, or there is no checkpoint that it can go on from.
        ResourceError: Ray has fewer GPUs than the placement needs.
        OctoError: OpenRLHF ended badly, or ended well without having trained.
    """
    recipe, work = job.recipe, Work(job=job, out=out)
    weights.require_comparable(job.model)
    tokenizer = generation.load_tokenizer(job.model)
    prepared = prompts.prepare(recipe, asked, tokenizer)
    for stage in openrlhf.stages(recipe):
        openrlhf_parser.check(openrlhf.argv(recipe, stage, work.files(stage), resume=stage.number > 0))
    restart.once(job, out, work.go_back)
    restart.require_ahead(recipe, work.checkpoints.newest())
    left = work.left()
    if left:
        work.require_resumable()
        ray_cluster.require_gpus(recipe)
        _write_inputs(work, eval_sets, tokenizer)
    with contextlib.closing(Metrics(job, out, work.checkpoints, resumed_from=work.reached)) as metrics:
        for stage in left:
            _train(work, stage, prompts.openrlhf_rows(prepared.sequence, tokenizer), metrics)
    trained = outcome(job, out, prepared, weights_changed=weights.differ(job.model, work.trained_model))
    work.keep_model()
    return trained


def _write_inputs(work: Work, eval_sets: Mapping[str, Sequence[Question]], tokenizer: PreTrainedTokenizerBase) -> None:
    """What the commands of all stages read; the same at every try."""
    work.directory.mkdir(exist_ok=True)
    openrlhf_agent.write_files(work.directory, work.job, rollouts=work.out / "logs" / ROLLOUTS)
    sets = [prompts.render_all(work.recipe, asked, eval_set=name) for name, asked in eval_sets.items()]
    rows = prompts.openrlhf_rows([prompt for rendered in sets for prompt in rendered], tokenizer)
    jsonl.replace(work.directory / "eval.jsonl", rows)


def _train(work: Work, stage: Stage, sequence: Sequence[Row], metrics: Metrics) -> None:
    """A stage's command to its end."""
    newest, log = work.checkpoints.newest(), work.out / "logs" / f"openrlhf-{stage.number}.log"
    file = work.prompt_file(
        stage, sequence, remaining=lambda length: openrlhf_order.remaining(work.checkpoints.of(newest or 0), length)
    )
    work.forget_models()
    files = work.files(stage, prompts=file.name)
    command = openrlhf.command(work.recipe, stage, files, resume=newest is not None)
    _run(command, log, metrics)
    work.note_end(stage, command=command, log=log)


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
