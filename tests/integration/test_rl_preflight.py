"""`doctor RECIPE` of an RL recipe: what it checks on a real model, and that a failure is the exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [f"User: {number % 7}\nAssistant: \\boxed{{{number % 2}}}" for number in range(64)]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents)


def doctor(model: Path, directory: Path, *options: str, answer: str = "1") -> subprocess.CompletedProcess[str]:
    questions = directory / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": str(number), "answer": answer}) + "\n" for number in range(7)))
    command = [
        sys.executable, "-m", "megatron_octo.cli", "doctor", "tiny.rl_long", "--model", str(model), "--prompts", str(questions),
        "--eval-set", f"test={questions}", "--out", str(directory / "rl"), *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_check_of_a_good_job_passes(model: Path, tmp_path: Path) -> None:
    caps = "max_prompt_tokens=24"  # 24 and 96 tokens fit the model's 128 positions
    done = doctor(model, tmp_path, caps, "--probe", "7")
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert said == [f"ok   {check}" for check in ("reward", "template", "prompts", "context", "disk", "pass rate")]
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
