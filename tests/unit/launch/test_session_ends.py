"""The batch script from its first line to its last, with stand-ins for Slurm's commands and for the stage: how sessions end."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import rendered

from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript import batch, scripts
from megatron_octo.launch.jobscript.batch import BatchJob
from megatron_octo.launch.place import Kind, Place, Restart, Submitter

CPU = Place(kind=Kind.SLURM, gpus_per_node=0, cpus_per_node=2, time_limit="01:00:00")
CHECKED = dataclasses.replace(CPU, check_nodes=True)
CHAIN = dataclasses.replace(CPU, restart=Restart.CHAIN, submitter=Submitter.SBATCH)
NEVER = dataclasses.replace(CPU, restart=Restart.NEVER, submitter=Submitter.SBATCH)

SCONTROL = """#!/bin/bash
case "$1 $2" in
  "show hostnames") echo node1 ;;
  "show job") echo "   JobState=$JOB_STATE Reason=None"; echo "   ReqNodeList=(null) ExcNodeList=$EXCLUDED" ;;
  update*) echo "$@" >>"$SAID" ;;
  requeue*) echo "requeue $2" >>"$SAID"; [ -z "$REFUSE" ] || { echo "slurm_requeue error: $REFUSE"; exit 1; } ;;
esac
"""
#: State, end and time left.
SQUEUE = """#!/bin/bash
echo "$STANDS"
"""
SRUN = """#!/bin/bash
[ "$1" != --nodes=1 ] || { echo 10.0.0.1 10.0.0.2; exit; }
echo "$@" >>"$SAID"
trap : TERM # srun passes it on and waits
export SLURM_PROCID=0 SLURM_LOCALID=0
if [ "${@: -1}" = check ]; then bash "${@: -2:1}" check >"$2" 2>&1; else bash "${@: -1}"; fi
"""
#: Called as `stage -m MODULE CONFIG OUT`; what it does is in ACT.
STAGE = """#!/bin/bash
case $2 in
  *provenance) echo "provenance $3" >>"$SAID"; exit ;;
  *node.check) mkdir -p "$3"; eval "$CHECK"; exit ;;
esac
out=$4
mkdir -p "$out/checkpoints" "$out/logs"
finish() { printf '{\\n  "done": true\\n}\\n' >"$out/stage.json"; }
echo "config $3"
eval "$ACT"
"""


@dataclass
class Slurm:
    """A folder with stand-ins, and one job."""

    folder: Path
    one: BatchJob
    place: Place = CPU

    @property
    def logs(self) -> Path:
        return self.one.job.logs

    @property
    def out(self) -> Path:
        return self.one.job.out

    def environment(self, act: str, **changes: str) -> dict[str, str]:
        own = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SAID": str(self.folder / "said"), "ACT": act}
        slurm = {
            "SLURM_JOB_ID": "10017",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NTASKS": "1",
            "JOB_STATE": "RUNNING",
        }
        running = {"REFUSE": "", "CHECK": "", "EXCLUDED": "(null)", "STANDS": "RUNNING 2026-11-23T18:07:57 59:58"}
        return os.environ | own | slurm | running | changes

    def start(self, act: str, *arguments: str, **changes: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["bash", self.one.script, *arguments], env=self.environment(act, **changes), text=True, cwd=self.folder,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0,
        )  # fmt: skip

    def run(self, act: str, *arguments: str, **changes: str) -> int:
        """A session; its exit code."""
        process = self.start(act, *arguments, **changes)
        self.said, _ = process.communicate(timeout=30)
        return process.returncode

    def sessions(self, task: str = "") -> list[dict[str, object]]:
        file = self.logs / task / "sessions.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def verdicts(self) -> list[tuple[object, object, object]]:
        return [(row["session"], row["verdict"], row["exit_code"]) for row in self.sessions()]

    @property
    def reason(self) -> str:
        return str(self.sessions()[-1]["reason"])

    @property
    def requeues(self) -> int:
        said = self.folder / "said"
        return said.read_text().count("requeue 10017\n") if said.exists() else 0


def executable(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def slurm(tmp_path: Path, place: Place = CPU, job: Job | None = None, needs: Mapping[str, Path] | None = None) -> Slurm:
    own = {"scontrol": SCONTROL, "squeue": SQUEUE, "srun": SRUN, "stage": STAGE, "sleep": "#!/bin/bash\n"}
    for name, text in own.items():
        executable(tmp_path / "bin" / name, text)
    place = dataclasses.replace(place, python=str(tmp_path / "bin" / "stage"))
    job = job or rendered.stable("llama32_1b", tmp_path)
    one = dataclasses.replace(batch.prepare([job], place, None, tmp_path, tmp_path)[0], needs=needs or {})
    scripts.write(one, place)
    return Slurm(tmp_path, one, place)


ADVANCE = "mkdir $out/checkpoints/iter_$RANDOM"


def test_a_stage_that_is_done(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run("finish") == 0, job.said
    row = job.sessions()[0]
    assert set(row) == {"session", "job", "nodes", "started", "ended", "exit_code", "verdict", "reason"}
    assert (row["session"], row["job"], row["nodes"], row["verdict"], row["reason"]) == (
        0,
        "10017",
        "node[1-2]",
        "done",
        "",
    )
    assert job.requeues == 0
    assert (job.logs / "session-0" / "rank0.log").read_text() == f"config {job.logs / 'config.json'}\n"


def test_done_counts_whatever_srun_says(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run("finish; exit 143") == 0
    assert job.verdicts() == [(0, "done", 0)]


def test_a_stage_that_saved_and_left_with_0_goes_on_and_frees_no_dependent(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert [job.run(ADVANCE) for _ in range(5)] == [75] * 5
    assert job.verdicts() == [(session, "requeued", 0) for session in range(5)]
    assert job.requeues == 5
    assert job.run("finish") == 0
    assert job.verdicts()[-1] == (5, "done", 0)


def test_sessions_without_progress_are_counted(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert [job.run("exit 1") for _ in range(3)] == [75, 75, 1]
    assert job.verdicts() == [(0, "requeued", 1), (1, "requeued", 1), (2, "failed", 1)]
    assert job.reason == f"3 sessions without progress, the last left with 1; see {job.logs}/session-2"
    assert job.requeues == 2


def test_leaving_with_0_again_and_again_is_no_success(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert [job.run("true") for _ in range(3)] == [75, 75, 75]
    assert job.verdicts()[-1] == (2, "failed", 75)


def test_progress_forgives_earlier_failures(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert [job.run(act) for act in ("exit 1", "exit 1", f"{ADVANCE}; exit 1", "exit 1", "exit 1", "exit 9")] == [
        75, 75, 75, 75, 75, 9,
    ]  # fmt: skip


def test_half_written_checkpoints_and_logs_are_no_progress(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    act = (
        "mkdir $out/checkpoints/.iter_$RANDOM; echo $RANDOM >>$out/metrics.jsonl; echo x >>$out/logs/state.json; exit 1"
    )
    assert [job.run(act) for _ in range(3)] == [75, 75, 1]


def test_what_other_stages_make_is_progress(tmp_path: Path) -> None:
    job = slurm(tmp_path, job=dataclasses.replace(rendered.tokenize(tmp_path, tasks=1), always_starts=False))
    assert [job.run("echo x >>$out/shard-1.bin; exit 1") for _ in range(4)] == [75] * 4
    assert [job.run("touch $out/.stage.json.1.tmp $out/stage.json; exit 1") for _ in range(3)] == [75, 75, 1]


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run(f"{ADVANCE}; echo error: no; exit 2") == 2
    assert job.verdicts() == [(0, "failed", 2)]
    assert job.reason == f"a rank refused what it was given; its message is in {job.logs}/session-0"
    assert job.requeues == 0


def test_a_refusal_of_openrlhf_is(tmp_path: Path) -> None:
    place = dataclasses.replace(CPU, gpus_per_node=8, cpus_per_node=64)
    job = slurm(tmp_path, place, rendered.rl(tmp_path))
    assert job.run("exit 2") == 75
    assert job.verdicts() == [(0, "requeued", 2)]


def test_the_mark_of_an_earlier_run_does_not_count(tmp_path: Path) -> None:
    """A run with more tokens that fails before it replaces the mark of the shorter one."""
    job = slurm(tmp_path)
    job.out.mkdir(parents=True)
    (job.out / "stage.json").write_text('{\n  "done": true\n}\n')
    assert job.run("exit 1") == 75
    assert job.run("true") == 0


def test_a_needed_stage_that_is_not_done(tmp_path: Path) -> None:
    needs = {"stable": tmp_path / "stable"}
    job = slurm(tmp_path, needs=needs)
    needs["stable"].mkdir()
    (needs["stable"] / "stage.json").write_text('{\n  "done": false\n}\n')
    assert job.run("finish") == 76
    assert job.verdicts() == [(0, "failed", 76)]
    assert job.reason == f'needs stable, which is not done (no "done": true in {tmp_path}/stable/stage.json)'
    assert not job.out.exists()
    (needs["stable"] / "stage.json").write_text('{\n  "done": true\n}\n')
    assert job.run("finish") == 0


def test_a_save_is_not_cut_by_the_batch_script(tmp_path: Path) -> None:
    """Preempted: everybody in the job gets SIGTERM. The rank saves, and only then the job is requeued."""
    job = slurm(tmp_path)
    save = "trap 'saving=yes' TERM; touch $out/up; until [ \"$saving\" ]; do /bin/sleep 0.05; done; /bin/sleep 1.5; "
    process = job.start(save + ADVANCE)
    while not (job.out / "up").exists():
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.7)
    assert process.poll() is None
    assert job.requeues == 0
    process.communicate(timeout=20)
    assert process.returncode == 75
    assert (job.verdicts(), job.requeues) == ([(0, "requeued", 0)], 1)
    assert "and advanced" in job.reason


def test_sessions_that_died_without_a_word_count(tmp_path: Path) -> None:
    """Nodes that crash, every time."""
    job = slurm(tmp_path)
    for session in range(3):
        process = job.start("/bin/sleep 60")
        while not (job.logs / f"session-{session}" / "rank0.log").exists():
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert job.run("finish") == 75
    assert job.verdicts() == [(3, "failed", 75)]
    assert job.reason == f"3 sessions began here and ended without progress or a word; see {job.logs}"


def test_slurm_may_have_requeued_it_already(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run(ADVANCE, REFUSE="Job is pending execution", JOB_STATE="PENDING") == 75
    assert job.verdicts() == [(0, "requeued", 0)]


def test_slurm_may_refuse_to_requeue(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run(ADVANCE, REFUSE="Requested operation is presently disabled") == 75
    assert job.verdicts() == [(0, "requeued", 0), (0, "failed", 75)]
    assert (
        "refuses to requeue: slurm_requeue error: Requested operation is presently disabled; set restart: chain"
        in job.reason
    )


@pytest.mark.parametrize(
    ("stands", "verdict"),
    [
        ("COMPLETING 2026-11-23T17:07:59 59:58", ("failed", 130)),
        ("COMPLETING 2026-11-23T17:07:59 1-00:00:00", ("failed", 130)),
        ("COMPLETING 2026-11-23T18:08:12 0:00", ("requeued", 143)),
        ("COMPLETING 2026-11-23T18:08:12 INVALID", ("requeued", 143)),
        ("COMPLETING NONE 1:00:00", ("requeued", 143)),
    ],
    ids=["scancel", "scancel of a long job", "out of time", "over its time", "Slurm requeues it"],
)
def test_what_scancel_ended_stays_ended(tmp_path: Path, stands: str, verdict: tuple[str, int]) -> None:
    job = slurm(tmp_path)
    job.run(ADVANCE + "; exit 143", STANDS=stands)
    assert job.verdicts() == [(0, *verdict)]
    assert job.requeues == (verdict[0] == "requeued")


def test_a_chain_goes_on_with_its_next_copy(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHAIN)
    assert [job.run(ADVANCE, "more"), job.run("exit 1", "more"), job.run("finish", "more")] == [0, 0, 0]
    assert job.run("touch $out/started-again", "more") == 0
    assert job.run("touch $out/started-again") == 0
    assert job.verdicts() == [(0, "chained", 0), (1, "chained", 0), (2, "done", 0), (3, "done", 0), (4, "done", 0)]
    assert not (job.out / "started-again").exists()
    assert job.requeues == 0


def test_the_last_copy_of_a_chain_frees_nobody_before_the_stage_is_done(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHAIN)
    assert [job.run(ADVANCE, "more"), job.run(ADVANCE)] == [0, 75]
    assert job.reason.startswith("the last copy ended before the stage was done: left with 0")


def test_a_chain_whose_copy_gave_up(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHAIN)
    assert [job.run("exit 2", "more"), job.run("finish", "more"), job.run("finish")] == [2, 75, 75]
    assert job.verdicts()[1:] == [(1, "failed", 75), (2, "failed", 75)]
    assert job.reason.startswith("an earlier copy gave up: a rank refused")
    assert not job.out.joinpath("stage.json").exists()


def test_another_submission_forgets_how_the_last_one_ended(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHAIN)
    assert job.run("exit 2", "more") == 2
    scripts.forget(job.one)
    assert job.run("finish") == 0
    assert job.verdicts() == [(0, "failed", 2), (1, "done", 0)]


def test_a_place_without_restarts(tmp_path: Path) -> None:
    job = slurm(tmp_path, NEVER)
    assert job.run(ADVANCE) == 75
    assert job.verdicts() == [(0, "failed", 75)]
    assert "and advanced; the place says restart: never" in job.reason


def test_a_cancelled_job_does_not_come_back(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run(f"{ADVANCE}; touch {job.logs}/cancelled") == 130
    assert (job.verdicts(), job.requeues) == ([(0, "failed", 130)], 0)


def test_a_task_of_an_array_is_done_with_its_share(tmp_path: Path) -> None:
    job = slurm(tmp_path, job=rendered.tokenize(tmp_path, tasks=4))
    assert job.run("true", SLURM_ARRAY_TASK_ID="3") == 0
    assert [row["verdict"] for row in job.sessions("task00003")] == ["done"]
    log = (job.logs / "task00003" / "session-0" / "rank0.log").read_text()
    assert log == f"config {job.logs}/task00003/config.json\n"
    assert job.run("exit 1", SLURM_ARRAY_TASK_ID="0") == 75


def test_secrets_reach_the_stage_and_no_log(tmp_path: Path) -> None:
    """NeMo-Run's batch scripts write down every line they read and run."""
    (tmp_path / "octo.env").write_text("TOKEN='hunter2 $x'\nexport OTHER=hunter3\n")
    job = slurm(tmp_path, dataclasses.replace(CPU, environment_file=tmp_path / "octo.env"))
    assert job.run("[ \"$TOKEN$OTHER\" = 'hunter2 $xhunter3' ] && finish") == 0
    assert "hunter" not in job.said
    assert not [file for file in job.logs.rglob("*") if file.is_file() and "hunter" in file.read_text()]


def test_an_environment_file_that_is_not_there(tmp_path: Path) -> None:
    job = slurm(tmp_path, dataclasses.replace(CPU, environment_file=tmp_path / "octo.env"))
    assert job.run("finish") == 2
    assert job.reason.startswith(f"the environment file {tmp_path}/octo.env cannot be read on ")


#: A rank was killed besides, and srun tells the highest code.
BAD = "echo node2,node7 >$3/exclude; exit 137"


@pytest.mark.parametrize(("before", "after"), [("(null)", "node2,node7"), ("node9", "node9,node2,node7")])
def test_a_job_goes_on_without_bad_nodes(before: str, after: str, tmp_path: Path) -> None:
    job = slurm(tmp_path, CHECKED, rendered.stable("llama32_1b", tmp_path, ranks=2))
    assert job.run("finish", CHECK=BAD, EXCLUDED=before) == 75
    assert job.verdicts() == [(0, "requeued", 69)]
    assert job.reason == f"node2,node7 not fit; see {job.logs}/session-0/node_check.log"
    assert f"requeue 10017\nupdate JobId=10017 ExcNodeList={after}\n" in (tmp_path / "said").read_text()
    assert "--kill-on-bad-exit=0" in (tmp_path / "said").read_text()  # else a rank that dies takes rank 0 along
    assert not job.out.exists()
    assert job.run("finish") == 0


def test_a_bad_node_that_nobody_could_write_down(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHECKED, rendered.stable("llama32_1b", tmp_path, ranks=2))
    assert job.run("finish", CHECK="exit 69") == 75
    assert job.reason == f"a node not fit; see {job.logs}/session-0/node_check.log"
    assert "update" not in (tmp_path / "said").read_text()


def test_bad_nodes_every_time(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHECKED, rendered.stable("llama32_1b", tmp_path, ranks=2))
    assert [job.run("finish", CHECK=BAD) for _ in range(3)] == [75, 75, 69]
    assert job.reason.endswith("node_check.log, and set sbatch: {exclude: 'node2,node7'} in the place")


def test_nodes_that_no_other_nodes_mend(tmp_path: Path) -> None:
    job = slurm(tmp_path, CHECKED, rendered.stable("llama32_1b", tmp_path, ranks=2))
    assert job.run("finish", CHECK="echo $*; exit 2") == 2
    said = (job.logs / "session-0" / "node_check.log").read_text()
    assert said == f"-m megatron_octo.launch.node.check {job.logs}/session-0/nodes --hosts node1 --gpus-per-node 0\n"


@pytest.mark.parametrize(("check_nodes", "ranks", "checks"), [(True, 2, 2), (True, 1, 0), (None, 2, 0), (False, 2, 0)])
def test_who_looks_at_the_nodes(check_nodes: bool | None, ranks: int, checks: int, tmp_path: Path) -> None:
    place = dataclasses.replace(CPU, check_nodes=check_nodes)
    job = slurm(tmp_path, place, rendered.stable("llama32_1b", tmp_path, ranks=ranks))
    assert job.run("finish", CHECK="exit 2") == checks


def test_nodes_with_gpus_are_looked_at_in_the_image_of_the_stage() -> None:
    one, place = rendered.batches()["llama32_3b-8-containers"]
    line = next(line for line in scripts.setup_script(one, place).splitlines() if line.startswith("octo_check="))
    assert line.startswith(
        "octo_check=('--container-image' 'nvcr.io#nvidia/pytorch:25.09-py3' '--container-mounts' '/lustre/data"
    )
    assert line.endswith("'--mpi=none' 'bash' '/lustre/runs/llama32_3b/logs/stable/rank.sh' 'check')")
    one, place = rendered.batches()["tokenize-plain"]
    assert "\nocto_check=()\n" in scripts.setup_script(one, place)


def test_rank_0_writes_down_where_it_runs(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    job.run("finish")
    assert (tmp_path / "said").read_text().count(f"provenance {job.logs}/session-0\n") == 1


def test_what_the_ranks_are_told(tmp_path: Path) -> None:
    job = slurm(tmp_path, job=rendered.stable("llama32_1b", tmp_path, ranks=2))
    act = "echo $RANK/$WORLD_SIZE/$LOCAL_RANK $MASTER_ADDR:$MASTER_PORT $SRUN_CPUS_PER_TASK $SLURM_EXPORT_ENV; finish"
    assert job.run(act, SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="7") == 0
    assert "\n0/2/0 node1:20017 7 ALL\n" in (job.logs / "session-0" / "rank0.log").read_text()


def test_a_stage_of_one_process_is_told_of_no_ranks(tmp_path: Path) -> None:
    job = slurm(tmp_path)
    assert job.run("echo $PWD ${RANK-no} ${WORLD_SIZE-no} ${MASTER_ADDR-no}; finish") == 0
    assert f"\n{tmp_path} no no no\n" in (job.logs / "session-0" / "rank0.log").read_text()


@pytest.mark.parametrize(("given", "said"), [({}, "32"), ({"CUDA_DEVICE_MAX_CONNECTIONS": "4"}, "4")])
def test_ranks_on_gpus_start_with_what_nobody_set(given: dict[str, str], said: str, tmp_path: Path) -> None:
    job = slurm(tmp_path, dataclasses.replace(CPU, gpus_per_node=2))
    assert job.run("echo queues $CUDA_DEVICE_MAX_CONNECTIONS; finish", **given) == 0
    assert f"\nqueues {said}\n" in (job.logs / "session-0" / "rank0.log").read_text()


def test_what_would_end_every_rank_ends_the_job_first(tmp_path: Path) -> None:
    (tmp_path / "octo.env").write_text("NVTE_FUSED_ATTN=0\n")
    job = slurm(tmp_path, dataclasses.replace(CPU, environment_file=tmp_path / "octo.env"))
    assert job.run("finish", NVTE_FLASH_ATTN="1") == 2
    assert (
        job.reason
        == "NVTE_FUSED_ATTN is '0' in the job's environment, and training takes no other value than 1; unset it"
    )
    assert not job.out.exists()
    other = slurm(tmp_path, job=rendered.tokenize(tmp_path, tasks=1))
    assert other.run("finish", NVTE_FLASH_ATTN="0") == 0


@pytest.mark.parametrize("text", ['a "quoted" \\ name'])
def test_the_record_is_json_whatever_the_names(text: str, tmp_path: Path) -> None:
    job = slurm(tmp_path, needs={text: tmp_path / "absent"})
    assert job.run("finish") == 76
    assert job.reason.startswith(f"needs {text}, which is not done")
