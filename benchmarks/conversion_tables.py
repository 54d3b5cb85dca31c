"""The conversion benchmark's figures as Markdown: a row for every command and case, then every ratio with its bar."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from own_memory import Process

OURS, UNHASHED = "ours", "ours without its sha256"
ALLOCATING, COPY, COPY_AND_HASH = "allocate, load, reshape, save", "cp", "cp + sha256"
CPU_BAR, WALL_BAR, MEMORY_BAR_MIB = 1 / 6, 1.3, 400
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Turn:
    process: Process
    #: Share of the source's bytes in the page cache when it began.
    cached: float
    #: What the command says of itself.
    seconds: dict[str, float]


@dataclass(kw_only=True)
class Case:
    """A shape, direction, layout of the source and state of the cache; the turns of every command."""

    shape: str
    direction: str
    layout: str
    cache: str
    model_bytes: int
    #: Commands that were not run, and why.
    left_out: dict[str, str]
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    #: Whether both converters made the same tensors; None where there was one only.
    equal: bool | None = None

    @property
    def name(self) -> str:
        return f"{self.shape} {self.direction} {self.layout}".strip()

    def middle(self, command: str, number: Callable[[Turn], float]) -> float:
        """Median over the turns; not a number for a command that was left out."""
        turns = self.turns.get(command)
        return statistics.median(map(number, turns)) if turns else float("nan")


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    tensors: int
    tensors_equal: bool
    config_equal: bool


def wall(turn: Turn) -> float:
    return turn.process.wall


def cpu(turn: Turn) -> float:
    return turn.process.cpu


def own_mib(turn: Turn) -> float:
    return turn.process.own_bytes / MIB


def resident_mib(turn: Turn) -> float:
    return turn.process.resident_bytes / MIB


def header(directory: Path, rounds: int, max_shard_bytes: int) -> str:
    memory = psutil.virtual_memory()
    return (
        f"# Conversion\n\n"
        f"- {platform.machine()}, {os.cpu_count()} cores, {memory.total / 2**30:.0f} GiB of memory; Python {platform.python_version()}; "
        f"load {os.getloadavg()[0]:.1f} at the beginning\n"
        f"- {_filesystem(directory)}; files of at most {max_shard_bytes / 1e9:g} GB\n"
        f"- {rounds} turns of every command, in turns on the same files; medians (least to most)\n"
        f"- warm: the source is read through just before; cold: it is thrown out of the page cache, the programs are not. "
        f"What of it was in the cache when a command began stands beside; caches below the file system are left alone\n"
        f"- own memory: anonymous and shared, sampled every 20 ms; resident: with mapped files (`ru_maxrss`)"
    )


def _filesystem(directory: Path) -> str:
    mounts = [
        found for found in psutil.disk_partitions(all=True) if directory.resolve().is_relative_to(found.mountpoint)
    ]
    return max(mounts, key=lambda found: len(found.mountpoint)).fstype if mounts else "unknown file system"


def report(cases: Sequence[Case], trip: RoundTrip) -> str:
    """All tables of one shape."""
    left_out = {f"- {name}: left out, {why}" for case in cases for name, why in case.left_out.items()}
    verdicts = [_verdict(case) for case in cases]
    parts = [_commands(cases), "\n".join(sorted(left_out)), _ratios(verdicts), _parts(cases), _round_trip(trip)]
    return "\n\n".join(part for part in parts if part)


def all_met(cases: Sequence[Case], trip: RoundTrip) -> bool:
    """Whether every bar was met and every output right."""
    return all(_verdict(case).met for case in cases) and trip.tensors_equal and trip.config_equal


def memory(cases: Sequence[Case]) -> str:
    """Most that each command held at each size, whatever the direction, layout and cache."""
    commands = list(dict.fromkeys(command for case in cases for command in case.turns))
    sizes = {case.shape: case.model_bytes for case in cases}
    rows = (
        [shape, f"{size / 1e9:.2f}", *(_most(cases, shape, command) for command in commands)]
        for shape, size in sizes.items()
    )
    return _table(["own MiB, most of all turns", "GB", *commands], rows)


def _most(cases: Sequence[Case], shape: str, command: str) -> str:
    turns = [turn for case in cases if case.shape == shape for turn in case.turns.get(command, [])]
    return f"{max(map(own_mib, turns)):.0f}" if turns else "left out"


def _commands(cases: Sequence[Case]) -> str:
    head = ["", "GB", "source", "in cache", "command", "wall s", "CPU s", "own MiB", "resident MiB"]
    return _table(head, (_command_row(case, command) for case in cases for command in case.turns))


def _command_row(case: Case, command: str) -> list[str]:
    turns = case.turns[command]
    cached = case.middle(command, lambda turn: turn.cached)
    return [
        case.name, f"{case.model_bytes / 1e9:.2f}", case.cache, f"{cached:.0%}", command, _spread(turns, wall, ".2f"),
        _spread(turns, cpu, ".2f"), f"{max(map(own_mib, turns)):.0f}", f"{max(map(resident_mib, turns)):.0f}",
    ]  # fmt: skip


def _spread(turns: Sequence[Turn], number: Callable[[Turn], float], form: str) -> str:
    values = [number(turn) for turn in turns]
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    case: Case
    cpu_ratio: float
    wall_ratio: float
    own_mib: float

    @property
    def met(self) -> bool:
        """A ratio without its peer is no number and misses no bar."""
        missed = self.cpu_ratio > CPU_BAR or self.wall_ratio > WALL_BAR or self.own_mib > MEMORY_BAR_MIB
        return not missed and self.case.equal is not False


def _verdict(case: Case) -> Verdict:
    return Verdict(
        case=case,
        cpu_ratio=case.middle(OURS, cpu) / case.middle(ALLOCATING, cpu),
        wall_ratio=case.middle(OURS, wall) / case.middle(COPY, wall),
        own_mib=max(map(own_mib, case.turns[OURS])),
    )


def _ratios(verdicts: Sequence[Verdict]) -> str:
    head = [
        "ours", "source", f"CPU / {ALLOCATING}", "CPU / that without its imports", "bar", "CPU of the copying alone / that", "bar", "CPU / cp", "wall / cp", "bar",
        f"wall / {COPY_AND_HASH}", "own MiB", "bar", "same tensors as that",
    ]  # fmt: skip
    return _table(head, map(_ratio_row, verdicts))


def _ratio_row(verdict: Verdict) -> list[str]:
    case = verdict.case
    without_imports = case.middle(OURS, cpu) / case.middle(ALLOCATING, _said("cpu"))
    alone = case.middle(UNHASHED, cpu) / case.middle(ALLOCATING, cpu)
    to_copy = case.middle(OURS, cpu) / case.middle(COPY, cpu)
    hashed = case.middle(OURS, wall) / case.middle(COPY_AND_HASH, wall)
    return [
        case.name, case.cache, f"{verdict.cpu_ratio:.3f}", f"{without_imports:.3f}",
        _word(verdict.cpu_ratio, CPU_BAR), f"{alone:.3f}", _word(alone, CPU_BAR), f"{to_copy:.2f}", f"{verdict.wall_ratio:.2f}", _word(verdict.wall_ratio, WALL_BAR),
        f"{hashed:.2f}", f"{verdict.own_mib:.0f}", _word(verdict.own_mib, MEMORY_BAR_MIB),
        {True: "yes", False: "**no**", None: "not compared"}[case.equal],
    ]  # fmt: skip


def _word(found: float, bar: float) -> str:
    if found != found:  # not a number
        return "no peer"
    return f"{bar:.3g}: {'met' if found <= bar else '**not met**'}"


def _parts(cases: Sequence[Case]) -> str:
    """Where our seconds go, as its stage.json tells; the rest of the whole command is start and end of the process."""
    names = list(dict.fromkeys(name for case in cases for turn in case.turns[OURS] for name in turn.seconds))
    rows = (
        [case.name, case.cache, *(f"{case.middle(OURS, number):.2f}" for number in (wall, *map(_said, names)))]
        for case in cases
    )
    return _table(["ours", "source", "whole command s", *names], rows)


def _said(name: str) -> Callable[[Turn], float]:
    return lambda turn: turn.seconds.get(name, float("nan"))


def _round_trip(trip: RoundTrip) -> str:
    words = {True: "equal", False: "**differs**"}
    row = [f"{trip.tensors}", words[trip.tensors_equal], words[trip.config_equal]]
    return _table(["Hugging Face to Megatron and back: tensors", "every byte", "config.json"], [row])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""
