"""What the nodes of a job said about themselves, judged: which checks fail, and which nodes the job is better off without.

Pure: reports in, a verdict out. A node is named for `--exclude` when it differs from the others; what is wrong on all of them is not
mended by other nodes.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_octo import units
from megatron_octo.errors import listed
from megatron_octo.launch.node.facts import Facts, Gpu
from megatron_octo.launch.node.links import (
    Link,
    between_nodes,
    nvlink_bytes_per_second,
    slow_nodes,
    slower_than_others,
    usual_speed,
    within_nodes,
)
from megatron_octo.launch.preflight import checklist
from megatron_octo.launch.preflight.checklist import Check
from megatron_octo.training import estimate

#: Clocks further from the middle than that: times of files and logs of several nodes lie about what came first (guess).
CLOCK_SECONDS = 2.0
#: Below this share of what is usual here, a link or a GPU is called slow (guesses: links vary with what else runs, GPUs hardly, and sums
#: over gloo with whatever else the CPU does: on two busy cores to less than half, 2026-11-23).
SLOW_LINK, SLOW_GLOO_LINK, SLOW_MATMUL, SLOW_COPY = 0.5, 0.05, 0.75, 0.75
#: Guesses. NCCL shares some 10 MB per GPU there, data loaders more; Docker gives 64 MB unless told.
SHM_BYTES_PER_GPU, SHM_BYTES = 64 * units.MIB, 16 * units.MIB
#: More in use on a GPU is somebody's process; drivers take some hundred MB, and this check about 1 GB (guess).
USED_GPU_BYTES = 4 * units.GIB


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one rank says."""

    rank: int
    host: str
    #: Of the first rank of a node.
    facts: Facts | None = None
    #: Why it cannot write to the shared directory, or see there what rank 0 wrote.
    shared_trouble: str | None = None
    #: Seconds its clock is ahead of rank 0's.
    clock_ahead: float = 0.0
    #: None without torch.
    matmul_flops: float | None = None
    #: Read and written by a copy in a GPU's memory; None on a CPU, and where the GPU does not work.
    copy_bytes_per_second: float | None = None
    on_gpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What `verdict.json` holds."""

    passes: bool
    #: Nodes by Slurm's names without which the others would pass.
    exclude: tuple[str, ...]
    checks: tuple[Check, ...]
    #: By number in `links`.
    hosts: tuple[str, ...]
    links: tuple[Link, ...]
    #: Of all ranks together.
    all_reduce_bytes_per_second: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the job needs of its nodes."""

    ranks: int
    #: As Slurm names them; empty where nobody told.
    hosts: tuple[str, ...] = ()
    gpus_per_node: int = 0
    #: Slowest link that will do, bytes/s; None compares the links with one another alone.
    least_bandwidth: float | None = None


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """A check, and the nodes that are to blame."""

    check: Check
    blamed: frozenset[str] = frozenset()
    #: A node's own fault, even where no other node can be compared with it.
    certain: bool = False


def judge(
    reports: Sequence[Report],
    links: Sequence[Link],
    asked: Asked,
    *,
    hidden: Mapping[str, str],
    silent: Sequence[int],
    all_reduce: float | None,
    seconds: float,
) -> Verdict:
    """The verdict.

    Args:
        reports: of the ranks that came, by rank.
        links: that were measured, within nodes and of pairs; none where not all ranks came.
        hidden: why files that nodes wrote to the shared directory are not seen by rank 0, by host.
        silent: ranks that came, and were gone before they had said what they measured.
        all_reduce: bytes/s of all ranks together; None where that was not measured, or where they do not meet.
    """
    hosts = node_hosts(reports)
    facts = [report.facts for report in reports if report.facts is not None]
    stayed = _without(_nodes_of(silent, reports), links)
    gpus, alone = _gpus(facts, asked), [*_matmul(reports), *_copies(reports), *_within(within_nodes(stayed), reports)]
    to_blame = {hosts.index(host) for finding in (gpus, *alone) for host in finding.blamed}
    findings = [
        _presence(reports, asked, silent),
        _shared(reports, hidden),
        _clocks(reports),
        _versions(facts),
        _shm(facts),
        gpus,
        _locked_memory(facts),
        _ports(facts),
        *alone,
        *_links(
            between_nodes(_without(to_blame, stayed)),
            reports,
            asked,
            complete=all_reduce is not None or bool(silent) or bool(to_blame),
        ),
    ]
    checks = tuple(finding.check for finding in findings)
    return Verdict(
        passes=checklist.passes(checks),
        exclude=_excludable(findings, hosts),
        checks=checks,
        hosts=hosts,
        links=tuple(links),
        all_reduce_bytes_per_second=all_reduce,
        seconds=round(seconds, 1),
    )


def only(check: Check, *, blamed: str) -> Verdict:
    """The verdict where one node's trouble keeps all others from being looked at."""
    return Verdict(
        passes=False,
        exclude=(blamed,),
        checks=(check,),
        hosts=(),
        links=(),
        all_reduce_bytes_per_second=None,
        seconds=0.0,
    )


def node_hosts(reports: Sequence[Report]) -> tuple[str, ...]:
    """Hosts by node number: in the order of their first ranks."""
    return tuple(dict.fromkeys(report.host for report in sorted(reports, key=lambda report: report.rank)))


def _excludable(findings: Sequence[_Finding], hosts: Sequence[str]) -> tuple[str, ...]:
    """Nodes to do without; none where something fails that is no single node's fault, or on all nodes."""
    failing = [finding for finding in findings if finding.check.state is checklist.State.FAIL]
    blamed = frozenset[str]().union(*(finding.blamed for finding in failing))
    everywhere = not set(hosts) - blamed
    if not all(finding.certain if everywhere else finding.blamed for finding in failing):
        return ()
    return tuple(sorted(blamed))


def _presence(reports: Sequence[Report], asked: Asked, silent: Sequence[int]) -> _Finding:
    missing = sorted(set(range(asked.ranks)) - {report.rank for report in reports})
    if missing:
        lost = _short_of_ranks(reports, asked)
        text = f"rank {_numbers(missing)} did not reach rank 0" + (f", on {listed(lost)}" if lost else "")
    elif silent:
        lost = sorted({report.host for report in reports if report.rank in silent})
        text = f"rank {_numbers(silent)} left, or hangs, while links were measured, on {listed(lost)}"
    else:
        hosts = node_hosts(reports)
        ranks, nodes = units.counted(asked.ranks, "rank"), units.counted(len(hosts), "node")
        return _Finding(check=checklist.ok("nodes", f"{ranks} on {nodes}: {listed(hosts)}"))
    remedy = "see their logs; name resolution, a firewall between the nodes, or a node that hangs"
    return _Finding(check=checklist.fail("nodes", text, remedy), blamed=frozenset(lost))


def _short_of_ranks(reports: Sequence[Report], asked: Asked) -> list[str]:
    """The nodes of ranks that did not come; others of the same node may have. Slurm starts equally many on each."""
    came = Counter(report.host for report in reports)
    return sorted(host for host in asked.hosts if came[host] < asked.ranks / len(asked.hosts))


def _shared(reports: Sequence[Report], hidden: Mapping[str, str]) -> _Finding:
    trouble = {report.host: report.shared_trouble for report in reports if report.shared_trouble} | dict(hidden)
    return _finding(
        "shared directory", trouble, "written and seen by every node", "mount the same file system there, writable"
    )


def _clocks(reports: Sequence[Report]) -> _Finding:
    ahead = {report.host: report.clock_ahead for report in reports if report.facts is not None}
    if not ahead:
        return _Finding(check=checklist.unknown("clocks", "no node said its time"))
    middle = statistics.median(ahead.values())
    trouble = {
        host: f"{abs(off - middle):.1f} s {'ahead' if off > middle else 'behind'}"
        for host, off in ahead.items()
        if abs(off - middle) > CLOCK_SECONDS
    }
    spread = units.duration(max(ahead.values()) - min(ahead.values()))
    return _finding("clocks", trouble, f"within {spread}", "start chrony or ntpd on the node")


def _versions(facts: Sequence[Facts]) -> _Finding:
    """Every package's usual version, and the nodes that have another."""
    trouble: dict[str, str] = {}
    for package in dict.fromkeys(name for one in facts for name in one.versions):
        for host, (has, usual) in _unlike(facts, _version(package)).items():
            trouble[host] = f"{trouble[host]}; " if host in trouble else ""
            trouble[host] += f"{package} {has}, not {usual}"
    return _finding("versions", trouble, "equal on all nodes", "install the same environment there, or use one image")


def _version(package: str) -> Callable[[Facts], str]:
    return lambda one: one.versions.get(package, "none")


def _each(
    what: str, facts: Sequence[Facts], trouble_of: Callable[[Facts], str | None], good: str, remedy: str
) -> _Finding:
    """What every node can be asked alone."""
    trouble = {one.host: said for one in facts if (said := trouble_of(one)) is not None}
    return _finding(what, trouble, good, remedy)


def _ports(facts: Sequence[Facts]) -> _Finding:
    trouble = {host: f"{has}, not {usual}" for host, (has, usual) in _unlike(facts, _ports_up).items()}
    good = _ports_up(facts[0]) if facts else "none"
    return _finding("InfiniBand ports", trouble, good, "check cables and ports of the node")


def _ports_up(facts: Facts) -> str:
    return f"{len(facts.active_ports)} up" if facts.active_ports else "none"


def _unlike(facts: Sequence[Facts], value: Callable[[Facts], str]) -> dict[str, tuple[str, str]]:
    """Hosts whose value is not that of most, with both; all of them where there is no such value."""
    values = {one.host: value(one) for one in facts}
    (usual, times), *_ = Counter(values.values()).most_common(1) or [("", 0)]
    if 2 * times > len(values):
        return {host: (has, usual) for host, has in values.items() if has != usual}
    others = {has: next((other for other in values.values() if other != has), has) for has in values.values()}
    return {host: (has, others[has]) for host, has in values.items()}


def _shm(facts: Sequence[Facts]) -> _Finding:
    least = min((one.shm_free_bytes for one in facts), default=0)
    remedy = "mount a larger one (docker --shm-size), or free it"
    return _each("/dev/shm", facts, _shm_trouble, f"at least {units.bytes_(least)} free", remedy)  # noqa: S108


def _shm_trouble(facts: Facts) -> str | None:
    needed = SHM_BYTES + len(facts.gpus) * SHM_BYTES_PER_GPU
    if facts.shm_free_bytes >= needed:
        return None
    return f"{units.bytes_(facts.shm_free_bytes)} free, {units.bytes_(needed)} wanted"


def _gpus(facts: Sequence[Facts], asked: Asked) -> _Finding:
    names = Counter(gpu.name for one in facts for gpu in one.gpus)
    good = ", ".join(f"{number} x {name}" for name, number in names.items()) or "none"
    found = _each("GPUs", facts, lambda one: _gpu_trouble(one, asked), good, "drain the node and tell its owner")
    return replace(found, certain=True)


def _gpu_trouble(facts: Facts, asked: Asked) -> str | None:
    troubles = [
        *([facts.gpu_trouble] if facts.gpu_trouble else []),
        *([f"{len(facts.gpus)} of {asked.gpus_per_node} GPUs"] if len(facts.gpus) < asked.gpus_per_node else []),
        *([f"{facts.gpus_worn_out} cannot replace broken memory rows any more"] if facts.gpus_worn_out else []),
        *(said for gpu in facts.gpus for said in _of_gpu(gpu)),
    ]
    return "; ".join(troubles) or None


def _of_gpu(gpu: Gpu) -> Iterator[str]:
    if gpu.uncorrected_errors:
        yield f"GPU {gpu.index} has {gpu.uncorrected_errors} uncorrected memory errors"
    if gpu.used_bytes > USED_GPU_BYTES:
        yield f"{units.bytes_(gpu.used_bytes)} of GPU {gpu.index} are in use by somebody"
    if gpu.slowed:
        yield f"GPU {gpu.index} is slowed down by heat or power"


def _locked_memory(facts: Sequence[Facts]) -> _Finding:
    remedy = "RDMA pins memory: set memlock unlimited for slurmd on the node"
    return _each("locked memory", facts, _lock_trouble, "enough for the network", remedy)


def _lock_trouble(facts: Facts) -> str | None:
    if not facts.active_ports or facts.lockable_bytes is None:
        return None
    return f"limited to {units.bytes_(facts.lockable_bytes)}"


def _matmul(reports: Sequence[Report]) -> Iterator[_Finding]:
    """Of GPUs alone a slow one is a bad one: CPUs are shared."""
    measured = [(report, report.matmul_flops) for report in reports if report.matmul_flops is not None]
    if not measured:
        yield _Finding(check=checklist.unknown("matrix products", "torch is not there"))
        return
    usual = statistics.median(flops for _, flops in measured)
    slow = {
        report.host: f"{_flops(flops)} on rank {report.rank}"
        for report, flops in measured
        if flops <= SLOW_MATMUL * usual  # 0 is no GPU that works
    }
    said = f"{_flops(usual)} per rank{_of_data_sheet(usual, reports)}"
    if slow and not any(report.on_gpu for report, _ in measured):
        text = f"{said}, slower: {_spelled(slow)}"
        yield _Finding(check=checklist.warn("matrix products", text, "does something else run there?"))
    else:
        remedy = "drain the node: its GPU is slowed down by heat, power or a fault"
        yield replace(_finding("matrix products", slow, said, remedy), certain=True)


def _of_data_sheet(flops: float, reports: Sequence[Report]) -> str:
    """What share that is of the first GPU's bf16 peak, where it is known; a good card reaches most of it but not all."""
    peak = estimate.peak_flops(_first_gpu(reports))
    return f", {flops / peak:.0%} of the data sheet" if peak is not None else ""


def _first_gpu(reports: Sequence[Report]) -> str:
    """The name of one that is measured; empty on CPUs."""
    names = (gpu.name for one in reports if one.on_gpu and one.facts is not None for gpu in one.facts.gpus)
    return next(names, "")


def _copies(reports: Sequence[Report]) -> Iterator[_Finding]:
    measured = [
        (report, report.copy_bytes_per_second) for report in reports if report.copy_bytes_per_second is not None
    ]
    if not measured:
        return
    usual = statistics.median(speed for _, speed in measured)
    slow = {
        report.host: f"{units.bytes_(round(speed))}/s on rank {report.rank}"
        for report, speed in measured
        if speed <= SLOW_COPY * usual
    }
    remedy = "drain the node: memory of its GPU is slow"
    yield replace(_finding("memory copies", slow, f"{units.bytes_(round(usual))}/s per GPU", remedy), certain=True)


def _flops(value: float) -> str:
    return f"{value / 1e12:.3g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def _nodes_of(ranks: Sequence[int], reports: Sequence[Report]) -> set[int]:
    """By number."""
    hosts = node_hosts(reports)
    return {hosts.index(report.host) for report in reports if report.rank in ranks}


def _without(nodes: set[int], links: Sequence[Link]) -> list[Link]:
    """Links of the others: those of a node that left, or whose GPUs fail by themselves, say nothing new, and would blame who met it."""
    return [link for link in links if not nodes & set(link.nodes)]


def _within(links: Sequence[Link], reports: Sequence[Report]) -> Iterator[_Finding]:
    """Nothing is said of nodes with a single rank."""
    if not links:
        return
    hosts = node_hosts(reports)
    on_gpu = all(report.on_gpu for report in reports)
    slow = slower_than_others(links, SLOW_LINK if on_gpu else SLOW_GLOO_LINK)
    by_speed = sorted(links, key=lambda link: link.bytes_per_second)
    slowest, fastest = by_speed[0], by_speed[-1]
    usual = statistics.median(link.bytes_per_second for link in links)
    said = f"{units.bytes_(usual)}/s per node, slowest " if len(links) > 1 else ""
    remedy = "see 'nvidia-smi nvlink --status' and 'nvidia-smi topo -m' there" if on_gpu else "see what else runs there"
    good = f"{said}{_pair(slowest, hosts)}{_of_nvlink(slowest.bytes_per_second, reports)}"
    beside = f", fastest {_pair(fastest, hosts)}" if len(links) > 1 else ""
    trouble = {hosts[link.nodes[0]]: f"{_speed(link)}{beside}" for link in slow}
    yield _finding("links within nodes", trouble, good, remedy)


def _of_nvlink(speed: float, reports: Sequence[Report]) -> str:
    """What share that is of the line's rate, where it is known.

    NCCL's rings reach 80 % of it, and with the switches' own sums 8 GPUs more than all of it: 370 and 480 of 450 GB/s, says NVIDIA in
    github.com/NVIDIA/nccl-tests/issues/212.
    """
    rate = nvlink_bytes_per_second(_first_gpu(reports))
    return f", {speed / rate:.0%} of NVLink's {units.bytes_(round(rate))}/s each way" if rate is not None else ""


def _links(links: Sequence[Link], reports: Sequence[Report], asked: Asked, *, complete: bool) -> Iterator[_Finding]:
    """`complete`: whether all met together, or it is known who kept them from it."""
    hosts = node_hosts(reports)
    if len(hosts) < 2:
        return
    if not links:
        yield _Finding(check=checklist.unknown("bandwidth", "no pair of sound nodes was measured; is torch there?"))
        return
    share = SLOW_LINK if all(report.on_gpu for report in reports) else SLOW_GLOO_LINK
    enough = max(share * usual_speed(links, len(hosts)), asked.least_bandwidth or 0.0)
    slow = [link for link in links if link.bytes_per_second < enough or link.trouble]
    slowest = min(links, key=lambda link: link.bytes_per_second)
    usual = statistics.median(link.bytes_per_second for link in links)
    said = f"{units.bytes_(usual)}/s per pair, slowest {_pair(slowest, hosts)}"
    named = slow_nodes(slow)
    remedy = "check cable, port and driver of the node; NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME where it takes the wrong network"
    if named:
        trouble = {hosts[node]: _slow_links(node, slow, hosts) for node in named}
        yield _finding("bandwidth", trouble, said, remedy)
    elif slow:
        text = f"{said}; slow: {listed([_pair(link, hosts) for link in slow])}"
        yield _Finding(check=checklist.fail("bandwidth", text, remedy))
    elif not complete:
        yield _Finding(check=checklist.fail("bandwidth", f"{said}; all together do not meet", remedy))
    else:
        yield _Finding(check=checklist.ok("bandwidth", said))


def _slow_links(node: int, slow: Sequence[Link], hosts: Sequence[str]) -> str:
    return listed([_pair(link, hosts) for link in slow if node in link.nodes])


def _pair(link: Link, hosts: Sequence[str]) -> str:
    return f"{' - '.join(hosts[node] for node in link.nodes)} {_speed(link)}"


def _speed(link: Link) -> str:
    return link.trouble or f"{units.bytes_(link.bytes_per_second)}/s"


def _finding(what: str, trouble: Mapping[str, str], good: str, remedy: str) -> _Finding:
    """A check that fails where a node is in trouble."""
    if not trouble:
        return _Finding(check=checklist.ok(what, good))
    return _Finding(check=checklist.fail(what, _spelled(trouble), remedy), blamed=frozenset(trouble))


def _spelled(trouble: Mapping[str, str]) -> str:
    return listed([f"{host}: {said}" for host, said in trouble.items()])


def _numbers(ranks: Sequence[int]) -> str:
    return listed([str(rank) for rank in ranks])
