"""What would go wrong in an RL job, found before it: `python -m megatron_octo.rl.preflight JOB.json [--out OUT] [--probe K]`.

One line per check, with what to do where it fails; leaves with 1 when one did. That the numbers of the spec divide and fit is
known when the job's config loads. The probe samples K prompts from the starting model: where it solves all of them or none,
no group has anything to compare.
"""

import argparse
import importlib.util
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import config, grading_pool, process, questions, templates, units
from megatron_octo.errors import OctoError, ResourceError
from megatron_octo.questions import Question
from megatron_octo.rl import openrlhf, openrlhf_parser, ray_cluster
from megatron_octo.rl.config import Engine, RLJob
from megatron_octo.rl.rewards import Score, Scorer

PROBE_PROMPTS = 16
REWARD_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """One check: its subject, whether it passed, and what was seen or is to be done."""

    subject: str
    passed: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'} {self.subject}: {self.said}"


def examine(job: RLJob, *, out: Path, probe: int) -> Iterator[Finding]:
    """All checks, cheapest first; `out` is where the run would write, `probe` how many prompts to sample (0: none).

    What needs the model is left out where that is none.
    """
    asked = questions.read(job.prompts)
    yield _guarded("reward", lambda: _reward(job, asked))
    yield _guarded("template", lambda: _template(job, asked))
    # Its imports take seconds, and what is above needs none of them.
    from megatron_octo.rl import preflight_model

    model = _guarded("model", lambda: preflight_model.model(job))
    yield model
    if not model.passed:
        return
    yield _guarded("prompts", lambda: preflight_model.prompts(job, asked))
    yield _guarded("evaluation", lambda: preflight_model.evaluation(job))
    yield _guarded("context", lambda: preflight_model.context(job))
    yield _guarded("disk", lambda: preflight_model.disk(job, out))
    if job.recipe.engine is Engine.OPENRLHF:
        yield _guarded("openrlhf", lambda: _openrlhf(job, out))
        yield _guarded("attention", lambda: _attention(job))
        yield _guarded("gpus", lambda: ray_cluster.require_gpus(job.recipe))
    if probe:
        yield _guarded("pass rate", lambda: preflight_model.pass_rate(job, asked, probe))


def _guarded(subject: str, check: Callable[[], str]) -> Finding:
    """A check says what it saw; its error is the finding."""
    try:
        return Finding(subject, True, check())
    except OctoError as error:
        return Finding(subject, False, str(error))


def _reward(job: RLJob, asked: Sequence[Question]) -> str:
    """From a thread, as rollout workers call it: graders that use signals fail there."""
    grading_pool.start()  # neither of these answers needs math-verify, those of the run do
    scorer, answer, cap = Scorer(job.recipe.reward), asked[0].answer, job.recipe.max_response_tokens(0)
    right, wrong = (_in_thread(scorer, said, answer, cap) for said in (rf"\boxed{{{answer}}}", "I do not know"))
    if not right.correct or wrong.correct:
        raise OctoError(
            f"the gold answer {answer!r} in a box is graded {'right' if right.correct else 'wrong'} and no answer "
            f"{'right' if wrong.correct else 'wrong'}; look at the prompt set's answers"
        )
    return f"{right.reward:+g} for the gold answer, {wrong.reward:+g} for none, called from a thread"


def _in_thread(scorer: Scorer, response: str, answer: str, cap: int) -> Score:
    outcome: list[Score | OctoError] = []

    def score() -> None:
        try:
            outcome.append(scorer(response, answer, tokens=1, finished=True, cap=cap))
        except OctoError as error:
            outcome.append(error)

    thread = threading.Thread(target=score, daemon=True)
    thread.start()
    thread.join(REWARD_SECONDS)
    if not outcome:
        raise OctoError(
            f"the reward gave no score for {response!r} within {REWARD_SECONDS:.0f} s; a run would wait for it"
        )
    if isinstance(outcome[0], OctoError):
        raise outcome[0]
    return outcome[0]


def _template(job: RLJob, asked: Sequence[Question]) -> str:
    text = templates.load(job.recipe.template, job.recipe.template_file)
    return repr(templates.render(text, asked[0].question))


def _openrlhf(job: RLJob, out: Path) -> str:
    work = out.resolve()
    files = openrlhf.Files(
        model=job.model, prompts=work, eval_sets=work, agent=work, checkpoints=work, output=work, tensorboard=work
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


def main() -> int:
    parser = argparse.ArgumentParser(description="check an RL job before it runs")
    parser.add_argument("job", type=Path, help="the JSON of an RLJob")
    parser.add_argument("--out", type=Path, default=Path(), help="where the run would write")
    parser.add_argument("--probe", type=int, default=PROBE_PROMPTS, help="prompts to sample from the model; 0: none")
    given = parser.parse_args()
    return process.exit_code(lambda: _report(config.load(RLJob, given.job), out=given.out, probe=given.probe))


def _report(job: RLJob, *, out: Path, probe: int) -> int:
    failed = 0
    for finding in examine(job, out=out, probe=probe):
        print(finding, flush=True)
        failed |= not finding.passed
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
