"""OpenRLHF's event files and our rollouts, put together; the event files are written by the real writer."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from megatron_octo import jsonl
from megatron_octo.rl.openrlhf_logs import Logs
from megatron_octo.rl.rollouts import Rollout

NOW = 4e9  # after the event file was opened, as every real event is


def rollout(prompt: int, *, correct: bool = False, eval_set: str | None = None) -> Rollout:
    return Rollout(
        prompt=prompt, eval_set=eval_set, correct=correct, reward=1.0 if correct else -1.0, tokens=10, finished=True, boxes=1,
        repetition=0.0, timeout=False,
    )  # fmt: skip


def log(writer: SummaryWriter, step: int, time: float, kind: str = "train", **values: float) -> None:
    last = {"train": "timing/step_total", "eval": "eval_num_samples"}[kind]
    for name, value in {**values, last: 1.5}.items():
        writer.add_scalar(f"{kind}/{name}", value, step, walltime=time)
    writer.flush()


def sample(logs: Path, *timed: tuple[float, Rollout], engine: str = "host-1") -> None:
    (logs / "rollouts").mkdir(exist_ok=True)
    jsonl.append(
        logs / "rollouts" / f"{engine}.jsonl", [{"time": time, "rollout": asdict(each)} for time, each in timed]
    )


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "events", tmp_path / "rollouts")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SummaryWriter]:
    with SummaryWriter(str(tmp_path / "events")) as writer:
        yield writer


def test_a_step_has_the_rollouts_made_before_it_was_logged_and_after_the_one_before(
    logs: Logs, writer: SummaryWriter, tmp_path: Path
) -> None:
    log(writer, 1, NOW + 10, entropy_loss=0.5, kl=0.0, ppo_clip_ratio=0.25)
    log(writer, 2, NOW + 20, kl=0.125)
    sample(tmp_path, (NOW + 15, rollout(1, correct=True)), (NOW + 6, rollout(0)))  # threads end in any order
    sample(tmp_path, (NOW + 5, rollout(0, correct=True)), engine="host-2")
    found = list(logs.new_rows())
    assert [(row["step"], row["accuracy"], row["groups_without_spread"]) for row in found] == [(1, 0.5, 0), (2, 1, 1)]
    assert (found[0]["entropy"], found[0]["clip"], found[0]["seconds"]) == (0.5, 0.25, 1.5)
    assert (found[0]["kl"], found[1]["kl"]) == (None, 0.125)  # without a reference model it logs zero


def test_evaluations_come_after_their_step_a_row_per_set(logs: Logs, writer: SummaryWriter, tmp_path: Path) -> None:
    log(writer, 4, NOW + 10)
    log(writer, 4, NOW + 20, kind="eval")
    log(writer, 5, NOW + 30)
    sample(
        tmp_path,
        (NOW + 5, rollout(0)),
        (NOW + 12, rollout(0, eval_set="gsm8k", correct=True)),
        (NOW + 13, rollout(0, eval_set="amc23")),
        (NOW + 25, rollout(1)),
    )
    found = list(logs.new_rows())
    assert [row["step"] for row in found] == [4, 4, 4, 5]
    assert (found[1]["eval/gsm8k/accuracy"], found[2]["eval/amc23/accuracy"]) == (1, 0)


def test_every_look_gives_what_is_new_and_a_step_of_which_only_a_part_is_on_the_disk_waits(
    logs: Logs, writer: SummaryWriter, tmp_path: Path
) -> None:
    assert list(logs.new_rows()) == []
    log(writer, 1, NOW + 10)
    writer.add_scalar("train/kl", 0.125, 2, walltime=NOW + 20)
    writer.flush()
    sample(tmp_path, (NOW + 5, rollout(0)), (NOW + 15, rollout(1)))
    assert [row["step"] for row in logs.new_rows()] == [1]
    assert list(logs.new_rows()) == []
    sample(tmp_path, (NOW + 16, rollout(1, correct=True)))
    log(writer, 2, NOW + 20)
    assert [(row["step"], row["accuracy"], row["kl"]) for row in logs.new_rows()] == [(2, 0.5, 0.125)]


def test_the_next_command_of_a_run_logs_to_a_file_of_its_own(logs: Logs, tmp_path: Path) -> None:
    for step in (1, 2):
        sample(tmp_path, (NOW + 10 * step - 5, rollout(step)), engine=f"host-{step}")
        with SummaryWriter(str(tmp_path / "events"), filename_suffix=f".{step}") as writer:
            log(writer, step, NOW + 10 * step)
        assert [row["step"] for row in logs.new_rows()] == [step]
