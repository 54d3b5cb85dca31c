"""What keeps a run going, on real ranks: signals, steps that are left out, longer budgets, other layouts, branches, validation."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from ranks import Ranks

from megatron_octo import artifacts
from megatron_octo.training import lineage, state
from megatron_octo.training.blend import blend
from megatron_octo.training.config import Anomalies, MidTraining, OptimizerState, Validation
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.state import Reason

STEPS = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, ranks: Ranks) -> Path:
    root = tmp_path_factory.mktemp("running")
    tiny.write_shards(root / "shards", "prose", windows=50, seed=1, document_tokens=9)
    tiny.write_shards(root / "shards", "code", windows=7, seed=2)
    tiny.write_shards(root / "shards", "held_out", windows=9, seed=3)
    ranks.must(job(root, "whole"))
    ranks.must(job(root, "whole2", world=2))
    return root


def recipe(**changes: Any) -> MidTraining:
    return tiny.phase("phase", steps=STEPS, schedule=tiny.constant(2e-3), **changes)


def job(root: Path, name: str, *, world: int = 1, **changes: Any) -> Any:
    return tiny.job(root, name, recipe(**changes), ranks=world)


def rows(directory: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in tiny.CLOCK} for row in found]


def losses(directory: Path) -> list[float | None]:
    return [row["loss"] for row in rows(directory)]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_any_rank_saves_after_the_step_and_the_run_goes_on_as_the_unbroken_one(
    root: Path, ranks: Ranks, rank: int
) -> None:
    stopped = job(root, f"stopped{rank}", world=2)
    ended = ranks.must(stopped, prelude="sabotage:signalled", argument={"rank": rank, "step": 4})
    assert len(rows(stopped.out)) == 5
    assert (stopped.out / "checkpoints" / "latest").read_text() == "iter_0000005\n"
    assert not artifacts.read_mark(stopped.out)["done"]
    found = state.read(stopped.out)
    assert found is not None
    assert (found.reason, found.step, found.checkpoint) == (Reason.SIGNAL, 5, "iter_0000005")
    assert found.detail == ("SIGTERM" if rank == 0 else "a signal to another rank")
    assert "after step 5 of 12; saved, start it again to continue" in ended.said[0]

    ranks.must(stopped)
    assert rows(stopped.out) == rows(root / "whole2")
    assert artifacts.finished(stopped.out)["counts"]["steps"] == STEPS
    assert state.read(stopped.out).reason is Reason.FINISHED


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Parallelism(), Parallelism(overlap_grad_reduce=True, overlap_param_gather=True)])
def test_a_gradient_that_is_not_finite_is_left_out_and_its_documents_are_named(
    root: Path, ranks: Ranks, layout: Parallelism
) -> None:
    run = job(root, f"poisoned_{layout.overlap_param_gather}", world=2, parallelism=layout)
    poison = {"rank": 1, "steps": [3], "factor": "nan"}
    ended = ranks.must(run, prelude="sabotage:poisoned", argument=poison)
    assert "step 4 was left out: the gradient norm is nan" in ended.said[0]
    assert f"{root}/shards/prose/prose: documents" in ended.said[0]
    assert len((run.out / "logs" / "skipped" / "step_0000004.txt").read_text().splitlines()) == tiny.BATCH
    found, sound = rows(run.out), rows(root / "whole2")
    assert found[:3] == sound[:3]
    assert (found[3]["loss"], found[3]["grad_norm"], found[3]["skipped_steps"]) == (sound[3]["loss"], None, 1)
    # The weights stayed as they were, the batch counts as read.
    assert found[4]["loss"] != sound[4]["loss"]
    assert found[4]["tokens"] == 5 * tiny.STEP
    assert found[-1]["loss"] == pytest.approx(sound[-1]["loss"], abs=0.1)


@pytest.mark.slow
def test_a_run_whose_first_steps_are_left_out_can_be_saved_and_continued(root: Path, ranks: Ranks) -> None:
    run = job(root, "first_steps")
    poison = {"rank": 0, "steps": [0, 1, 2], "factor": "nan"}
    ranks.must(run, prelude="sabotage:poisoned_and_signalled", argument=poison)
    assert (run.out / "checkpoints" / "latest").read_text() == "iter_0000003\n"
    ranks.must(run)
    found = rows(run.out)
    assert [row["skipped_steps"] for row in found[:4]] == [1, 2, 3, 3]
    assert found[-1]["loss"] < found[0]["loss"] - 0.05


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_names_the_sequence(root: Path, ranks: Ranks) -> None:
    ended = ranks.must(job(root, "lossless"), prelude="sabotage:lossless", argument={"rank": 0, "step": 3})
    assert "step 4 was left out: the loss is nan" in ended.said[0]
    assert losses(root / "lossless")[3] is None
    assert losses(root / "lossless")[4] is not None


@pytest.mark.slow
def test_a_spike_is_left_out_also_after_a_restart(root: Path, ranks: Ranks) -> None:
    """The norms a spike is compared with come back with the checkpoint."""
    settings = Anomalies(spike_factor=5.0, window=8)
    run = job(root, "spike", anomalies=settings)
    ranks.must(run, prelude="sabotage:signalled", argument={"rank": 0, "step": 5})
    ended = ranks.must(run, prelude="sabotage:poisoned", argument={"rank": 0, "steps": [6], "factor": 50})
    assert "step 7 was left out: the gradient norm is" in ended.said[0]
    assert "more than 5 times the median" in ended.said[0]


@pytest.mark.slow
def test_too_many_of_them_end_the_run_and_more_may_be_allowed(root: Path, ranks: Ranks) -> None:
    run = job(root, "sick", world=2, anomalies=Anomalies(max_skipped_steps=1))
    poison = {"rank": 0, "steps": [4, 6], "factor": "inf"}
    ended = ranks.run(run, prelude="sabotage:poisoned", argument=poison)
    assert set(ended.codes) == {2}
    assert "this phase skipped 2 steps, anomalies.max_skipped_steps allows 1" in ended.said[0]
    found = state.read(run.out)
    assert found is not None
    assert found.reason is Reason.ANOMALIES
    assert "documents" in str(found.detail)

    tolerant = job(root, "sick", world=2, anomalies=Anomalies(max_skipped_steps=2))
    ranks.must(tolerant, prelude="sabotage:poisoned", argument=poison)
    assert rows(run.out)[-1]["skipped_steps"] == 2


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_shorter_one(root: Path, ranks: Ranks) -> None:
    short = tiny.job(root, "extended", tiny.phase("phase", steps=7, schedule=tiny.constant(2e-3)))
    ranks.must(short)
    assert len(rows(short.out)) == 7
    ranks.must(job(root, "extended"))
    assert rows(short.out) == rows(root / "whole")
    assert artifacts.finished(short.out)["counts"]["steps"] == STEPS


VIRTUAL = {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2, "overlap_p2p_comm": True}
#: World and layout of one run after the other.
MOVES = {
    "dp2_one": [(2, {}), (1, {})],
    "tp2_dp2": [(2, {"tensor_model_parallel_size": 2}), (2, {})],
    "one_pp2": [(1, {}), (2, {"pipeline_model_parallel_size": 2})],
    "one_vpp2_tp2dp2": [(1, {}), (2, VIRTUAL), (4, {"tensor_model_parallel_size": 2})],
    "cp2_tp2sp": [(2, {"context_parallel_size": 2}), (2, {"tensor_model_parallel_size": 2, "sequence_parallel": True})],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVES)
def test_a_run_goes_on_at_another_layout(root: Path, ranks: Ranks, name: str) -> None:
    model = dataclasses.replace(tiny.MODEL, num_layers=4)
    whole = job(root, "whole4", model=model)
    ranks.must(whole)
    for number, (world, layout) in enumerate(MOVES[name], start=1):
        moved = job(root, name, world=world, model=model, parallelism=Parallelism(**layout))
        # The last one is not stopped.
        ranks.must(
            moved,
            prelude="sabotage:signalled",
            argument={"rank": 0, "step": 4 * number if number < len(MOVES[name]) else -1},
        )
    assert losses(root / name) == pytest.approx(losses(whole.out), abs=1e-5)


@pytest.mark.slow
def test_a_branch_leaves_a_run_that_is_still_training_and_knows_where_it_comes_from(root: Path, ranks: Ranks) -> None:
    stable = job(root, "unfinished")
    ranks.must(stable, prelude="sabotage:signalled", argument={"rank": 0, "step": 5})
    decay = tiny.branch(recipe(), "decay", steps=3, at_step=6, state=OptimizerState.CARRY)
    ended = ranks.must(tiny.job(root, "decay", decay, parent="unfinished"))
    assert "from phase after 384 tokens (step 6)" in ended.said[0]
    assert rows(root / "decay")[0]["total_tokens"] == 7 * tiny.STEP
    longer = tiny.branch(decay, "longer", steps=2, at_step=3, state=OptimizerState.RESET)
    ranks.must(tiny.job(root, "longer", longer, parent="decay"))
    found = lineage.read(root / "longer")
    assert found is not None
    assert found.spelled == "phase after 384 tokens (step 6) -> decay after 576 tokens (step 3, optimizer reset)"
    # Going on with the parent changes nothing for its branches.
    ranks.must(stable)
    ranks.must(tiny.job(root, "decay", decay, parent="unfinished"))


@pytest.mark.slow
def test_a_branch_point_that_was_not_saved_is_refused_with_those_that_were(root: Path, ranks: Ranks) -> None:
    decay = tiny.branch(recipe(), "never", steps=3, at_step=7, state=OptimizerState.CARRY)
    ended = ranks.run(tiny.job(root, "never", decay, parent="whole"))
    assert ended.codes == (2,)
    assert "has no iter_0000007; it has: iter_0000006, iter_0000009, iter_0000012" in ended.said[0]
    assert not (root / "never").exists()


@pytest.mark.slow
def test_a_branch_outlives_its_parents_checkpoint(root: Path, ranks: Ranks) -> None:
    """The parent goes on and drops the checkpoint; the branch, finished or killed, needs it no longer."""
    parent = job(root, "moving_on", keep_checkpoints=1)
    ranks.must(parent)
    decay = tiny.branch(recipe(), "late", steps=6, at_step=STEPS, state=OptimizerState.CARRY)
    finished, stopped = (tiny.job(root, name, decay, parent="moving_on") for name in ("late", "late_stopped"))
    ranks.must(finished)
    ranks.must(stopped, prelude="sabotage:signalled", argument={"rank": 0, "step": 2})
    longer = tiny.phase("phase", steps=STEPS + 3, schedule=tiny.constant(2e-3), keep_checkpoints=1)
    ranks.must(tiny.job(root, "moving_on", longer))
    assert not (parent.out / "checkpoints" / "iter_0000012").exists()
    assert artifacts.is_finished(finished.out, config=finished.config)
    for late in (finished, stopped):
        ranks.must(late)
    assert rows(stopped.out) == rows(finished.out)


@pytest.mark.slow
def test_a_branch_of_another_run_is_refused(root: Path, ranks: Ranks) -> None:
    stranger = tiny.phase("stranger", steps=6, schedule=tiny.constant(2e-3))
    ranks.must(tiny.job(root, "stranger", stranger))
    decay = tiny.branch(recipe(), "lost", steps=3, at_step=6, state=OptimizerState.CARRY)
    ended = ranks.run(tiny.job(root, "lost", decay, parent="stranger"))
    assert ended.codes == (2,)
    assert f"lost leaves 'phase', and {root}/stranger holds the run 'stranger'" in ended.said[0]


@pytest.mark.slow
def test_a_branch_with_larger_batches_leaves_at_the_same_tokens(root: Path, ranks: Ranks) -> None:
    decay = tiny.branch(recipe(), "larger", steps=6, at_step=6, state=OptimizerState.CARRY)
    larger = dataclasses.replace(decay, global_batch_size=2 * tiny.BATCH)
    ended = ranks.must(tiny.job(root, "larger", larger, parent="whole"))
    assert "from phase after 384 tokens (step 6)" in ended.said[0]
    assert rows(root / "larger")[0]["total_tokens"] == 8 * tiny.STEP


@pytest.mark.slow
def test_what_is_refused_leaves_a_finished_run_as_it_was(root: Path, ranks: Ranks) -> None:
    capped = blend(prose=0.7, code=0.3).capped(code=3)
    ranks.must(job(root, "capped_run", blend=capped))
    before = (root / "capped_run" / "stage.json").read_bytes()
    much = tiny.phase("phase", steps=1000, schedule=tiny.constant(2e-3), blend=capped)
    assert ranks.run(tiny.job(root, "capped_run", much)).codes == (2,)
    assert (root / "capped_run" / "stage.json").read_bytes() == before


@pytest.mark.slow
def test_a_disk_too_full_for_the_metrics_loses_none_of_them(root: Path, ranks: Ranks) -> None:
    ended = ranks.must(
        job(root, "full_disk", world=2), prelude="sabotage:disk_full_for_rows", argument={"calls": [3, 4, 5]}
    )
    assert "metrics.jsonl could not be written (No space left on device)" in ended.said[0]
    assert rows(root / "full_disk") == rows(root / "whole2")


@pytest.mark.slow
def test_validation_reads_its_own_corpus_and_changes_nothing(root: Path, ranks: Ranks) -> None:
    validation = Validation(blend=blend(held_out=1.0), tokens=2 * tiny.STEP, interval_tokens=5 * tiny.STEP)
    ranks.must(job(root, "validated", world=2, validation=validation))
    found = rows(root / "validated")
    assert [row["step"] for row in found if "validation/loss" in row] == [5, 10, 12]
    assert found[4]["validation/loss"] == found[4]["validation/loss/held_out"] > 0
    trained = [{key: value for key, value in row.items() if not key.startswith("validation")} for row in found]
    assert trained == rows(root / "whole2")


@pytest.mark.slow
def test_a_corpus_that_would_repeat_too_often_is_refused_before_anything_is_made(root: Path, ranks: Ranks) -> None:
    capped = blend(prose=0.7, code=0.3).capped(code=1)
    ended = ranks.run(job(root, "capped", blend=capped))
    assert ended.codes == (2,)
    assert "max_epochs" in ended.said[0]
    assert not (root / "capped" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_times_and_rates_are_in_the_metrics(root: Path) -> None:
    row = json.loads((root / "whole2" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row.keys() >= tiny.CLOCK
    assert row["tokens_per_second"] == pytest.approx(tiny.STEP / row["seconds"])
    assert row["tokens_per_second_per_gpu"] == pytest.approx(row["tokens_per_second"] / 2)
    saves = [json.loads(line) for line in (root / "whole2" / "logs" / "checkpoints.jsonl").read_text().splitlines()]
    assert [save["step"] for save in saves] == [3, 6, 9, 12]
    assert all(0 < save["stall_seconds"] <= save["total_seconds"] for save in saves)
