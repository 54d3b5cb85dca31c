"""An RL recipe through OpenRLHF 0.11 as a process: `python -m megatron_octo.rl.openrlhf_run JOB.json OUT`.

One command per response cap, each resumed from the checkpoint of the one before.

    OUT/openrlhf/prompts-<k>.jsonl, eval.jsonl, agent.py, job.json, stage-<k>.json     what the commands read; the last: that one is done
    OUT/openrlhf/checkpoints                                                            DeepSpeed's, removed at the end
    OUT/logs/openrlhf-<k>.log, OUT/logs/openrlhf-tensorboard, OUT/logs/rollouts         what they said
    OUT/model, OUT/metrics.jsonl                                                        what they made

Runs on a Ray cluster that is there (`RAY_ADDRESS`), or on this machine. OpenRLHF has no GPU check and no count of its own
optimizer steps; both are here.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from megatron_octo import artifacts, config, generation, process, questions
from megatron_octo.errors import ConfigError, OctoError, ResourceError
from megatron_octo.questions import Question
from megatron_octo.rl import openrlhf, openrlhf_agent, openrlhf_logs, openrlhf_order, openrlhf_parser, prompts
from megatron_octo.rl.config import RLJob
from megatron_octo.rl.journal import Journal
from megatron_octo.rl.metrics import Row, step_of
from megatron_octo.rl.watch import AlarmWatch

METRICS, MODEL = "metrics.jsonl", "model"
#: Below OUT/logs.
EVENTS, ROLLOUTS = "openrlhf-tensorboard", "rollouts"
LAST_LINES = 30
#: Between two looks at OpenRLHF's event files, which it writes every two minutes.
EVERY_SECONDS = 20.0
GRACE_SECONDS = 30.0
RAY_SECONDS = 120.0
_COUNT_GPUS = "import ray; ray.init(log_to_driver=False, logging_level='ERROR'); print('GPUs', ray.cluster_resources().get('GPU', 0))"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run did."""

    optimizer_updates: int
    steps_with_spread: int
    questions: int
    dropped_questions: int


def run(job: RLJob, out: Path, force: bool) -> None:
    """Train on verifiable rewards on a Ray cluster."""
    inputs = {"model": job.model, "prompts": job.prompts}
    inputs |= {f"eval/{name}": path for name, path in job.eval_sets.items()}
    with artifacts.stage(out, kind="rl", config=job, inputs=inputs, resumable=True, force=force) as stage:
        if stage.done:
            return
        trained = train(
            job,
            asked=questions.read(job.prompts),
            eval_sets={name: questions.read(path) for name, path in job.eval_sets.items()},
            out=out,
        )
        stage.counts |= {"steps": job.recipe.train_steps} | dataclasses.asdict(trained)


def train(job: RLJob, *, asked: Sequence[Question], eval_sets: Mapping[str, Sequence[Question]], out: Path) -> Trained:
    """Train, or go on where an earlier try stopped. Leaves the model in OUT/model.

    Raises:
        ResourceError: Ray has fewer GPUs than the placement needs.
        OctoError: OpenRLHF ended badly, or ended well without having trained.
    """
    recipe = job.recipe
    work = out / "openrlhf"
    work.mkdir(exist_ok=True)
    prepared = prompts.prepare(recipe, asked, generation.load_tokenizer(job.model))
    stages = openrlhf.stages(recipe)
    files = {stage.number: _files(job, stage.number, out) for stage in stages}
    for stage in stages:
        openrlhf_parser.check(openrlhf.argv(recipe, stage, files[stage.number], resume=stage.number > 0))
    require_gpus(job)
    _write_inputs(job, eval_sets, out)
    if job.restart_from is not None:
        _go_back(job.restart_from, stages, files, out)
    metrics = _Metrics(job, out, resumed_from=_newest_step(out))
    metrics.update(last_step=_newest_step(out) or 0)
    _set_logs_aside(out)
    for stage in stages:
        done = work / f"stage-{stage.number}.json"
        if not done.exists():
            _write_prompts(job, stage, prepared, files[stage.number])
            command = openrlhf.command(recipe, stage, files[stage.number], resume=_newest_step(out) is not None)
            _run(command, out / "logs" / f"openrlhf-{stage.number}.log", metrics)
            done.write_text(json.dumps({"command": command}) + "\n")
    steps = _optimizer_steps(out)
    made = files[stages[-1].number].output
    if not weights_differ(job.model, made):
        raise OctoError(
            f"{recipe.name}: {len(steps)} steps were logged and the weights did not change; learning_rate is {recipe.learning_rate:g}"
        )
    os.replace(made, out / MODEL)
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    return Trained(
        optimizer_updates=len(steps) * recipe.updates_per_step,
        steps_with_spread=sum((row["groups_without_spread"] or 0) < 1 for row in steps),
        questions=prepared.kept,
        dropped_questions=prepared.dropped,
    )


def _files(job: RLJob, stage: int, out: Path) -> openrlhf.Files:
    # Absolute: Ray's workers have other working directories.
    work = (out / "openrlhf").resolve()
    return openrlhf.Files(
        model=job.model.resolve(),
        prompts=work / f"prompts-{stage}.jsonl",
        eval_sets=work / "eval.jsonl" if job.eval_sets else None,
        agent=work / "agent.py",
        checkpoints=work / "checkpoints",
        output=work / f"model-{stage}",
        tensorboard=(out / "logs" / EVENTS).resolve(),
    )


def _write_inputs(job: RLJob, eval_sets: Mapping[str, Sequence[Question]], out: Path) -> None:
    """Everything the commands read; the same at every try."""
    recipe, work, tokenizer = job.recipe, out / "openrlhf", generation.load_tokenizer(job.model)
    work.mkdir(exist_ok=True)
    (work / "job.json").write_text(config.dumps(job))
    openrlhf_agent.write_file(work / "agent.py", job=work / "job.json", rollouts=out / "logs" / ROLLOUTS)
    parts = []
    for name, asked in eval_sets.items():
        part = work / f".eval-{name}.jsonl"
        prompts.write_openrlhf(prompts.render_all(recipe, asked), part, tokenizer, eval_set=name)
        parts.append(part.read_text())
        part.unlink()
    (work / "eval.jsonl").write_text("".join(parts))


def _write_prompts(job: RLJob, stage: openrlhf.Stage, prepared: prompts.Prepared, files: openrlhf.Files) -> None:
    """The rows of a stage, once: a stage that was interrupted goes on in the file it began with."""
    if files.prompts.exists():
        return
    per_step = job.recipe.prompts_per_step
    rows = prepared.sequence[: stage.end_step * per_step]
    if stage.first_step:
        first = stage.first_step * per_step
        checkpoint = openrlhf_order.newest(files.checkpoints)
        rows = openrlhf_order.for_resumed(checkpoint, drawn=rows[:first], new=rows[first:])
    prompts.write_openrlhf(rows, files.prompts, generation.load_tokenizer(job.model), eval_set=None)


def require_gpus(job: RLJob) -> str:
    """What Ray has and the placement needs. Raises `ResourceError` where it has less: Ray would wait without a word."""
    recipe = job.recipe
    assert recipe.placement is not None
    needed = recipe.placement.needed(reference=recipe.kl_coef > 0, critic=recipe.critic is not None).total
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, timeout=RAY_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"no answer from Ray ({_where()}) in {RAY_SECONDS:.0f} s; is the cluster up?") from error
    counted = [line.split()[1] for line in asked.stdout.splitlines() if line.startswith("GPUs ")]
    if not counted:
        raise ResourceError(f"Ray ({_where()}) cannot be asked for its GPUs: {asked.stderr.strip()[-500:]}")
    if float(counted[0]) < needed:
        raise ResourceError(
            f"{recipe.name} needs {needed} GPUs and Ray ({_where()}) has {float(counted[0]):.0f}; set placement.nodes, "
            "placement.gpus_per_node or placement.rollout_gpus, or start Ray on more nodes"
        )
    return f"{needed} needed, {float(counted[0]):.0f} there ({_where()})"


def _where() -> str:
    return f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "this machine"


def _run(command: Sequence[str], log: Path, metrics: "_Metrics") -> None:
    """One OpenRLHF command to its end; its words go to the log, its metrics to ours while it runs."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, process_group=0)
    try:
        while not _ended(process, EVERY_SECONDS):
            metrics.update()
    finally:
        _stop(process)  # when this process is told to stop
    metrics.update()
    if process.returncode:
        last = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise OctoError(
            f"OpenRLHF left with exit code {process.returncode}; run the same command again, it goes on from the newest checkpoint. "
            f"The end of {log}:\n{last}"
        )


def _ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the driver; Ray ends the actors of a driver that is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _ended(process, 0):
            return
        os.killpg(process.pid, number)
        _ended(process, GRACE_SECONDS)


class _Metrics:
    """OUT/metrics.jsonl and alarms, brought up to date from what OpenRLHF has logged so far."""

    def __init__(self, job: RLJob, out: Path, *, resumed_from: int | None) -> None:
        self._out = out
        self._journal = Journal(out / METRICS, resumed_from=resumed_from, tensorboard=out / "logs" / "tensorboard")
        self._written = {_identity(row) for row in self._journal.rows}
        self._watch = AlarmWatch(job.recipe.name, job.recipe.alarms, out / "alarms.jsonl")

    def update(self, *, last_step: float = math.inf) -> None:
        sampled = openrlhf_logs.read_sampled(self._out / "logs" / ROLLOUTS)
        for row in openrlhf_logs.rows(self._out / "logs" / EVENTS, sampled):
            if step_of(row) <= last_step and _identity(row) not in self._written:
                self._written.add(_identity(row))
                self._journal.append(row)
        self._watch.look(self._journal.rows, saved=saved_steps(self._out))


def _newest_step(out: Path) -> int | None:
    """The step OpenRLHF would go on from; `latest` is written when a checkpoint is whole."""
    latest = out / "openrlhf" / "checkpoints" / "_actor" / "latest"
    return int(latest.read_text().strip().removeprefix("global_step")) if latest.exists() else None


def _identity(row: Row) -> tuple[object, ...]:
    """Step and kind: training, or which evaluation set."""
    return row["step"], next((key for key in row if key.startswith("eval/")), "train")


def _set_logs_aside(out: Path) -> None:
    """What an earlier try logged: it may have gone on beyond the checkpoint, and those steps come again."""
    logs = out / "logs"
    number = len(list((logs / "earlier").glob("*")))
    for name in (EVENTS, ROLLOUTS):
        if (logs / name).exists():
            (logs / "earlier" / f"{number}").mkdir(parents=True, exist_ok=True)
            os.replace(logs / name, logs / "earlier" / f"{number}" / name)


def _go_back(step: int, stages: Sequence[openrlhf.Stage], files: Mapping[int, openrlhf.Files], out: Path) -> None:
    """Forget what came after a step's checkpoint. Raises `ConfigError` where that step has none."""
    kept = saved_steps(out)
    if step not in kept:
        there = f"checkpoints are kept of the steps {', '.join(map(str, kept))}" if kept else "no checkpoint is kept"
        raise ConfigError(f"restart_from={step}: {there}")
    for role in (out / "openrlhf" / "checkpoints").iterdir():
        for later in (saved for saved in kept if saved > step):
            shutil.rmtree(role / f"global_step{later}", ignore_errors=True)
        (role / "latest").write_text(f"global_step{step}")
    for stage in stages:
        if stage.end_step > step:
            (out / "openrlhf" / f"stage-{stage.number}.json").unlink(missing_ok=True)
        if stage.first_step >= step:  # its rows follow from the checkpoint it goes on from
            files[stage.number].prompts.unlink(missing_ok=True)


def saved_steps(out: Path) -> list[int]:
    """Steps of the checkpoints that are there, in order."""
    tags = (out / "openrlhf" / "checkpoints" / "_actor").glob("global_step*")
    return sorted(int(tag.name.removeprefix("global_step")) for tag in tags if tag.name[11:].isdecimal())


def weights_differ(one: Path, other: Path) -> bool:
    """Whether two Hugging Face directories differ in any tensor that both have, a file at a time."""
    first, second = (_tensors(directory) for directory in (one, other))
    for name in sorted(first.keys() & second.keys()):
        with safe_open(first[name], "pt") as a, safe_open(second[name], "pt") as b:
            before, after = a.get_tensor(name), b.get_tensor(name)
            if not torch.equal(before.to(after.dtype), after):
                return True
    return False


def _tensors(directory: Path) -> dict[str, Path]:
    """File of every tensor by name."""
    found: dict[str, Path] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), file)
    return found


def _optimizer_steps(out: Path) -> list[dict[str, float]]:
    """The training rows. Raises `OctoError` where there are none: OpenRLHF then writes the untouched model and says nothing."""
    rows = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    steps = [row for row in rows if "reward" in row]
    if not steps:
        raise OctoError(
            "OpenRLHF ended without one optimizer step: with dynamic sampling this happens when the model solves all prompts or none; "
            f"see {out / 'logs'}"
        )
    return steps


if __name__ == "__main__":
    raise SystemExit(process.main(run, RLJob))
