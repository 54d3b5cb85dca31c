"""What a restart from an earlier step forgets, and what a new try sets aside; files only, no Ray."""

from pathlib import Path

import pytest

from megatron_octo.errors import ConfigError
from megatron_octo.rl import openrlhf_metrics, openrlhf_run
from megatron_octo.rl.openrlhf import Files, Stage
from megatron_octo.rl.openrlhf_checkpoints import Checkpoints

STAGES = [
    Stage(number=0, first_step=0, end_step=20, cap=8),
    Stage(number=1, first_step=20, end_step=40, cap=16),
    Stage(number=2, first_step=40, end_step=60, cap=32),
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run in its third stage, with checkpoints of policy and critic."""
    for role in ("_actor", "_critic"):
        for step in (10, 20, 30, 40, 50):
            (tmp_path / "openrlhf/checkpoints" / role / f"global_step{step}").mkdir(parents=True)
        (tmp_path / "openrlhf/checkpoints" / role / "latest").write_text("global_step50")
    for stage in STAGES:
        (tmp_path / f"openrlhf/prompts-{stage.number}.jsonl").touch()
    for number in (0, 1):
        (tmp_path / f"openrlhf/stage-{number}.json").touch()
    return tmp_path


def go_back(out: Path, step: int) -> None:
    here = out / "openrlhf"
    files = {
        stage: Files(
            model=here, prompts=here / f"prompts-{stage.number}.jsonl", eval_sets=None, agent=here,
            checkpoints=here / "checkpoints", output=here, tensorboard=here,
        )
        for stage in STAGES
    }  # fmt: skip
    openrlhf_run.go_back(step, files, Checkpoints(directory=here / "checkpoints"), out)


def test_a_restart_within_a_stage_keeps_the_file_it_began_with(out: Path) -> None:
    go_back(out, 30)
    assert [(out / f"openrlhf/checkpoints/{role}/latest").read_text() for role in ("_actor", "_critic")] == [
        "global_step30"
    ] * 2
    assert sorted(path.name for path in (out / "openrlhf").glob("*.json*")) == [
        "prompts-0.jsonl", "prompts-1.jsonl", "stage-0.json",
    ]  # fmt: skip


def test_a_restart_at_a_change_of_the_cap_gives_the_new_stage_a_new_file(out: Path) -> None:
    go_back(out, 20)
    assert sorted(path.name for path in (out / "openrlhf").glob("*.json*")) == ["prompts-0.jsonl", "stage-0.json"]


def test_a_step_without_a_checkpoint_is_refused_and_nothing_is_lost(out: Path) -> None:
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match=r"restart_from=25: .* \(it has: 10, 20, 30, 40, 50\)"):
        go_back(out, 25)
    assert sorted(out.rglob("*")) == before


def test_the_logs_of_every_try_stay(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / "logs/rollouts").mkdir(parents=True)
        (tmp_path / "logs/rollouts/host-1.jsonl").write_text(f"{number}")
        openrlhf_metrics.set_aside(tmp_path / "logs")
    found = [(tmp_path / f"logs/earlier/{number}/rollouts/host-1.jsonl").read_text() for number in (0, 1)]
    assert found == ["0", "1"]
    assert not (tmp_path / "logs/rollouts").exists()
