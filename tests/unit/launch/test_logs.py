"""`logs`: which file, what a failed stage says last, and following through a start and a restart."""

import os
import threading
import time
from pathlib import Path

import pytest
import submitted

from megatron_octo.errors import ArtifactError
from megatron_octo.launch.status import logs, tracebacks

KEY_ERROR = """\
Traceback (most recent call last):
  File "run.py", line 3, in <module>
    main()
  File "data.py", line 9, in main
    tokens["x"]
KeyError: 'x'
"""
LOST_PEER = """\
step 1
Traceback (most recent call last):
  File "run.py", line 3, in <module>
    all_reduce()
RuntimeError: [gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.77.0.2]:4711
"""
CHAINED = """\
Traceback (most recent call last):
  File "a.py", line 1, in f
    g()
OSError: No space left on device

BETWEEN

Traceback (most recent call last):
  File "b.py", line 2, in <module>
    f()
SaveFailedError: iter_0000007 could not be written
"""


def shown(study: Path, stage: str = "stable", *, session: int | None = None, rank: int = 0) -> tuple[int, str]:
    said: list[str] = []
    code = logs.show(study, stage, follow=False, session=session, rank=rank, write=said.append)
    return code, "".join(said)


@pytest.fixture
def study(tmp_path: Path, squeue: Path) -> Path:
    """One stage that runs in its second session."""
    folder = tmp_path / "study"
    submitted.submit(folder, {"stable": "1", "long": "2"})
    squeue.write_text("1|RUNNING|None|node1|N/A\n2|PENDING|Dependency||N/A\n")
    for number in range(2):
        for rank in range(2):
            submitted.say(folder / "logs" / "stable", number, rank, f"session {number} rank {rank}\n")
    return folder


def test_the_newest_session_s_rank_0(study: Path) -> None:
    assert shown(study) == (0, "session 1 rank 0\n")


def test_any_other(study: Path) -> None:
    assert shown(study, session=0, rank=1) == (0, "session 0 rank 1\n")


def test_sessions_are_numbers_and_no_words(study: Path) -> None:
    submitted.say(study / "logs" / "stable", 10, 0, "the eleventh\n")

    assert shown(study) == (0, "the eleventh\n")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"session": 7}, "stable has no session 7; there are: 0, 1"),
        ({"rank": 5}, "no rank 5 in .*session-1; there are: 0, 1"),
        ({"stage": "long"}, "no rank of long has left a log: it has not started"),
    ],
)
def test_what_is_not_there(study: Path, wanted: dict[str, int], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        shown(study, **wanted)  # type: ignore[arg-type]


def test_a_failed_stage_ends_with_the_traceback_of_the_rank_that_failed_first(study: Path, squeue: Path) -> None:
    folder = study / "logs" / "stable"
    for rank, text in enumerate((LOST_PEER, "Killed\n", KEY_ERROR, LOST_PEER)):
        submitted.say(folder, 2, rank, text)
    os.utime(
        folder / "session-2" / "rank3.log", ns=(1, 1)
    )  # it fell silent first, and says of itself that it lost a peer
    submitted.session(folder, 2, "failed", "3 sessions without progress, the last left with 1")
    squeue.write_text("1|FAILED|NonZeroExitCode|node1|N/A\n")

    code, text = shown(study)

    assert code == 1
    assert text == (
        f"{LOST_PEER}\nstable failed: 3 sessions without progress, the last left with 1\n"
        f"rank 2 failed first ({folder}/session-2/rank2.log):\n{KEY_ERROR}"
    )


def test_among_equals_the_one_that_fell_silent_first(tmp_path: Path) -> None:
    for rank, seconds in enumerate((30, 10, 20)):
        file = submitted.say(tmp_path, 0, rank, KEY_ERROR)
        os.utime(file, (seconds, seconds))

    failure = tracebacks.first_failure(tmp_path / "session-0")

    assert failure is not None
    assert failure.rank == 1


@pytest.mark.parametrize(
    "between",
    [
        "The above exception was the direct cause of the following exception:",
        "During handling of the above exception, another exception occurred:",
    ],
)
def test_an_exception_is_told_with_its_cause_and_nothing_else(tmp_path: Path, between: str) -> None:
    chained = CHAINED.replace("BETWEEN", between)
    submitted.say(tmp_path, 0, 0, f"{KEY_ERROR}it went on\n{chained}left\n")

    failure = tracebacks.first_failure(tmp_path / "session-0")

    assert failure is not None
    assert "\n".join(failure.lines) + "\n" == chained


def test_no_traceback_is_no_failure(tmp_path: Path) -> None:
    submitted.say(tmp_path, 0, 0, "error: 12 GPUs do not divide\n")

    assert tracebacks.first_failure(tmp_path / "session-0") is None


def test_a_blocked_stage_says_who_blocks_it(study: Path, squeue: Path) -> None:
    squeue.write_text("1|FAILED|NonZeroExitCode|node1|N/A\n2|CANCELLED|DependencyNeverSatisfied||N/A\n")

    assert shown(study, "long") == (1, "long is blocked by stable; see 'logs stable'\n")


def test_a_job_that_ended_before_its_ranks_began_says_what_it_said(study: Path, squeue: Path) -> None:
    squeue.write_text("1|RUNNING|None|node1|N/A\n2|FAILED|NonZeroExitCode|node1|N/A\n")
    folder = study / "logs" / "long"
    submitted.session(folder, 0, "failed", "the environment file /secrets cannot be read on node1", exit_code=2)
    submitted.mark(study / "stable", done=True)
    (folder / "sbatch_study.long_2.out").write_text("".join(f"line {number}\n" for number in range(20)))

    code, text = shown(study, "long")

    assert code == 1
    assert text.startswith(
        "\nlong failed: the environment file /secrets cannot be read on node1\n"
        f"the job's last lines ({folder}/sbatch_study.long_2.out):\nline 10\n"
    )
    assert text.endswith("line 19\n")


def test_tasks_of_an_array_are_its_ranks(study: Path) -> None:
    folder = study / "logs" / "long"
    submitted.say(folder / "task00000", 0, 0, "the first\n")
    submitted.say(folder / "task00001", 0, 0, "the second, once\n")
    submitted.say(folder / "task00001", 1, 0, "the second, again\n")

    assert shown(study, "long") == (0, "the first\n")
    assert shown(study, "long", rank=1) == (0, "the second, again\n")


def test_a_stage_on_this_machine_has_its_logs_without_sessions(tmp_path: Path) -> None:
    submitted.write(tmp_path / "logs" / "stable" / "config.json", {})
    submitted.mark(tmp_path / "stable", done=True)
    (tmp_path / "logs" / "stable" / "rank1.log").write_text("rank 1\n")

    assert shown(tmp_path, rank=1) == (0, "rank 1\n")


def test_a_stage_that_failed_on_this_machine_ends_with_its_traceback(tmp_path: Path) -> None:
    submitted.write(tmp_path / "logs" / "stable" / "config.json", {})
    (tmp_path / "logs" / "stable" / "rank1.log").write_text(KEY_ERROR)

    code, text = shown(tmp_path, rank=1)

    assert code == 1
    assert text.startswith(
        f"{KEY_ERROR}\nstable stopped: run the same command again, it continues\nrank 1 failed first"
    )


def wait_until(said: list[str], end: str) -> None:
    deadline = time.monotonic() + 10
    while not "".join(said).endswith(end):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)


def answer(squeue: Path, text: str) -> None:
    """All at once: somebody asks meanwhile, and a job that Slurm does not name is over."""
    new = squeue.with_suffix(".new")
    new.write_text(text)
    new.replace(squeue)


def test_following_through_the_queue_a_start_a_requeue_and_the_end(
    tmp_path: Path, squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.02)
    study, folder = tmp_path / "study", tmp_path / "study" / "logs" / "stable"
    submitted.submit(study, {"stable": "1"})
    squeue.write_text("1|PENDING|Priority||N/A\n")
    said: list[str] = []
    codes: list[int] = []

    def follow() -> None:
        codes.append(logs.show(study, "stable", follow=True, session=None, rank=0, write=said.append, ask_seconds=0.05))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    wait_until(said, "stable waits: Priority\n")
    answer(squeue, "1|RUNNING|None|node1|N/A\n")
    file = submitted.say(folder, 0, 0, "step 1\nste")
    wait_until(said, "-- stable: session 0 --\nstep 1\n")
    with file.open("a") as stream:
        stream.write("p 2 \N{SNOWMAN}\nsaved\n")
    wait_until(said, "step 2 \N{SNOWMAN}\nsaved\n")
    with file.open("a") as stream:
        stream.write("killed in the mid")
    submitted.session(folder, 0, "requeued", "advanced", exit_code=0)
    answer(squeue, "1|PENDING|BeginTime||N/A\n")
    wait_until(said, "stable waits: BeginTime\n")
    answer(squeue, "1|RUNNING|None|node2|N/A\n")
    submitted.say(folder, 1, 0, "step 3\n")
    wait_until(said, "-- stable: session 1 --\nstep 3\n")
    with (folder / "session-1" / "rank0.log").open("a") as stream:
        stream.write("the end")
    submitted.mark(study / "stable", done=True)
    reader.join(timeout=10)

    assert codes == [0]
    assert "".join(said) == (
        "stable waits: Priority\n-- stable: session 0 --\nstep 1\nstep 2 \N{SNOWMAN}\nsaved\nstable waits: BeginTime\n"
        "killed in the mid\n-- stable: session 1 --\nstep 3\nthe end"
    )


def test_following_an_earlier_session_ends_with_it(study: Path) -> None:
    said: list[str] = []

    code = logs.show(study, "stable", follow=True, session=0, rank=1, write=said.append, ask_seconds=0.05)

    assert (code, "".join(said)) == (0, "session 0 rank 1\n")


def test_following_what_has_ended_shows_it_and_ends(study: Path, squeue: Path) -> None:
    squeue.write_text("1|FAILED|NonZeroExitCode|node1|N/A\n")
    submitted.say(study / "logs" / "stable", 1, 0, KEY_ERROR)
    said: list[str] = []

    code = logs.show(study, "stable", follow=True, session=None, rank=0, write=said.append)

    assert code == 1
    assert "".join(said).startswith(f"-- stable: session 1 --\n{KEY_ERROR}\nstable failed: ")
    assert "".join(said).endswith("KeyError: 'x'\n")
