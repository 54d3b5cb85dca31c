"""`doctor RECIPE` of an RL recipe: what it checks on a real model, and that a failure is the exit code."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama
from safetensors.torch import load_file

from megatron_octo import grading_pool, recipes, units
from megatron_octo.config import override
from megatron_octo.rl import preflight
from megatron_octo.rl.config import Engine, Loss, RLJob
from megatron_octo.rl.placement import Placement


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [f"User: {number % 7}\nAssistant: \\boxed{{{number % 2}}}" for number in range(64)]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents)


def asked(directory: Path, *, answer: str = "1") -> Path:
    """A file of questions."""
    questions = directory / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": str(number), "answer": answer}) + "\n" for number in range(7)))
    return questions


def doctor(model: Path, directory: Path, *options: str, answer: str = "1") -> subprocess.CompletedProcess[str]:
    questions = asked(directory, answer=answer)
    command = [
        sys.executable, "-m", "megatron_octo.cli", "doctor", "tiny.rl_long", "--model", str(model), "--prompts", str(questions),
        "--eval-set", f"test={questions}", "--out", str(directory / "rl"), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_check_of_a_good_job_passes(model: Path, tmp_path: Path) -> None:
    caps = "max_prompt_tokens=24"  # 24 and 96 tokens fit the model's 128 positions
    done = doctor(model, tmp_path, caps, "--probe", "7")
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    checks = ("reward", "template", "model", "prompts", "evaluation", "context", "disk", "pass rate")
    assert said == [f"ok   {check}" for check in checks]
    assert done.returncode == 0
    assert not (tmp_path / "rl").exists()


@pytest.mark.parametrize(
    ("options", "answer", "failed", "message"),
    [
        (("max_prompt_tokens=24",), "1000", "pass rate", "nothing to compare within a group"),
        (("max_prompt_tokens=40", "--probe", "0"), "1", "context", "need 136 positions, the model has 128"),
        (("max_prompt_tokens=3", "--probe", "0"), "1", "prompts", "all 7 prompts are longer"),
        (("max_prompt_tokens=24", "--probe", "0", "reward.function=nowhere.py:reward"), "1", "reward", "nowhere.py"),
    ],
)
def test_what_would_go_wrong_is_named(
    model: Path, tmp_path: Path, options: tuple[str, ...], answer: str, failed: str, message: str
) -> None:
    done = doctor(model, tmp_path, *options, answer=answer)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert line.startswith(f"FAIL {failed}: ")
    assert message in line
    assert done.returncode == 1


def failures(job: RLJob, out: Path) -> dict[str, str]:
    return {found.subject: found.said for found in preflight.examine(job, out=out, probe=0) if not found.passed}


@pytest.fixture
def job(model: Path, tmp_path: Path) -> RLJob:
    recipe = override(recipes.load("tiny.rl_long"), ["max_prompt_tokens=24"])
    return RLJob(recipe=recipe, model=model, prompts=asked(tmp_path), eval_sets={"test": tmp_path / "questions.jsonl"})


def test_nothing_fails(job: RLJob, tmp_path: Path) -> None:
    assert failures(job, tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (None, None),
        ("config.json", None),
        ("model.safetensors", None),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1"),  # cloned without its large files
        ("tokenizer.json", None),
    ],
)
def test_what_is_no_model_is_named_and_what_needs_one_left_out(
    model: Path, job: RLJob, tmp_path: Path, file: str | None, text: str | None
) -> None:
    """Without a directory, without one of its files, and with another text in it."""
    lacking = tmp_path / "lacking"
    if file is not None:
        shutil.copytree(model, lacking)
        (lacking / file).unlink()
        if text is not None:
            (lacking / file).write_text(text)
    found = failures(dataclasses.replace(job, model=lacking), tmp_path)
    assert list(found) == ["model"]
    assert str(lacking) in found["model"]


def test_a_checkpoint_is_counted_in_parameters_whatever_their_precision(
    model: Path, job: RLJob, tmp_path: Path
) -> None:
    """Twelve bytes each, four times as three stay, and four in the trained model."""
    tensors = load_file(model / "model.safetensors")
    parameters = sum(tensor.numel() for tensor in tensors.values())
    said = {found.subject: found.said for found in preflight.examine(job, out=tmp_path, probe=0)}["disk"]
    assert said.startswith(units.bytes_(parameters * (12 * 4 + 4)) + " needed")


def test_an_evaluation_prompt_that_leaves_no_room_is_named(job: RLJob, tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    rows = [{"question": "1" * length, "answer": "1"} for length in (1, 30, 200)]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = failures(dataclasses.replace(job, eval_sets={"test": long}), tmp_path)
    assert list(found) == ["evaluation"]
    assert "question 3 of test" in found["evaluation"]

    long.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    said = {
        found.subject: found.said
        for found in preflight.examine(dataclasses.replace(job, eval_sets={"test": long}), out=tmp_path, probe=0)
    }
    assert said["evaluation"] == "2 questions of test, 1 longer than max_prompt_tokens"


def test_a_reward_that_fails_is_quoted(job: RLJob, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def reward(response, answer, *, correct, tokens, finished):\n    return 1 / 0\n")
    recipe = override(job.recipe, [f"reward.function={tmp_path / 'mine.py'}:reward"])
    found = failures(dataclasses.replace(job, recipe=recipe), tmp_path)
    assert list(found) == ["reward"]
    assert "ZeroDivisionError" in found["reward"]


def test_prompts_that_the_run_drops_are_not_sampled(job: RLJob, tmp_path: Path) -> None:
    rows = [{"question": "1" * 30, "answer": "1000"}] * 7 + [{"question": "1", "answer": "1"}]
    job.prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {found.subject: found.said for found in preflight.examine(job, out=tmp_path, probe=7)}
    assert " over 1 prompt x 8, " in said["pass rate"]


def test_math_verify_is_there_before_a_run_needs_it(
    job: RLJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gold answer in a box and no answer at all are graded without it."""
    (tmp_path / "math_verify.py").write_text("raise ImportError('no math-verify here')")
    monkeypatch.syspath_prepend(tmp_path)
    grading_pool._forget()
    try:
        found = failures(job, tmp_path)
    finally:
        grading_pool._forget()
    assert list(found) == ["reward"]
    assert "math-verify" in found["reward"]


def test_an_output_that_openrlhf_would_split_is_refused(job: RLJob, tmp_path: Path) -> None:
    placement = Placement(packing=False, attention="sdpa", max_tokens_per_gpu=None)
    recipe = dataclasses.replace(job.recipe, engine=Engine.OPENRLHF, loss=Loss.TOKEN_MEAN, placement=placement)
    placed = dataclasses.replace(job, recipe=recipe)
    assert list(failures(placed, tmp_path)) == ["gpus"]  # this machine has none
    found = failures(placed, tmp_path / "a,b")
    assert list(found) == ["openrlhf", "gpus"]
    assert "a,b" in found["openrlhf"]
