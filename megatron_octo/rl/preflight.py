"""What would go wrong in an RL job, found before it: `python -m megatron_octo.rl.preflight JOB.json [--probe K]`.

One line per check, with what to do where it fails; leaves with 1 when one did. That the numbers of the spec divide and fit is
known when the job's config loads. The probe samples K prompts from the starting model: where it solves all of them or none,
no group has anything to compare.
"""

import argparse
import importlib.util
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import config, questions, templates, units
from megatron_octo.errors import OctoError, ResourceError
from megatron_octo.questions import Question
from megatron_octo.rl.config import Engine, RLJob
from megatron_octo.rl.rewards import Score, Scorer

PROBE_PROMPTS = 16
#: Bytes per parameter of a checkpoint: bf16 weights, fp32 weights and two moments.
CHECKPOINT_BYTES = 2 + 12
WEIGHT_BYTES = 2


@dataclass(frozen=True)
class Finding:
    """One check: its subject, whether it passed, and what was seen or is to be done."""

    subject: str
    passed: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.subject}: {self.said}"


def examine(job: RLJob, *, out: Path, probe: int) -> Iterator[Finding]:
    """All checks, cheapest first; `out` is where the run would write, `probe` how many prompts to sample (0: none)."""
    asked = questions.read(job.prompts)
    yield _guarded("reward", lambda: _reward(job, asked))
    yield _guarded("template", lambda: _template(job, asked))
    yield _guarded("prompts", lambda: _prompts(job, asked))
    yield _guarded("context", lambda: _context(job))
    yield _guarded("disk", lambda: _disk(job, out))
    if job.recipe.engine is Engine.OPENRLHF:
        yield _guarded("openrlhf", lambda: _openrlhf(job))
        yield _guarded("attention", lambda: _attention(job))
        yield _guarded("gpus", lambda: _gpus(job))
    if probe:
        yield _guarded("pass rate", lambda: _pass_rate(job, asked, probe))


def _guarded(subject: str, check: Callable[[], str]) -> Finding:
    """A check says what it saw; its error is the finding."""
    try:
        return Finding(subject, True, check())
    except OctoError as error:
        return Finding(subject, False, str(error))


def _reward(job: RLJob, asked: Sequence[Question]) -> str:
    """From a thread, as rollout workers call it: graders that use signals fail there."""
    scorer, answer = Scorer(job.recipe.reward), asked[0].answer
    right, wrong = _in_thread(scorer, rf"\boxed{{{answer}}}", answer), _in_thread(scorer, "I do not know", answer)
    if not right.correct or wrong.correct:
        raise OctoError(
            f"the gold answer {answer!r} in a box is graded {'right' if right.correct else 'wrong'} and no answer "
            f"{'right' if wrong.correct else 'wrong'}; look at the prompt set's answers"
        )
    return f"{right.reward:+g} for the gold answer, {wrong.reward:+g} for none, called from a thread"


def _in_thread(scorer: Scorer, response: str, answer: str) -> Score:
    scores: list[Score] = []
    thread = threading.Thread(
        target=lambda: scores.append(scorer(response, answer, tokens=1, finished=True, cap=1_000)), daemon=True
    )
    thread.start()
    thread.join(30)
    if not scores:
        raise OctoError("the reward gave no score within 30 s, or failed; its traceback stands above")
    return scores[0]


def _template(job: RLJob, asked: Sequence[Question]) -> str:
    text = templates.load(job.recipe.template, job.recipe.template_file)
    return repr(templates.render(text, asked[0].question))


def _prompts(job: RLJob, asked: Sequence[Question]) -> str:
    from megatron_octo import generation
    from megatron_octo.rl import prompts

    prepared = prompts.prepare(job.recipe, asked, generation.load_tokenizer(job.model))
    return (
        f"{prepared.kept} of at most {job.recipe.max_prompt_tokens} tokens, {prepared.dropped} longer ones dropped; "
        f"{len(prepared.sequence) / prepared.kept:.2f} epochs in {job.recipe.train_steps} steps"
    )


def _context(job: RLJob) -> str:
    from transformers import AutoConfig

    positions = AutoConfig.from_pretrained(job.model, local_files_only=True).max_position_embeddings
    needed = job.recipe.max_prompt_tokens + job.recipe.longest_response_tokens
    if needed > positions:
        raise OctoError(
            f"prompts and responses need {needed} positions, the model has {positions}; lower length_schedule or max_prompt_tokens"
        )
    return f"{needed} of the model's {positions} positions"


def _disk(job: RLJob, out: Path) -> str:
    weights = sum(file.stat().st_size for file in job.model.glob("*.safetensors"))
    parameters = weights / WEIGHT_BYTES
    models = 2 if job.recipe.critic else 1
    # One more than stay: the next is complete before the oldest goes.
    needed = int(parameters * CHECKPOINT_BYTES * models * (job.recipe.keep_checkpoints + 1) + weights)
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ResourceError(
            f"checkpoints need {units.bytes_(needed)}, {units.bytes_(free)} are free in {there}; lower keep_checkpoints"
        )
    return f"{units.bytes_(needed)} needed, {units.bytes_(free)} free"


def _openrlhf(job: RLJob) -> str:
    from megatron_octo.rl import openrlhf, openrlhf_parser

    here = Path()
    files = openrlhf.Files(
        model=job.model, prompts=here, eval_sets=here, agent=here, checkpoints=here, output=here, tensorboard=here
    )
    stages = openrlhf.stages(job.recipe)
    for stage in stages:
        openrlhf_parser.check(openrlhf.argv(job.recipe, stage, files, resume=stage.number > 0))
    return f"OpenRLHF {openrlhf_parser.installed()} accepts the {units.counted(len(stages), 'command')}"


def _attention(job: RLJob) -> str:
    assert job.recipe.placement is not None
    attention = job.recipe.placement.attention
    package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(attention)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ResourceError(
            f"{attention} needs the package {package}, which is not installed; install it, or set placement.attention=sdpa with "
            "placement.packing=false and placement.max_tokens_per_gpu=none"
        )
    return f"{attention}, packing {'on' if job.recipe.placement.packing else 'off'}"


def _gpus(job: RLJob) -> str:
    from megatron_octo.rl import openrlhf_run

    return openrlhf_run.require_gpus(job)


def _pass_rate(job: RLJob, asked: Sequence[Question], prompts: int) -> str:
    import torch

    from megatron_octo import generation
    from megatron_octo.rl.rewards import score_all

    recipe = job.recipe
    text = templates.load(recipe.template, recipe.template_file)
    tried = [question for question in asked[:prompts] for _ in range(recipe.samples_per_prompt)]
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    cap = recipe.max_response_tokens(0)
    responses = generation.generate(
        generation.load_model(job.model, dtype, device),
        generation.load_tokenizer(job.model),
        [templates.render(text, each.question) for each in tried],
        max_new_tokens=cap,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        stop_strings=recipe.stop_strings,
        seed=recipe.seed,
    )
    scores = score_all(
        Scorer(recipe.reward),
        [each.text for each in responses],
        [each.answer for each in tried],
        tokens=[len(each.token_ids) for each in responses],
        finished=[each.finished for each in responses],
        cap=cap,
    )
    rate = sum(score.correct for score in scores) / len(scores)
    cut = sum(not each.finished for each in responses) / len(responses)
    said = f"{rate:.3f} over {min(prompts, len(asked))} prompts x {recipe.samples_per_prompt}, {cut:.0%} cut off at {cap} tokens"
    if rate in (0, 1):
        raise OctoError(
            f"{said}: nothing to compare within a group; take another template, easier or harder prompts, a larger cap or another model"
        )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description="check an RL job before it runs")
    parser.add_argument("job", type=Path, help="the JSON of an RLJob")
    parser.add_argument("--out", type=Path, default=Path(), help="where the run would write")
    parser.add_argument("--probe", type=int, default=PROBE_PROMPTS, help="prompts to sample from the model; 0: none")
    given = parser.parse_args()
    failed = False
    try:
        for finding in examine(config.load(RLJob, given.job), out=given.out, probe=given.probe):
            print(finding, flush=True)
            failed = failed or not finding.passed
    except OctoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
