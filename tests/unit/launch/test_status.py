"""`status` on studies as a submission, a run on this machine or a crash leaves them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import submitted

from megatron_octo import config
from megatron_octo.errors import ArtifactError, ConfigError, ResourceError
from megatron_octo.launch.status import standing, states
from megatron_octo.launch.status.pace import Pace
from megatron_octo.launch.status.states import StageStatus, State
from megatron_octo.recipes import tiny
from megatron_octo.training.config import TrainingJob

#: `local.exclusive` in a process of its own, which says when it holds the directory and lets go when its input ends.
HOLDER = """
import sys
from pathlib import Path
from megatron_octo.launch import local
with local.exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def found(study: Path) -> dict[str, tuple[str, str | None]]:
    """State and, where a stage is blocked, by whom, or else its detail."""
    return {stage.stage: (stage.state.value, stage.blocked_by or stage.detail) for stage in standing.status(study)}


def test_a_study_that_goes_on(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2", "short": "3", "report": "4"})
    submitted.mark(study / "stable", done=True)
    squeue.write_text(
        "2|RUNNING|None|node[1-2]|2026-11-23T04:00:00\n3|PENDING|Resources||2026-11-23T06:00:00\n4|PENDING|Dependency||N/A\n"
    )

    assert found(study) == {
        "stable": ("done", None),
        "long": ("running", None),
        "short": ("waiting", "Resources; expected at 2026-11-23T06:00:00"),
        "report": ("waiting", "after long, short"),
    }
    assert standing.one(study, "long").nodes == "node[1-2]"
    assert states.exit_code(standing.status(study)) == 3


def test_a_failed_stage_is_named_by_all_that_needed_it(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2", "short": "3", "report": "4"})
    submitted.mark(study / "stable", done=True)
    submitted.mark(study / "long", done=False)
    submitted.session(study / "logs" / "long", 2, "failed", "3 sessions without progress, the last left with 1")
    squeue.write_text(
        "2|FAILED|NonZeroExitCode|node1|2026-11-23T04:00:00\n3|RUNNING|None|node2|N/A\n4|CANCELLED|DependencyNeverSatisfied||N/A\n"
    )

    assert found(study) == {
        "stable": ("done", None),
        "long": ("failed", "3 sessions without progress, the last left with 1"),
        "short": ("running", None),
        "report": ("blocked", "long"),
    }
    assert states.exit_code(standing.status(study)) == 1


def test_whoever_failed_first_is_named_however_far_away(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2", "short": "3", "report": "4"})
    squeue.write_text("1|TIMEOUT|TimeLimit|node1|N/A\n2|PENDING|Dependency||N/A\n")

    assert found(study) == {
        "stable": ("failed", "Slurm says TIMEOUT (TimeLimit); 'logs' shows its last words"),
        "long": ("blocked", "stable"),
        "short": ("blocked", "stable"),
        "report": ("blocked", "stable"),
    }


def test_a_stage_whose_turn_it_is_waits_for_no_stage(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2"})
    submitted.mark(study / "stable", done=True)
    squeue.write_text("1|COMPLETED|None|node1|N/A\n2|PENDING|Dependency||N/A\n")

    assert found(study)["long"] == ("waiting", None)


@pytest.mark.usefixtures("squeue")
def test_what_slurm_forgot_is_told_by_the_files(tmp_path: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2", "short": "3", "report": "4"})
    submitted.mark(study / "stable", done=True)
    submitted.session(study / "logs" / "long", 0, "failed", "a rank refused what it was given", exit_code=2)
    submitted.write(
        study / "long" / "logs" / "state.json", {"reason": "anomalies", "detail": "step 7 was left out: loss 9"}
    )

    stages = standing.status(study)

    assert found(study) == {
        "stable": ("done", None),
        "long": ("failed", "a rank refused what it was given: step 7 was left out: loss 9"),
        "short": ("failed", "Slurm knows job 3 no more, and it never said how it ended; 'resume' submits it again"),
        "report": ("blocked", "long"),
    }
    assert (stages[1].nodes, stages[1].session) == ("node[1-2]", 0)


def test_a_session_that_requeued_is_no_end(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1"})
    submitted.session(study / "logs" / "stable", 0, "requeued", "advanced", exit_code=0)
    squeue.write_text("1|PENDING|BeginTime||2026-11-23T04:02:00\n")

    assert found(study) == {"stable": ("waiting", "BeginTime; expected at 2026-11-23T04:02:00")}


def test_a_job_that_left_with_0_and_is_not_done_has_failed(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1"})
    submitted.mark(study / "stable", done=False)
    squeue.write_text("1|COMPLETED|None|node1|2026-11-23T04:02:00\n")

    assert found(study) == {"stable": ("failed", "Slurm says COMPLETED; 'logs' shows its last words")}


@pytest.mark.usefixtures("squeue")
def test_cancelled_is_remembered_when_slurm_forgot(tmp_path: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1", "long": "2"})
    submitted.session(study / "logs" / "stable", 0, "failed", "cancelled")
    (study / "logs" / "stable" / "cancelled").touch()

    assert found(study) == {"stable": ("cancelled", "'resume' submits it again"), "long": ("blocked", "stable")}


@pytest.mark.usefixtures("squeue")
def test_an_array_is_cancelled_when_a_task_is(tmp_path: Path) -> None:
    submitted.submit(tmp_path, {"stable": "1"})
    for task in ("task00000", "task00001"):
        submitted.session(tmp_path / "logs" / "stable" / task, 0, "failed", "cancelled")
    (tmp_path / "logs" / "stable" / "task00001" / "cancelled").touch()

    assert found(tmp_path) == {"stable": ("cancelled", "'resume' submits it again")}


def test_a_chain_waits_while_its_next_copy_does(tmp_path: Path, squeue: Path) -> None:
    submitted.submit(tmp_path / "study", {"stable": "1,2,3"})
    submitted.session(tmp_path / "study" / "logs" / "stable", 0, "chained", "advanced", exit_code=0)
    squeue.write_text("1|COMPLETED|None|node1|N/A\n2|PENDING|Priority||N/A\n3|PENDING|Dependency||N/A\n")

    assert found(tmp_path / "study") == {"stable": ("waiting", "Priority")}
    assert standing.one(tmp_path / "study", "stable").job == "2"


def test_an_array_that_lost_a_task_has_failed_for_that_tasks_reason(tmp_path: Path, squeue: Path) -> None:
    study, logs = tmp_path / "study", tmp_path / "study" / "logs" / "stable"
    submitted.submit(study, {"stable": "1"})
    submitted.session(logs / "task00000", 0, "done", "", exit_code=0)
    submitted.session(logs / "task00001", 3, "failed", "task 1 found no file")
    submitted.session(logs / "task00002", 0, "done", "", exit_code=0)
    squeue.write_text("1|COMPLETED|None|node1|N/A\n1|FAILED|NonZeroExitCode|node2|N/A\n1|COMPLETED|None|node1|N/A\n")

    assert found(study) == {"stable": ("failed", "task 1 found no file")}
    assert standing.one(study, "stable").session == 3


def test_the_word_of_slurm_is_given_where_a_node_took_the_job_with_it(tmp_path: Path, squeue: Path) -> None:
    study = tmp_path / "study"
    submitted.submit(study, {"stable": "1"})
    squeue.write_text("1|NODE_FAIL|NodeDown|node1|N/A\n")

    assert found(study) == {"stable": ("failed", "Slurm says NODE_FAIL (NodeDown); 'logs' shows its last words")}


@pytest.mark.usefixtures("squeue")
def test_an_unknown_stage_gets_the_nearest_names(tmp_path: Path) -> None:
    submitted.submit(tmp_path, {"stable": "1", "long": "2"})

    with pytest.raises(ConfigError, match="no stage 'stabel'; nearest: stable"):
        standing.one(tmp_path, "stabel")


def test_a_slurm_that_does_not_answer_is_an_error_and_no_failed_stage(tmp_path: Path, squeue: Path) -> None:
    submitted.submit(tmp_path / "study", {"stable": "1"})
    squeue.unlink()

    with pytest.raises(ResourceError, match="Slurm does not answer"):
        standing.status(tmp_path / "study")


def begin(study: Path, name: str, *, done: bool | None) -> None:
    """A stage that was started here; without a mark where `done` is None."""
    submitted.write(study / "logs" / name / "config.json", {})
    if done is not None:
        submitted.mark(study / name, done=done)


def test_a_study_here_that_is_done(tmp_path: Path) -> None:
    for name in ("world", "rl/long/seed0"):
        begin(tmp_path, name, done=True)
    (tmp_path / ".lock").touch()  # it stays behind

    assert found(tmp_path) == {"world": ("done", None), "rl/long/seed0": ("done", None)}
    assert states.exit_code(standing.status(tmp_path)) == 0


def test_a_study_here_that_was_stopped(tmp_path: Path) -> None:
    begin(tmp_path, "world", done=True)
    begin(tmp_path, "stable", done=False)
    begin(tmp_path, "long", done=False)
    submitted.write(tmp_path / "long" / "logs" / "state.json", {"reason": "error", "detail": "ValueError: no"})

    assert found(tmp_path) == {
        "world": ("done", None),
        "stable": ("stopped", "run the same command again, it continues"),
        "long": ("failed", "ValueError: no"),
    }
    assert states.exit_code(standing.status(tmp_path)) == 1


def test_a_study_here_runs_while_somebody_holds_it(tmp_path: Path) -> None:
    begin(tmp_path, "world", done=True)
    begin(tmp_path, "stable", done=False)
    begin(tmp_path, "long", done=False)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        begin(tmp_path, "stable", done=False)  # this run has come as far as here
        assert found(tmp_path) == {"world": ("done", None), "stable": ("running", None), "long": ("waiting", None)}
        assert states.exit_code(standing.status(tmp_path)) == 3
    assert found(tmp_path)["stable"][0] == "stopped"


def test_one_stage_alone_is_a_study_of_one(tmp_path: Path) -> None:
    submitted.write(tmp_path / "out.logs" / "config.json", {})
    submitted.mark(tmp_path / "out", done=True)

    assert found(tmp_path / "out") == {"out": ("done", None)}


def test_a_directory_in_which_nothing_was_started_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing was started or submitted"):
        standing.status(tmp_path)


STAGES = [
    StageStatus(stage="world", state=State.DONE, job="7"),
    StageStatus(
        stage="stable", state=State.RUNNING, job="8", nodes="node[1-2]", session=1,
        pace=Pace(step=1200, steps=2400, tokens=5_000_000, loss=2.34567, tokens_per_second=40_000.0, seconds_left=75.0),
    ),
    StageStatus(stage="rl/long", state=State.RUNNING, job="9", pace=Pace(step=3, steps=40, reward=-0.5)),
    StageStatus(stage="report", state=State.BLOCKED, job="10", blocked_by="long"),
    StageStatus(stage="hf/short", state=State.WAITING, job="11", detail="after short"),
]  # fmt: skip


def test_the_table() -> None:
    assert states.as_table(STAGES).splitlines() == [
        "stage     state            job  nodes      session  step         tokens  loss           tokens/s  left",
        "world     done             7",
        "stable    running          8    node[1-2]  1        1,200/2,400  5M      2.346          40K       1m15s",
        "rl/long   running          9                        3/40                 reward -0.500",
        "report    blocked by long  10",
        "hf/short  waiting          11                                                                            after short",
    ]


def test_the_table_leaves_out_columns_without_anything() -> None:
    stages = [
        StageStatus(stage="world", state=State.DONE),
        StageStatus(stage="stable", state=State.STOPPED, detail="again"),
    ]

    assert states.as_table(stages) == "stage   state\nworld   done\nstable  stopped  again"


def test_json_is_flat_and_has_every_key() -> None:
    assert json.loads(states.as_json(STAGES))[1] == {
        "stage": "stable", "state": "running", "detail": None, "blocked_by": None, "job": "8", "nodes": "node[1-2]", "session": 1,
        "step": 1200, "steps": 2400, "tokens": 5_000_000, "loss": 2.34567, "reward": None, "tokens_per_second": 40_000.0,
        "seconds_left": 75.0,
    }  # fmt: skip


def test_a_running_stage_shows_its_pace(tmp_path: Path, squeue: Path) -> None:
    job = TrainingJob(recipe=tiny.stable(), shards=tmp_path)
    submitted.submit(tmp_path, {"stable": "1"})
    submitted.mark(tmp_path / "stable", done=False, kind="train", settings=config.to_dict(job))
    (tmp_path / "stable" / "metrics.jsonl").write_text('{"step": 5, "tokens": 10, "loss": 2.5, "seconds": 2.0}\n')
    squeue.write_text("1|RUNNING|None|node1|N/A\n")

    left = (job.recipe.train_iters - 5) * 2.0
    assert standing.one(tmp_path, "stable").pace == Pace(
        step=5, steps=job.recipe.train_iters, tokens=10, loss=2.5, seconds_left=left
    )
