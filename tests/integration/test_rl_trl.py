"""The TRL engine on a two-layer Llama: steps and updates, algorithms, length schedule, resume, restart, a model that loads."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from megatron_octo import jsonl
from megatron_octo.artifacts import read_mark
from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl import run as rl_run
from megatron_octo.rl import trl, trl_sampling
from megatron_octo.rl.config import Alarms, Algorithm, Engine, LengthStage, Loss, ReinforcementLearning, RLJob
from megatron_octo.rl.placement import Placement
from megatron_octo.rl.rewards import Score
from megatron_octo.rl.trl_checkpoints import TRAINER_STATE
from megatron_octo.templates import Template

STEPS = 4
ONE_CAP = (LengthStage(from_step=0, max_response_tokens=16),)


class PowerCut(Exception):
    pass


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
    return [{key: value for key, value in line.items() if not key.startswith("seconds")} for line in lines]


def sampled(out: Path) -> list[dict]:
    return list(jsonl.read(out / "logs" / "rollouts.jsonl"))


def run_until(batch: int, settings: RLJob, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, with a power cut while batch number `batch` is scored; evaluations are batches too."""
    score_all, calls = trl_sampling.score_all, itertools.count(1)

    def cut(*arguments: Any, **named: Any) -> list[Score]:
        if next(calls) == batch:
            raise PowerCut
        return score_all(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(trl_sampling, "score_all", cut)
        rl_run.run(settings, out, force=False)


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
    # Updates 4, 6 and 8: the newest three steps' checkpoints stay.
    assert sorted(path.name for path in (unbroken / "checkpoints").iterdir()) == [
        "checkpoint-4", "checkpoint-6", "checkpoint-8",
    ]  # fmt: skip


def test_a_stopped_run_repeats_the_unbroken_one(
    unbroken: Path, model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PowerCut):
        run_until(6, job(model_directory, prompts), tmp_path / "rl", monkeypatch)
    assert not read_mark(tmp_path / "rl")["done"]
    # As if it had been killed while it wrote its newest checkpoint, after one more row.
    (tmp_path / "rl" / "checkpoints" / "checkpoint-6" / TRAINER_STATE).unlink()
    rl_run.run(job(model_directory, prompts), tmp_path / "rl", force=False)
    assert rows(tmp_path / "rl") == rows(unbroken)
    assert sampled(tmp_path / "rl") == sampled(unbroken)
    assert (tmp_path / "rl/model/model.safetensors").read_bytes() == (unbroken / "model/model.safetensors").read_bytes()


def test_a_restart_goes_back_and_takes_the_tuned_learning_rate(
    model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rl"
    with pytest.raises(PowerCut):
        run_until(6, job(model_directory, prompts, length_schedule=ONE_CAP), out, monkeypatch)
    first = rows(out)
    assert first[-1]["step"] == 3
    again = job(model_directory, prompts, length_schedule=ONE_CAP, learning_rate=1e-30, keep_checkpoints=5)
    rl_run.run(replace(again, restart_from=1), out, force=False)
    assert rows(out)[:2] == first[:2]
    rates = [row["learning_rate"] for row in rows(out) if "reward" in row]
    assert rates == pytest.approx([1e-3, 1e-30, 1e-30, 1e-30])  # so small a rate is lost in fp32
    before, after = (
        LlamaForCausalLM.from_pretrained(path) for path in (out / "checkpoints/checkpoint-2", out / "model")
    )
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_a_restart_that_is_stopped_and_run_again_goes_on(
    model_directory: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "rl"
    with pytest.raises(PowerCut):
        run_until(6, job(model_directory, prompts), out, monkeypatch)
    again = replace(job(model_directory, prompts, learning_rate=2e-3), restart_from=1)
    with pytest.raises(PowerCut):
        run_until(3, again, out, monkeypatch)  # step 2, its evaluation, and no further than step 3
    made = (out / "checkpoints/checkpoint-4/model.safetensors").stat()
    rl_run.run(again, out, force=False)
    assert "an earlier try with this recipe went back to step 1" in capsys.readouterr().err
    assert (out / "checkpoints/checkpoint-4/model.safetensors").stat().st_mtime_ns == made.st_mtime_ns
    assert [row["learning_rate"] for row in rows(out) if "reward" in row] == [1e-3, 2e-3, 2e-3, 2e-3]


def test_a_restart_from_a_step_that_is_gone_names_those_that_are_kept(
    model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rl"
    with pytest.raises(PowerCut):
        run_until(6, job(model_directory, prompts), out, monkeypatch)
    with pytest.raises(ConfigError, match=r"restart_from=7: .* \(it has: 1, 2, 3\)"):
        rl_run.run(replace(job(model_directory, prompts), restart_from=7), out, force=False)
    assert max(row["step"] for row in rows(out)) == 3


def test_a_restart_of_a_finished_run_without_a_change_is_refused_aloud(
    unbroken: Path, model_directory: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(unbroken)
    rl_run.run(replace(job(model_directory, prompts), restart_from=2), unbroken, force=False)
    assert "restart_from is ignored" in capsys.readouterr().err
    assert rows(unbroken) == before


def test_metrics_are_in_tensorboard_too(unbroken: Path) -> None:
    assert [file.name.startswith("events.out") for file in (unbroken / "logs" / "tensorboard").iterdir()] == [True]


def test_every_sampled_response_is_noted(unbroken: Path) -> None:
    found = sampled(unbroken)
    assert len(found) == STEPS * 4 * 4 + 3 * 5  # and three evaluations of five questions
    assert [each["prompt"] for each in found if each["eval_set"] is None][:6] == [0, 0, 0, 0, 1, 1]
    assert max(each["prompt"] for each in found if each["eval_set"] is None) == STEPS * 4 - 1


def test_a_longer_run_goes_on_where_the_shorter_one_ended(
    unbroken: Path, model_directory: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rl"
    rl_run.run(job(model_directory, prompts, train_steps=2), out, force=False)
    rl_run.run(job(model_directory, prompts), out, force=False)
    assert rows(out) == rows(unbroken)


def test_a_shorter_run_than_it_has_come_to_is_refused(model_directory: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "rl"
    rl_run.run(job(model_directory, prompts, train_steps=2, length_schedule=ONE_CAP), out, force=False)
    with pytest.raises(ConfigError, match="has come to step 2 and train_steps is 1"):
        rl_run.run(job(model_directory, prompts, train_steps=1, length_schedule=ONE_CAP), out, force=False)


def test_an_alarm_is_said_and_written_down(
    model_directory: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rl"
    # Nothing ends within four tokens, from the first step on.
    rl_run.run(job(model_directory, prompts, alarms=Alarms(window_steps=1)), out, force=False)
    alarms = [json.loads(line) for line in (out / "alarms.jsonl").read_text().splitlines()]
    assert ("truncation", None) in [(alarm["kind"], alarm["restart_from"]) for alarm in alarms]
    assert capsys.readouterr().err.count("truncation:") == 1


# A group's rewards 1, 0, 0, 1 and a batch of two such groups: with 0, 0, 0, 4 as the other.
@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # Mean 1/2, deviation sqrt(1/3); mean 1, deviation 2.
        (Algorithm.GRPO, [0.8660, -0.8660, -0.8660, 0.8660, -0.5, -0.5, -0.5, 1.5]),
        (Algorithm.DR_GRPO, [0.5, -0.5, -0.5, 0.5, -1, -1, -1, 3]),
        # Less the mean of the other three: 1 - 1/3, 0 - 2/3; 0 - 4/3, 4 - 0.
        (Algorithm.RLOO, [2 / 3, -2 / 3, -2 / 3, 2 / 3, -4 / 3, -4 / 3, -4 / 3, 4]),
        # Batch deviation of 1, 0, 0, 1, 0, 0, 0, 4 around 3/4: sqrt(13.5 / 7) = 1.38873.
        (Algorithm.REINFORCE_PLUS_PLUS_BASELINE, [0.36, -0.36, -0.36, 0.36, -0.72, -0.72, -0.72, 2.16]),
    ],
)
def test_advantages_are_those_of_the_algorithm(
    algorithm: Algorithm,
    expected: list[float],
    model_directory: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rewards(_: object, responses: list[str], *__: object, **___: object) -> list[Score]:
        values = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 4.0][: len(responses)]
        return [Score(correct=value > 0, reward=value, boxes=1, repetition=0.0, timeout=False) for value in values]

    monkeypatch.setattr(trl_sampling, "score_all", rewards)
    seen: list[float] = []
    advantages_of = trl._Trainer._generate_and_score_completions

    def noted(trainer: Any, inputs: Any) -> Any:
        batch = advantages_of(trainer, inputs)
        seen.extend(batch["advantages"].tolist())
        return batch

    monkeypatch.setattr(trl._Trainer, "_generate_and_score_completions", noted)
    settings = job(
        model_directory, prompts, algorithm=algorithm, train_steps=1, prompts_per_step=2, length_schedule=ONE_CAP
    )
    rl_run.run(settings, tmp_path / "rl", force=False)
    assert seen == pytest.approx(expected, abs=1e-3)  # TRL adds 1e-4 to what it divides by


def test_a_fixed_length_loss_divides_by_the_cap_of_the_step(
    model_directory: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    divisors = []
    compute_loss = trl._Trainer.compute_loss

    def noted(trainer: Any, *arguments: Any, **named: Any) -> Any:
        divisors.append(trainer.max_completion_length)
        return compute_loss(trainer, *arguments, **named)

    monkeypatch.setattr(trl._Trainer, "compute_loss", noted)
    rl_run.run(job(model_directory, prompts, loss=Loss.FIXED_LENGTH), tmp_path / "rl", force=False)
    assert divisors == [4, 4, 4, 4, 16, 16, 16, 16]  # two updates per step


@pytest.mark.parametrize(
    ("loss", "named"),
    [(Loss.TOKEN_MEAN, "dapo"), (Loss.SEQUENCE_MEAN, "grpo"), (Loss.FIXED_LENGTH, "dr_grpo")],
)
def test_the_recipe_in_the_words_of_trl(loss: Loss, named: str, prompts: Path, tmp_path: Path) -> None:
    settings = job(tmp_path, prompts, loss=loss, clip_epsilon_high=0.28, keep_checkpoints=1)
    arguments = trl.arguments(settings, tmp_path)
    assert arguments.loss_type == named
    assert (arguments.epsilon, arguments.epsilon_high) == (0.2, 0.28)
    assert arguments.save_total_limit == 2  # a kill may cut the newer one


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
    # Entropy and clip shares are averaged over micro-batches; KL is not computed.
    averaged = ("entropy", "kl", "clip_low", "clip_high", "clip")
    whole, small = (
        [{key: value for key, value in row.items() if key not in averaged} for row in rows(tmp_path / name)]
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
    placement = Placement(nodes=1, gpus_per_node=8)
    settings = job(model_directory, prompts, engine=Engine.OPENRLHF, placement=placement, save_interval=2)
    with pytest.raises(ConfigError, match="set engine=trl"):
        rl_run.run(settings, tmp_path / "rl", force=False)
