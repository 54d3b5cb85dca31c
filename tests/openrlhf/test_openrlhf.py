"""Our OpenRLHF engine on the real OpenRLHF, Ray, vLLM and DeepSpeed, on a CPU: GRPO over two response caps, PPO, a killed run.

Nothing installed is changed on disk; what stands in for CUDA is in stand_ins/. About two minutes a command: `make test-openrlhf`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from megatron_octo import config
from megatron_octo.rl.config import Algorithm, Critic, Engine, LengthStage, ReinforcementLearning, RLJob
from megatron_octo.rl.placement import Colocation, Placement
from megatron_octo.templates import Template

sys.path.append(str(Path(__file__).parents[1] / "integration"))
import tiny_llama

SECONDS = 500
TWO_CAPS = (LengthStage(from_step=0, max_response_tokens=12), LengthStage(from_step=2, max_response_tokens=16))


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[dict[str, str]]:
    # A short path: Ray's sockets lie in it, and a socket's name has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="ray") as directory, cluster.ray_cluster(Path(directory)) as environment:
        yield environment


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers `\\boxed{0}` or `\\boxed{1}`, more or less, and the questions, whose answer is 1."""
    directory = tmp_path_factory.mktemp("data")
    tokenizer = tiny_llama.byte_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(  # heads of 32: vLLM's CPU attention refuses the 16 of tiny_llama
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=1,
        )
    )  # fmt: skip
    texts = [f"Question: {number % 7}\nAnswer: \\boxed{{{number % 2}}}" for number in range(64)]
    batch = torch.tensor([[*tokenizer(text)["input_ids"], 0] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    rows = [json.dumps({"question": str(number), "answer": "1"}) + "\n" for number in range(7)]
    (directory / "questions.jsonl").write_text("".join(rows))
    return directory


def write_job(data: Path, file: Path, *, gpus: int, **changes: object) -> Path:
    placement = Placement(
        nodes=1, gpus_per_node=gpus, colocation=Colocation.ACTOR_REF, rollout_gpus=1, gpu_memory_utilization=0.3,
        enforce_eager=True, packing=False, attention="eager", max_tokens_per_gpu=None, micro_batch_responses=4,
        gradient_checkpointing=False,
    )  # fmt: skip
    settings: dict = {
        "name": "test", "init_from": "test", "engine": Engine.OPENRLHF, "prompts": "test", "template": Template.SIMPLE,
        "prompts_per_step": 4, "samples_per_prompt": 4, "mini_batch_prompts": 2, "train_steps": 4,
        "learning_rate": 1e-3, "kl_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 32,
        "length_schedule": TWO_CAPS, "clip_epsilon": 0.2, "max_grad_norm": 1.0, "eval_interval": 2,
        "eval_sets": ("test",), "save_interval": 1, "placement": placement,
    }  # fmt: skip
    questions = data / "questions.jsonl"
    job = RLJob(
        recipe=ReinforcementLearning(**(settings | changes)),
        model=data / "model",
        prompts=questions,
        eval_sets={"test": questions},
    )
    file.write_text(config.dumps(job))
    return file


def start(environment: dict[str, str], job: Path, out: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_octo.rl.openrlhf_run", str(job), str(out)], env=environment
    )


def finish(process: "subprocess.Popen[bytes]", out: Path) -> dict:
    """The finished stage's mark."""
    assert process.wait(SECONDS) == 0
    mark: dict = json.loads((out / "stage.json").read_text())
    assert mark["done"]
    return mark


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def rollouts(out: Path) -> list[dict]:
    """Of all tries."""
    lines = [line for file in (out / "logs").rglob("rollouts/*.jsonl") for line in file.read_text().splitlines()]
    return [json.loads(line)["rollout"] for line in lines]


def assert_trained(data: Path, out: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(data / "model").state_dict()
    after = AutoModelForCausalLM.from_pretrained(out / "model").state_dict()
    assert before.keys() == after.keys()
    assert any(not after[name].equal(before[name].to(after[name].dtype)) for name in before)


def test_grpo_over_two_response_caps(ray_environment: dict[str, str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mark = finish(start(ray_environment, write_job(data, tmp_path / "job.json", gpus=2), out), out)
    assert mark["counts"]["optimizer_updates"] == 8
    found = rows(out)
    assert [row["step"] for row in found if "reward" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in found if "eval/test/accuracy" in row] == [2, 4]
    training = [each for each in rollouts(out) if each["eval_set"] is None]
    # The resumed stage drew new prompts: each of the sixteen was sampled four times, none again.
    assert Counter(each["prompt"] for each in training) == dict.fromkeys(range(16), 4)
    assert max(each["tokens"] for each in training if each["prompt"] < 8) <= 12
    assert_trained(data, out)


def test_a_longer_run_goes_on_where_the_shorter_one_ended(
    ray_environment: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """With a response cap of its own from there on, and the model of the longer run in the end."""
    out = tmp_path / "out"
    shorter = write_job(data, tmp_path / "shorter.json", gpus=2, train_steps=2, length_schedule=TWO_CAPS[:1])
    finish(start(ray_environment, shorter, out), out)
    before = (out / "model/model.safetensors").read_bytes()
    finish(start(ray_environment, write_job(data, tmp_path / "longer.json", gpus=2), out), out)
    found = rows(out)
    assert [row["step"] for row in found if "reward" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in found if "eval/test/accuracy" in row] == [2, 4]
    training = [each for each in rollouts(out) if each["eval_set"] is None]
    assert Counter(each["prompt"] for each in training) == dict.fromkeys(range(16), 4)
    assert (out / "model/model.safetensors").read_bytes() != before


def test_ppo_with_a_critic(ray_environment: dict[str, str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = write_job(
        data, tmp_path / "job.json", gpus=3, algorithm=Algorithm.PPO, critic=Critic(), train_steps=3,
        length_schedule=TWO_CAPS[:1], eval_sets=("test",), eval_interval=3,
    )  # fmt: skip
    finish(start(ray_environment, job, out), out)
    assert [row["step"] for row in rows(out) if "reward" in row] == [1, 2, 3]
    assert_trained(data, out)


def test_a_killed_run_goes_on_from_its_checkpoint(ray_environment: dict[str, str], data: Path, tmp_path: Path) -> None:
    out, job = tmp_path / "out", write_job(data, tmp_path / "job.json", gpus=2, length_schedule=TWO_CAPS[:1])
    first = start(ray_environment, job, out)
    latest = out / "openrlhf/checkpoints/_actor/latest"
    end = time.monotonic() + SECONDS
    while not latest.exists():
        assert time.monotonic() < end
        assert first.poll() is None
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(60) == 130
    finish(start(ray_environment, job, out), out)
    said = (out / "logs/openrlhf-0.log").read_text()
    assert "Loading the checkpoint" in said
    assert "Global step 4:" in said
    assert_trained(data, out)

    # Killed once more, after the model was moved to its place and before that was noted.
    mark = json.loads((out / "stage.json").read_text())
    (out / "stage.json").write_text(json.dumps(mark | {"done": False}))
    finish(start(ray_environment, job, out), out)
    assert (out / "logs/openrlhf-0.log").read_text() == said
