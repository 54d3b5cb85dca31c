"""What a study will take, by literal numbers; and that asking changes nothing."""

import dataclasses
import json
from pathlib import Path

import pytest

from megatron_octo import artifacts, config, recipes
from megatron_octo.errors import ConfigError
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.place import Kind, Place, Restart, Submitter
from megatron_octo.launch.plan import planning, table
from megatron_octo.launch.plan.planning import Plan, PlannedStage
from megatron_octo.launch.study import graph
from megatron_octo.training.precision import Precision

PLACE = Place(kind=Kind.SLURM, gpus_per_node=8, cpus_per_node=64, time_limit="24:00:00", price_per_gpu_hour=2.5)
#: 64 GPUs together: 800,000 tokens a second.
RATE = 12_500.0


def jobs(name: str = "llama32_3b.study", out: Path = Path("out")) -> list[Job]:
    return graph.jobs(recipes.load(name), out, command="")


def planned(place: Place | None = PLACE, out: Path = Path("out")) -> Plan:
    return planning.plan(jobs(out=out), place, 8, throughput=RATE)


def stages(found: Plan) -> dict[str, PlannedStage]:
    return {stage.name: stage for stage in found.stages}


def test_training_takes_its_tokens_over_the_rate() -> None:
    stable = stages(planned())["stable"]
    # 209,715,200,000 tokens / (64 x 12,500)
    assert stable.seconds == 262_144
    assert stable.gpu_hours == pytest.approx(64 * 262_144 / 3600)
    assert (stable.on, stable.gpus) == ("8 nodes x 8 GPUs", 64)
    assert stable.sessions == 4  # of 86,400 - 180 seconds
    assert stable.remark.startswith("210B tokens at 12,500 tokens/s/GPU; ")


def test_checkpoints_that_stay() -> None:
    found = stages(planned())
    one = 14 * 3_212_749_824
    assert found["stable"].disk_bytes == 50 * one
    assert found["decay_long"].disk_bytes == 5 * one
    assert found["import"].disk_bytes == found["hf/decay_long"].disk_bytes == 2 * 3_212_749_824


def test_shards_are_what_is_read_or_what_there_is() -> None:
    found = stages(planned())
    assert found["shards/megamath_web_pro_max"].disk_bytes == 4 * 73_800_000_000
    # A tenth of the stable run, a twentieth of three branches.
    assert found["shards/dclm_baseline"].disk_bytes == pytest.approx(4 * (20_971_520_000 + 3 * 1_048_576_000))
    assert "4T are published, give a part" in found["shards/dclm_baseline"].remark
    assert "its size is not known" in found["shards/openr1_math_220k"].remark
    # 8 tasks of 16 cores at 20M tokens/s
    assert found["shards/megamath_qa"].seconds == pytest.approx(7e9 / (20e6 * 128))


def test_what_has_no_estimate_says_so_and_is_in_no_total() -> None:
    found = planned()
    rl = stages(found)["rl/decay_long/seed0"]
    assert (rl.seconds, rl.gpu_hours, rl.gpus) == (None, None, 16)
    assert rl.remark == "time not estimated: it depends on how long the answers get"
    assert "rl/decay_long/seed0" in found.without_time
    assert "stable" not in found.without_time
    known = ("stable", "decay_long", "decay_short", "decay_hybrid")
    assert found.gpu_hours == pytest.approx(sum(stages(found)[name].gpu_hours or 0 for name in known))
    text = table.as_text(found)
    assert "at least" in text
    assert "4 rl, 4 rl_eval" in text


def test_the_critical_path_goes_through_the_longest_branch_to_the_report() -> None:
    found = planned()
    assert found.critical_path == (
        "shards/megamath_web_pro_max", "stable", "decay_long", "hf/decay_long", "rl/decay_long/seed0",
        "rl_eval/decay_long/seed0", "report",
    )  # fmt: skip
    assert found.seconds == pytest.approx(73.8e9 / (20e6 * 128) + 262_144 + 26_214.4)


def test_when_each_stage_ends_at_the_earliest() -> None:
    found = stages(planned())
    tokenised = 73.8e9 / (20e6 * 128)
    assert found["shards/megamath_qa"].ends_after_seconds == found["shards/megamath_qa"].seconds
    assert found["stable"].ends_after_seconds == pytest.approx(tokenised + 262_144)
    assert found["hf/decay_short"].ends_after_seconds == pytest.approx(tokenised + 262_144 + 26_214.4)


def test_the_price() -> None:
    found = planned()
    assert found.cost == pytest.approx(2.5 * found.gpu_hours)
    unpriced = planned(dataclasses.replace(PLACE, price_per_gpu_hour=None))
    assert unpriced.cost is None
    assert "not known; set price_per_gpu_hour" in table.as_text(unpriced)


def test_a_chain_that_is_too_short_is_said() -> None:
    chain = dataclasses.replace(PLACE, restart=Restart.CHAIN, submitter=Submitter.SBATCH, copies=3)
    said = "stable: 4 sessions of 24:00:00"
    assert f"{said}, and the place allows 3: it will not be done" in table.as_text(planned(chain))
    assert f"{said}\n" in table.as_text(planned())


def test_a_derived_rate_says_where_it_comes_from() -> None:
    found = planning.plan(jobs(), PLACE, 8)
    assert "derived, not measured: 40%" in table.as_text(found)
    assert stages(found)["stable"].gpu_hours == pytest.approx(3460, rel=0.01)


def test_fp8_has_no_derived_rate() -> None:
    study = recipes.load("llama32_3b.study")
    phases = [dataclasses.replace(phase, precision=Precision.FP8) for phase in study.phases]
    fp8 = dataclasses.replace(study, stable=phases[0], branches=tuple(phases[1:]))
    found = planning.plan(graph.jobs(fp8, Path("out"), command=""), PLACE, 8)
    assert stages(found)["stable"].seconds is None
    assert "time not estimated in fp8, state a throughput" in stages(found)["stable"].remark


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="global_batch_size 512 does not divide"):
        planning.plan(jobs(), PLACE, 3)


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    text = table.as_text(planned(out=tmp_path / "study"), configs=True)
    assert list(tmp_path.iterdir()) == []
    assert "name: llama32_3b.decay_hybrid" in text


def test_stages_that_are_done_take_nothing(tmp_path: Path) -> None:
    imported = next(job for job in jobs(out=tmp_path) if job.name == "import")
    with artifacts.stage(imported.out, kind="convert", config=imported.config):
        pass
    found = stages(planned(out=tmp_path))["import"]
    assert (found.done, found.seconds, found.disk_bytes, found.remark) == (True, 0.0, 0, "done")


def test_json_holds_every_stage_and_its_resolved_config() -> None:
    found = json.loads(planning.as_json(planned()))
    by_name = {stage["name"]: stage for stage in found["stages"]}
    assert by_name["stable"]["config"]["recipe"]["train_tokens"] == 209_715_200_000
    assert by_name["stable"]["config"] == config.to_dict({job.name: job for job in jobs()}["stable"].config)
    assert by_name["report"]["needs"][-1] == "rl_eval/decay_hybrid/seed0"


def test_the_tiny_study_on_this_machine() -> None:
    found = planning.plan(jobs("tiny.study"), None, None)
    assert stages(found)["stable"].on == "2 ranks"
    assert "stable" in found.without_time
    assert "world" in found.without_disk
    assert found.gpu_hours == 0
    assert 50e6 < planning.needed_bytes(jobs("tiny.study")) < 200e6


def test_one_job_alone() -> None:
    found = planning.plan([job for job in jobs() if job.name == "stable"], PLACE, 2, throughput=RATE)
    assert (found.critical_path, found.stages[0].on) == (("stable",), "2 nodes x 8 GPUs")
