"""A plan as people read it: a table of stages, then the totals and what is not in them."""

from collections.abc import Sequence

from megatron_octo import config
from megatron_octo.launch.explain.columns import Row, hours, rows, section
from megatron_octo.launch.explain.show import TOKENS_PER_SECOND_AND_CORE
from megatron_octo.launch.plan.planning import Plan, PlannedStage
from megatron_octo.units import bytes_, count, counted

#: Names of stages that a cell of the table spells out; of more it says how many.
MAX_NAMES = 2
HEADER = ("stage", "after", "on", "time", "ends after", "GPU-hours", "disk", "")


def as_text(planned: Plan, *, configs: bool = False) -> str:
    """The graph as a table, then the totals; with `configs`, every stage's resolved config as YAML."""
    parts = [_table(planned.stages), section("together", rows(_totals(planned)))]
    if configs:
        parts += [section(stage.name, config.to_yaml(stage.config).rstrip().splitlines()) for stage in planned.stages]
    return "\n\n".join(parts)


def _table(stages: Sequence[PlannedStage]) -> str:
    lines = [HEADER, *(_line(stage, stages) for stage in stages)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip()
        for line in lines
    )


def _line(stage: PlannedStage, stages: Sequence[PlannedStage]) -> tuple[str, ...]:
    return (
        stage.name,
        "all others" if len(stage.needs) == len(stages) - 1 > MAX_NAMES else grouped(stage.needs),
        stage.on,
        "?" if stage.seconds is None else hours(stage.seconds / 3600),
        hours(stage.ends_after_seconds / 3600),
        "?" if stage.gpu_hours is None else f"{stage.gpu_hours:,.0f}" if stage.gpu_hours else "-",
        "?" if stage.disk_bytes is None else bytes_(stage.disk_bytes) if stage.disk_bytes else "-",
        stage.remark,
    )


def grouped(names: Sequence[str]) -> str:
    """Stages in a few words; many of one kind as their number: `6 shards, import`."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(name.partition("/")[0], []).append(name)
    return ", ".join(
        f"{len(found)} {kind}" if len(found) > MAX_NAMES else ", ".join(found) for kind, found in kinds.items()
    )


def _totals(planned: Plan) -> list[Row]:
    least = "at least " if planned.without_time else ""
    peak = (
        f", {bytes_(planned.peak_bytes)} if all corpora are shuffled at once"
        if planned.peak_bytes > planned.disk_bytes
        else ""
    )
    return [
        ("time", f"{least}{hours(planned.seconds / 3600)}, without waiting, along\n{' -> '.join(planned.critical_path)}"),
        *([("longest stage", longest)] if (longest := _longest_stage(planned)) else []),
        ("GPU-hours", f"{least}{planned.gpu_hours:,.0f}"),
        ("price", least + _price(planned) if planned.cost is not None else _price(planned)),
        *([("not in these", grouped(planned.without_time))] if planned.without_time else []),
        ("disk", f"{'at least ' if planned.without_disk else ''}{bytes_(planned.disk_bytes)}{peak}"),
        *([("not in it", grouped(planned.without_disk))] if planned.without_disk else []),
        ("training", planned.throughput),
        ("tokenisation", f"{count(TOKENS_PER_SECOND_AND_CORE)} tokens/s and core (docs/measurements.md); file systems may be slower"),
    ]  # fmt: skip


def _longest_stage(planned: Plan) -> str | None:
    """How many time limits it takes; None where there is no limit or no estimate."""
    name, sessions = max(
        ((each.name, each.sessions or 0) for each in planned.stages), key=lambda each: each[1], default=("", 0)
    )
    if sessions == 0:
        return None
    said = f"{name}: {counted(sessions, 'session')} of {planned.time_limit}"
    if planned.sessions_allowed is not None and sessions > planned.sessions_allowed:
        return f"{said}, and the place allows {planned.sessions_allowed}: it will not be done"
    return said


def _price(planned: Plan) -> str:
    if planned.cost is None:
        return "not known; set price_per_gpu_hour in the place"
    return f"{planned.cost:,.0f} at {planned.price_per_gpu_hour:g} per GPU-hour"
