"""GRPO through TRL on a two-layer Llama: steps and updates, length schedule, resume after a stop, a model that loads."""

import json
from pathlib import Path

import pytest
import tiny_llama
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from megatron_octo.artifacts import read_mark
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl import run as rl_run
from megatron_octo.rl import trl
from megatron_octo.rl.config import Engine, LengthStage, ReinforcementLearning, RLJob
from megatron_octo.templates import Template

STEPS = 4
ONE_CAP = (LengthStage(from_step=0, max_response_tokens=16),)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers `\\boxed{0}` or `\\boxed{1}`, more or less, and stops."""
    documents = [f"Question: {i % 7}\nAnswer: \\boxed{{{i % 2}}}" for i in range(64)]
    return tiny_llama.make(tmp_path_factory.mktemp("model"), documents)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "questions.jsonl"
    file.write_text("".join(json.dumps({"question": str(i % 7), "answer": "1"}) + "\n" for i in range(5)))
    return file


def recipe(**changes: object) -> ReinforcementLearning:
    settings: dict = {
        "name": "test", "init_from": "test", "engine": Engine.TRL, "prompts": "test", "template": Template.SIMPLE,
        "prompts_per_step": 4, "samples_per_prompt": 4, "mini_batch_prompts": 2, "train_steps": STEPS,
        "learning_rate": 1e-3, "kl_coef": 0.0, "temperature": 1.0, "top_p": 1.0, "max_prompt_tokens": 32,
        "length_schedule": (LengthStage(from_step=0, max_response_tokens=4), LengthStage(from_step=2, max_response_tokens=16)),
        "clip_epsilon": 0.2, "max_grad_norm": 1.0, "eval_interval": 2, "eval_sets": ("test",), "save_interval": 1,
    }  # fmt: skip
    return ReinforcementLearning(**(settings | changes))


def job(model: Path, prompts: Path, **changes: object) -> RLJob:
    return RLJob(recipe=recipe(**changes), model=model, prompts=prompts, eval_sets={"test": prompts})


def rows(out: Path) -> list[dict]:
    """The metrics without the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def unbroken(model_directory: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rl") / "unbroken"
    rl_run.run(job(model_directory, prompts), out, force=False)
    return out


def test_a_step_is_a_batch_of_prompts_and_feeds_two_updates(unbroken: Path) -> None:
    counts = read_mark(unbroken)["counts"]
    assert counts["steps"] == STEPS
    assert counts["rollouts"] == STEPS * 4 * 4
    assert counts["optimizer_updates"] == STEPS * 2


def test_rows_are_one_per_step_and_one_per_evaluation(unbroken: Path) -> None:
    kinds = [(row["step"], "train" if "reward" in row else "eval") for row in rows(unbroken)]
    assert kinds == [
        (0, "eval"), (1, "train"), (2, "train"), (2, "eval"), (3, "train"), (4, "train"), (4, "eval"),
    ]  # fmt: skip


def test_the_length_cap_grows_when_the_schedule_says(unbroken: Path) -> None:
    lengths = {row["step"]: row["response_length"] for row in rows(unbroken) if "reward" in row}
    # ` \boxed{1}` and EOS are 11 tokens: nothing ends within 4.
    assert lengths[1] == lengths[2] == 4
    assert lengths[3] > 4
    truncated = {row["step"]: row["truncated"] for row in rows(unbroken) if "reward" in row}
    assert truncated[2] == 1
    assert truncated[3] < 0.5


def test_the_model_learns_and_loads(unbroken: Path, model_directory: Path) -> None:
    before, after = (LlamaForCausalLM.from_pretrained(path) for path in (model_directory, unbroken / "model"))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(unbroken / "model").eos_token == "<|end_of_text|>"
    assert AutoModelForCausalLM.from_pretrained(unbroken / "model").config.max_position_embeddings == 128
    assert not (unbroken / "checkpoints").exists()


def test_a_stopped_run_repeats_the_unbroken_one(
    unbroken: Path, model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(Exception):
        pass

    reward = trl.boxed_reward
    calls = 0

    def cut(**arguments: object) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise PowerCut
        return reward(**arguments)

    monkeypatch.setattr(trl, "boxed_reward", cut)
    with pytest.raises(PowerCut):
        rl_run.run(job(model_directory, prompts), tmp_path / "rl", force=False)
    assert not read_mark(tmp_path / "rl")["done"]
    monkeypatch.undo()
    # As if it had been killed while it wrote its newest checkpoint, after one more row.
    (tmp_path / "rl" / "checkpoints" / "checkpoint-6" / trl.TRAINER_STATE).unlink()
    rl_run.run(job(model_directory, prompts), tmp_path / "rl", force=False)
    assert rows(tmp_path / "rl") == rows(unbroken)
    assert (tmp_path / "rl/model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


def test_a_run_stopped_while_saving_its_model_is_finished(
    unbroken: Path, model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(trl, "_save", full_disk)
    with pytest.raises(OSError, match="no space"):
        rl_run.run(job(model_directory, prompts), tmp_path / "rl", force=False)
    monkeypatch.undo()
    rl_run.run(job(model_directory, prompts), tmp_path / "rl", force=False)
    assert rows(tmp_path / "rl") == rows(unbroken)
    assert (tmp_path / "rl/model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


def test_micro_batches_change_memory_not_results(model_directory: Path, prompts: Path, tmp_path: Path) -> None:
    learning = recipe(train_steps=2, length_schedule=ONE_CAP)
    for name, size in (("whole", None), ("small", 2)):
        settings = RLJob(
            recipe=learning,
            model=model_directory,
            prompts=prompts,
            eval_sets={"test": prompts},
            micro_batch_responses=size,
        )
        rl_run.run(settings, tmp_path / name, force=False)
    # Entropy is averaged over micro-batches; KL is not computed.
    whole, small = (
        [{key: value for key, value in row.items() if key not in ("entropy", "kl")} for row in rows(tmp_path / name)]
        for name in ("whole", "small")
    )
    assert [row["grad_norm"] > 0 for row in whole if "reward" in row] == [True, True]
    for ours, theirs in zip(small, whole, strict=True):
        # 1e-4: AdamW divides by its second moments, so rounding of the summed gradients shows.
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_kl_is_reported_when_it_is_in_the_loss(model_directory: Path, prompts: Path, tmp_path: Path) -> None:
    settings = job(model_directory, prompts, kl_coef=0.1, train_steps=2, length_schedule=ONE_CAP)
    rl_run.run(settings, tmp_path / "rl", force=False)
    kl = [row["kl"] for row in rows(tmp_path / "rl") if "reward" in row]
    assert kl[0] < kl[1]


def test_a_model_that_is_never_right_is_left_as_it_was_and_that_is_said(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hopeless = tmp_path / "hopeless.jsonl"
    hopeless.write_text('{"question": "3", "answer": "1000"}\n')
    out = tmp_path / "rl"
    rl_run.run(job(model_directory, hopeless, train_steps=1, length_schedule=ONE_CAP), out, force=False)
    assert read_mark(out)["counts"]["steps_with_spread"] == 0
    assert "nothing was learned" in capsys.readouterr().err


def test_weights_that_should_have_changed_and_did_not_are_an_error(
    model_directory: Path, prompts: Path, tmp_path: Path
) -> None:
    settings = job(
        model_directory, prompts, train_steps=1, length_schedule=ONE_CAP, learning_rate=1e-30
    )  # lost in fp32
    with pytest.raises(OctoError, match="the weights did not change"):
        rl_run.run(settings, tmp_path / "rl", force=False)
    assert not read_mark(tmp_path / "rl")["done"]


def test_prompts_that_need_more_positions_than_the_model_has_are_refused(
    model_directory: Path, prompts: Path, tmp_path: Path
) -> None:
    caps = (LengthStage(from_step=0, max_response_tokens=128),)
    with pytest.raises(ConfigError, match="need 160 positions, the model has 128"):
        rl_run.run(job(model_directory, prompts, length_schedule=caps), tmp_path / "rl", force=False)


def test_openrlhf_is_refused_on_one_machine(model_directory: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="engine=trl"):
        rl_run.run(job(model_directory, prompts, engine=Engine.OPENRLHF), tmp_path / "rl", force=False)
