"""OpenRLHF's event files and our rollouts, put together; the event files are written by the real writer."""

import json
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from megatron_octo.rl import openrlhf_logs
from megatron_octo.rl.openrlhf_logs import Sampled
from megatron_octo.rl.rollouts import Rollout


def rollout(prompt: int, *, correct: bool = False, eval_set: str | None = None) -> Rollout:
    return Rollout(
        prompt=prompt, eval_set=eval_set, correct=correct, reward=1.0 if correct else -1.0, tokens=10, finished=True, boxes=1,
        repetition=0.0, timeout=False,
    )  # fmt: skip


def log(writer: SummaryWriter, step: int, time: float, kind: str = "train", **values: float) -> None:
    last = {"train": "timing/step_total", "eval": "eval_num_samples"}[kind]
    for name, value in {**values, last: 1.5}.items():
        writer.add_scalar(f"{kind}/{name}", value, step, walltime=time)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events"


def rows(events: Path, *sampled: Sampled) -> list[dict]:
    return [dict(row) for row in openrlhf_logs.rows(events, sampled)]


def test_a_step_has_the_rollouts_made_before_it_was_logged_and_after_the_one_before(events: Path) -> None:
    now = 4e9  # after the file was opened, as every real event is
    with SummaryWriter(str(events)) as writer:
        log(writer, 1, now + 10, entropy_loss=0.5, kl=0.0, ppo_clip_ratio=0.25)
        log(writer, 2, now + 20, kl=0.125)
    found = rows(
        events,
        Sampled(now + 5, rollout(0, correct=True)),
        Sampled(now + 6, rollout(0)),
        Sampled(now + 15, rollout(1, correct=True)),
    )
    assert [(row["step"], row["accuracy"], row["groups_without_spread"]) for row in found] == [(1, 0.5, 0), (2, 1, 1)]
    assert (found[0]["entropy"], found[0]["clip"], found[0]["seconds"]) == (0.5, 0.25, 1.5)
    assert (found[0]["kl"], found[1]["kl"]) == (None, 0.125)  # without a reference model it logs zero


def test_evaluations_come_after_their_step_a_row_per_set(events: Path) -> None:
    now = 4e9
    with SummaryWriter(str(events)) as writer:
        log(writer, 4, now + 10)
        log(writer, 4, now + 20, kind="eval")
        log(writer, 5, now + 30)
    found = rows(
        events,
        Sampled(now + 5, rollout(0)),
        Sampled(now + 12, rollout(0, eval_set="gsm8k", correct=True)),
        Sampled(now + 13, rollout(0, eval_set="amc23")),
        Sampled(now + 25, rollout(1)),
    )
    assert [row["step"] for row in found] == [4, 4, 4, 5]
    assert (found[1]["eval/gsm8k/accuracy"], found[2]["eval/amc23/accuracy"]) == (1, 0)


def test_a_step_of_which_only_a_part_is_on_the_disk_waits(events: Path) -> None:
    with SummaryWriter(str(events)) as writer:
        log(writer, 1, 4e9 + 10)
        writer.add_scalar("train/kl", 0.1, 2, walltime=4e9 + 20)
    found = rows(events, Sampled(4e9 + 5, rollout(0)), Sampled(4e9 + 15, rollout(1)))
    assert [row["step"] for row in found] == [1]


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    line = json.dumps({"time": 2.0, "rollout": rollout(0).__dict__}) + "\n"
    (tmp_path / "host-1.jsonl").write_text(line + line[:20])
    (tmp_path / "host-2.jsonl").write_text(line.replace("2.0", "1.0"))
    assert [each.time for each in openrlhf_logs.read_sampled(tmp_path)] == [1.0, 2.0]
