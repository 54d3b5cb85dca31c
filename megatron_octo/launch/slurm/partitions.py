"""What partitions a place has, as `sinfo` says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_octo import units
from megatron_octo.errors import ResourceError
from megatron_octo.launch.place import Place, minutes
from megatron_octo.launch.slurm import ssh

#: Partition, nodes, CPUs, MiB, gres, time limit; lines of a partition differ where its nodes do.
_SINFO = ("sinfo", "--noheader", "--format=%P|%D|%c|%m|%G|%l")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What `sinfo` says about a partition; of unlike nodes the one with most."""

    name: str
    nodes: int
    cpus: int
    memory_bytes: int
    gpus: int
    #: `h100`, or empty.
    gpu_type: str
    #: None is no limit.
    minutes: int | None
    is_default: bool


def ask(place: Place) -> list[Partition]:
    """All partitions. Raises `ResourceError` where Slurm does not answer."""
    answer = ssh.run(place.ssh, _SINFO)
    if answer.returncode != 0:
        raise ResourceError(f"sinfo does not answer: {answer.stderr.strip()}")
    return parse(answer.stdout)


def find(name: str | None, known: Sequence[Partition]) -> Partition | None:
    """The partition of that name; without one the default."""
    return next((one for one in known if (one.name == name if name else one.is_default)), None)


def parse(text: str) -> list[Partition]:
    """The lines of `sinfo`, several of a partition whose nodes differ.

    >>> parse("h100*|4|112|2000000|gpu:h100:8(S:0-1)|2-00:00:00")[0].gpus
    8
    """
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        name, nodes, cpus, mebibytes, gres, limit = line.split("|")
        gpu_type, gpus = _gpus(gres)
        one = Partition(
            name=name.rstrip("*"),
            nodes=int(nodes),
            cpus=_number(cpus),
            memory_bytes=_number(mebibytes) * units.MIB,
            gpus=gpus,
            gpu_type=gpu_type,
            minutes=None if limit in ("infinite", "n/a") else minutes(limit),
            is_default=name.endswith("*"),
        )
        found[one.name] = _merged(found[one.name], one) if one.name in found else one
    return list(found.values())


def _merged(one: Partition, other: Partition) -> Partition:
    larger = one if (one.gpus, one.cpus) >= (other.gpus, other.cpus) else other
    return replace(larger, nodes=one.nodes + other.nodes)


def _gpus(gres: str) -> tuple[str, int]:
    """`gpu:h100:8(S:0-1),nvme:1` -> (h100, 8); of several types the one with most."""
    found: list[tuple[int, str]] = [
        (int(number), kind or "") for kind, number in re.findall(r"(?:^|,)gpu(?::([^:,(]+))?:(\d+)", gres)
    ]
    number, kind = max(found, default=(0, ""))
    return kind, number


def _number(text: str) -> int:
    """sinfo writes `64+` where nodes differ."""
    return int(text.rstrip("+"))
