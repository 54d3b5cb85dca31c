"""How far an OpenRLHF run has come, what a restart forgets, and what a new try sets aside."""

from collections.abc import Callable
from pathlib import Path

import pytest
import rl_recipes

from megatron_octo.errors import ConfigError, OctoError
from megatron_octo.rl import openrlhf, openrlhf_metrics
from megatron_octo.rl.config import LengthStage, RLJob
from megatron_octo.rl.openrlhf_work import Work
from megatron_octo.rl.placement import Colocation, Placement

CAPS = tuple(LengthStage(from_step=step, max_response_tokens=8 + step) for step in (0, 20, 40))


def work(out: Path, *, train_steps: int = 60, **changes: object) -> Work:
    recipe = rl_recipes.on_openrlhf(train_steps=train_steps, length_schedule=CAPS, eval_sets=(), **changes)
    return Work(job=RLJob(recipe=recipe, model=out / "model", prompts=out / "prompts", eval_sets={}), out=out)


@pytest.fixture
def came_to(tmp_path: Path) -> Callable[[int], Path]:
    """A run that came to a step, with checkpoints of policy and critic every ten steps."""

    def made(newest: int) -> Path:
        for role in ("_actor", "_critic"):
            for step in range(10, newest + 1, 10):
                (tmp_path / "openrlhf/checkpoints" / role / f"global_step{step}").mkdir(parents=True)
            (tmp_path / "openrlhf/checkpoints" / role / "latest").write_text(f"global_step{newest}")
        for first, end in ((0, 20), (20, 40), (40, 60)):
            if first < newest:
                (tmp_path / f"openrlhf/prompts-{first}-{end}.jsonl").touch()
        return tmp_path

    return made


@pytest.fixture
def finished(came_to: Callable[[int], Path]) -> Path:
    """A run of 60 steps with its model."""
    out = came_to(60)
    end(work(out))
    return out


def end(finished: Work) -> None:
    """Its last command left a model, which was kept."""
    last = openrlhf.stages(finished.recipe)[-1]
    finished.files(last).output.mkdir()
    (finished.files(last).output / "steps").write_text(f"{last.end_step}")
    finished.note_end(last, command=["openrlhf"], log=finished.out)
    finished.keep_model()


def names(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "openrlhf").glob("*.json*"))


def left(found: Work) -> list[tuple[int, int]]:
    return [(stage.first_step, stage.end_step) for stage in found.left()]


def test_a_run_that_has_begun_nothing_has_all_stages_left(tmp_path: Path) -> None:
    assert left(work(tmp_path)) == [(0, 20), (20, 40), (40, 60)]


@pytest.mark.parametrize(
    ("newest", "expected"),
    [(10, [(0, 20), (20, 40), (40, 60)]), (20, [(20, 40), (40, 60)]), (50, [(40, 60)]), (60, [(40, 60)])],
)
def test_stages_are_left_from_the_newest_checkpoint_on(
    came_to: Callable[[int], Path], newest: int, expected: list[tuple[int, int]]
) -> None:
    """The last one also has to write its model."""
    assert left(work(came_to(newest))) == expected


def test_a_finished_run_has_nothing_left(finished: Path) -> None:
    assert left(work(finished)) == []


def test_a_longer_run_has_the_steps_that_are_new(finished: Path) -> None:
    longer = work(finished, train_steps=80)
    assert left(longer) == [(40, 80)]
    (finished / "openrlhf/checkpoints/_actor/latest").write_text("global_step80")
    end(longer)
    assert (left(longer), (finished / "model/steps").read_text()) == ([], "80")


def test_a_longer_run_of_one_whose_checkpoints_are_gone_is_refused(finished: Path) -> None:
    (finished / "openrlhf/checkpoints/_actor/latest").unlink()
    with pytest.raises(ConfigError, match=r"has made 60 steps and .* has no checkpoint to go on from"):
        work(finished, train_steps=80).require_resumable()


def test_checkpoints_of_another_number_of_gpus_are_refused(came_to: Callable[[int], Path]) -> None:
    out = came_to(20)
    for rank in range(8):
        (out / f"openrlhf/checkpoints/_actor/global_step20/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    work(out, placement=Placement(engine_tensor_parallel_size=2)).require_resumable()
    with pytest.raises(
        ConfigError, match=r"the policy had 8 GPUs when .* step 20 was saved, and its placement now gives it 16"
    ):
        work(out, placement=Placement(nodes=2)).require_resumable()


def test_a_model_that_was_moved_before_a_kill_is_found_again(finished: Path) -> None:
    again = work(finished)
    assert again.trained_model == finished / "model"
    again.keep_model()
    assert (finished / "model/steps").read_text() == "60"


def test_the_model_that_a_killed_longer_run_was_writing_is_not_taken(finished: Path) -> None:
    (finished / "openrlhf/model-80").mkdir()
    assert work(finished).trained_model == finished / "model"
    work(finished).forget_models()
    assert not (finished / "openrlhf/model-80").exists()


def test_a_command_that_ends_too_early_is_an_error(came_to: Callable[[int], Path]) -> None:
    early = work(came_to(40))
    last = openrlhf.stages(early.recipe)[-1]
    with pytest.raises(OctoError, match="ended without an error after step 40 of 60; see train"):
        early.note_end(last, command=[], log=Path("train"))
    assert left(early) == [(40, 60)]


def test_how_far_a_command_came_is_known_at_saved_steps_only(came_to: Callable[[int], Path]) -> None:
    found = work(came_to(40), train_steps=49)
    assert found.reached == 40
    found.note_end(openrlhf.stages(found.recipe)[-1], command=[], log=Path())
    assert (left(found), found.reached) == ([], 49)


def test_runs_that_draw_prompts_they_do_not_train_on_may_make_fewer_steps(came_to: Callable[[int], Path]) -> None:
    asynchronous = Placement(colocation=Colocation.ACTOR_REF, rollout_gpus=4, asynchronous=True)
    found = work(came_to(40), placement=asynchronous)
    found.note_end(openrlhf.stages(found.recipe)[-1], command=[], log=Path())
    assert left(found) == []


def test_a_restart_within_a_stage_keeps_the_file_it_began_with(finished: Path) -> None:
    work(finished).go_back(30)
    checkpoints = finished / "openrlhf/checkpoints"
    assert [(checkpoints / role / "latest").read_text() for role in ("_actor", "_critic")] == ["global_step30"] * 2
    assert names(finished) == ["prompts-0-20.jsonl", "prompts-20-40.jsonl"]
    assert left(work(finished)) == [(20, 40), (40, 60)]


def test_a_restart_at_a_change_of_the_cap_gives_the_new_stage_a_new_file(finished: Path) -> None:
    work(finished).go_back(20)
    assert names(finished) == ["prompts-0-20.jsonl"]


def test_a_restart_of_a_longer_run_keeps_the_end_of_the_shorter_one(finished: Path) -> None:
    work(finished, train_steps=80).go_back(60)
    assert "trained-60.json" in names(finished)


def test_a_step_without_a_checkpoint_is_refused_and_nothing_is_lost(finished: Path) -> None:
    before = sorted(finished.rglob("*"))
    with pytest.raises(ConfigError, match=r"restart_from=25: .* \(it has: 10, 20, 30, 40, 50, 60\)"):
        work(finished).go_back(25)
    assert sorted(finished.rglob("*")) == before


def test_the_logs_of_every_try_stay(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / "logs/rollouts").mkdir(parents=True)
        (tmp_path / "logs/rollouts/host-1.jsonl").write_text(f"{number}")
        openrlhf_metrics.set_aside(tmp_path / "logs")
    found = [(tmp_path / f"logs/earlier/{number}/rollouts/host-1.jsonl").read_text() for number in (0, 1)]
    assert found == ["0", "1"]
    assert not (tmp_path / "logs/rollouts").exists()
