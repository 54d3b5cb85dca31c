"""Which nodes a job is better off without, out of what its nodes say."""

import dataclasses
import platform
from pathlib import Path

import pytest

from megatron_octo.launch.node.facts import Facts, Gpu, active_ports, node_name, parse_gpus
from megatron_octo.launch.node.links import Link, nvlink_bytes_per_second, rounds, slow_nodes
from megatron_octo.launch.node.verdict import Asked, Report, Verdict, judge
from megatron_octo.launch.preflight.checklist import State

GPU = Gpu(index=0, name="NVIDIA H100 80GB HBM3", used_bytes=0, uncorrected_errors=0)
FACTS = Facts(
    host="a", versions={"torch": "2.9.0"}, gpus=(GPU,), gpu_trouble=None, gpus_worn_out=0, shm_free_bytes=10**10,
    active_ports=("mlx5_0/1",), lockable_bytes=None,
)  # fmt: skip
HOSTS = ("a", "b", "c")
ASKED = Asked(ranks=3, hosts=HOSTS, gpus_per_node=1)
GOOD = tuple(Link(nodes=pair, bytes_per_second=50e9) for pair in ((0, 1), (0, 2), (1, 2)))


def report(rank: int, **changes: object) -> Report:
    facts = dataclasses.replace(FACTS, host=HOSTS[rank], **changes)  # type: ignore[arg-type]
    return Report(
        rank=rank, host=HOSTS[rank], facts=facts, matmul_flops=700e12, copy_bytes_per_second=3e12, on_gpu=True
    )


def judged(
    *, links: tuple[Link, ...] = GOOD, asked: Asked = ASKED, ranks: tuple[int, ...] = (0, 1, 2), hidden: dict[str, str] | None = None,
    changed: dict[int, Report] | None = None, silent: tuple[int, ...] = (), all_reduce: float | None = 40e9, **facts: dict[int, object],
) -> Verdict:  # fmt: skip
    """Three good nodes but for what is said: `facts` are fields of the nodes' facts by rank."""
    reports = []
    for rank in ranks:
        own = {name: values[rank] for name, values in facts.items() if rank in values}
        reports.append((changed or {}).get(rank, report(rank, **own)))
    return judge(reports, links, asked, hidden=hidden or {}, silent=silent, all_reduce=all_reduce, seconds=1.0)


def failing(verdict: Verdict) -> dict[str, str]:
    return {check.what: check.text for check in verdict.checks if check.state is State.FAIL}


def test_good_nodes_pass() -> None:
    verdict = judged()
    assert (verdict.passes, verdict.exclude, verdict.hosts) == (True, (), HOSTS)
    assert {check.what: check.text for check in verdict.checks}["GPUs"] == "3 x NVIDIA H100 80GB HBM3"


def test_speeds_of_a_gpu_are_said() -> None:
    said = {check.what: check.text for check in judged().checks}
    assert said["matrix products"] == "700 TFLOP/s per rank, 71% of the data sheet"
    assert said["memory copies"] == "3 TB/s per GPU"


def test_a_cpu_copies_nothing() -> None:
    on_cpu = {rank: dataclasses.replace(report(rank), copy_bytes_per_second=None) for rank in range(3)}
    assert "memory copies" not in {check.what for check in judged(changed=on_cpu).checks}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"gpus": {1: ()}}, {"GPUs": "b: 0 of 1 GPUs"}),
        ({"gpu_trouble": {1: "nvidia-smi does not answer"}}, {"GPUs": "b: nvidia-smi does not answer"}),
        ({"gpus_worn_out": {1: 1}}, {"GPUs": "b: 1 cannot replace broken memory rows any more"}),
        (
            {"gpus": {1: (dataclasses.replace(GPU, uncorrected_errors=3),)}},
            {"GPUs": "b: GPU 0 has 3 uncorrected memory errors"},
        ),
        (
            {"gpus": {1: (dataclasses.replace(GPU, used_bytes=40 * 10**9),)}},
            {"GPUs": "b: 40 GB of GPU 0 are in use by somebody"},
        ),
        (
            {"gpus": {1: (dataclasses.replace(GPU, slowed=True),)}},
            {"GPUs": "b: GPU 0 is slowed down by heat or power"},
        ),
        ({"versions": {1: {"torch": "2.8.0"}}}, {"versions": "b: torch 2.8.0, not 2.9.0"}),
        ({"versions": {1: {}}}, {"versions": "b: torch none, not 2.9.0"}),
        ({"shm_free_bytes": {1: 64 * 10**6}}, {"/dev/shm": "b: 64 MB free, 83.9 MB wanted"}),
        ({"active_ports": {1: ()}}, {"InfiniBand ports": "b: none, not 1 up"}),
        ({"lockable_bytes": {1: 65536}}, {"locked memory": "b: limited to 65.5 kB"}),
    ],
)
def test_a_node_that_is_unlike_the_others_is_left_out(
    facts: dict[str, dict[int, object]], said: dict[str, str]
) -> None:
    verdict = judged(**facts)
    assert failing(verdict) == said
    assert (verdict.passes, verdict.exclude) == (False, ("b",))


@pytest.mark.parametrize(
    ("changes", "what", "text"),
    [
        ({"shared_trouble": "cannot write to /x: Read-only file system"}, "shared directory", "b: cannot write to /x: Read-only file system"),
        ({"clock_ahead": 7.25}, "clocks", "b: 7.2 s ahead"),
        ({"clock_ahead": -3.0}, "clocks", "b: 3.0 s behind"),
        ({"matmul_flops": 300e12}, "matrix products", "b: 300 TFLOP/s on rank 1"),
        ({"copy_bytes_per_second": 2e12}, "memory copies", "b: 2 TB/s on rank 1"),
    ],
)  # fmt: skip
def test_a_rank_that_says_something_else(changes: dict[str, object], what: str, text: str) -> None:
    verdict = judged(changed={1: dataclasses.replace(report(1), **changes)})  # type: ignore[arg-type]
    assert failing(verdict) == {what: text}
    assert verdict.exclude == ("b",)


def test_a_slow_cpu_is_only_worth_knowing() -> None:
    slow = {
        rank: dataclasses.replace(report(rank), on_gpu=False, matmul_flops=flops)
        for rank, flops in enumerate((9e9, 9e9, 1e9))
    }
    verdict = judged(changed=slow)
    assert verdict.passes
    assert [check.text for check in verdict.checks if check.state is State.WARN] == [
        "9 GFLOP/s per rank, slower: c: 1 GFLOP/s on rank 2"
    ]


def test_a_gpu_that_does_not_multiply_at_all() -> None:
    broken = dataclasses.replace(report(0), matmul_flops=0.0)
    verdict = judged(ranks=(0,), links=(), asked=Asked(ranks=1, gpus_per_node=1), changed={0: broken})
    assert failing(verdict) == {"matrix products": "a: 0 GFLOP/s on rank 0"}
    assert verdict.exclude == ("a",)


def test_who_did_not_come_is_named() -> None:
    verdict = judged(ranks=(0, 2), links=())
    assert failing(verdict) == {"nodes": "rank 1 did not reach rank 0, on b"}
    assert verdict.exclude == ("b",)


def test_the_node_of_a_rank_that_did_not_come_is_named_though_others_of_it_came() -> None:
    came = [Report(rank=rank, host=HOSTS[rank // 2], facts=None) for rank in (0, 1, 3)]
    asked = Asked(ranks=4, hosts=HOSTS[:2])
    verdict = judge(came, (), asked, hidden={}, silent=(), all_reduce=None, seconds=1.0)
    assert failing(verdict) == {"nodes": "rank 2 did not reach rank 0, on b"}
    assert verdict.exclude == ("b",)


def test_who_left_while_links_were_measured_is_named() -> None:
    broken = Link(nodes=(0, 1), bytes_per_second=0.0, trouble="Connection closed by peer")
    verdict = judged(
        ranks=(0, 1), links=(broken,), asked=dataclasses.replace(ASKED, ranks=2), silent=(1,), all_reduce=None
    )
    assert failing(verdict)["nodes"] == "rank 1 left, or hangs, while links were measured, on b"
    assert verdict.exclude == ("b",)


def test_pairs_that_meet_and_all_that_do_not() -> None:
    verdict = judged(all_reduce=None)
    assert failing(verdict)["bandwidth"].endswith("; all together do not meet")
    assert verdict.exclude == ()


def test_files_that_rank_0_does_not_see() -> None:
    assert judged(hidden={"c": "rank 0 does not see what it wrote"}).exclude == ("c",)


def test_what_is_wrong_everywhere_is_no_nodes_fault() -> None:
    verdict = judged(shm_free_bytes=dict.fromkeys(range(3), 0))
    assert (verdict.passes, verdict.exclude) == (False, ())


def test_two_nodes_with_two_versions_are_both_named_and_none_is_left_out() -> None:
    verdict = judged(
        ranks=(0, 1), asked=dataclasses.replace(ASKED, ranks=2), links=GOOD[:1], versions={1: {"torch": "2.8.0"}}
    )
    assert failing(verdict) == {"versions": "a: torch 2.9.0, not 2.8.0, b: torch 2.8.0, not 2.9.0"}
    assert verdict.exclude == ()


def test_a_broken_gpu_is_its_nodes_fault_where_that_is_the_only_one() -> None:
    broken = {0: (dataclasses.replace(GPU, uncorrected_errors=1),)}
    assert judged(ranks=(0,), links=(), asked=Asked(ranks=1, gpus_per_node=1), gpus=broken).exclude == ("a",)


def links(*speeds: float) -> tuple[Link, ...]:
    """Of the pairs ab, ac, bc."""
    return tuple(dataclasses.replace(link, bytes_per_second=speed) for link, speed in zip(GOOD, speeds, strict=True))


@pytest.mark.parametrize(
    ("speeds", "excluded", "text"),
    [
        ((50e9, 50e9, 26e9), (), "50 GB/s per pair, slowest b - c 26 GB/s"),
        ((50e9, 5e9, 5e9), ("c",), "c: a - c 5 GB/s, b - c 5 GB/s"),
        ((50e9, 50e9, 5e9), (), "50 GB/s per pair, slowest b - c 5 GB/s; slow: b - c 5 GB/s"),
    ],
)
def test_the_slow_node_is_named(speeds: tuple[float, ...], excluded: tuple[str, ...], text: str) -> None:
    verdict = judged(links=links(*speeds))
    assert {check.what: check.text for check in verdict.checks}["bandwidth"] == text
    assert verdict.exclude == excluded


def test_who_does_not_meet_a_broken_gpu_is_not_to_blame() -> None:
    broken = dataclasses.replace(report(1), matmul_flops=0.0, copy_bytes_per_second=None)
    hangs = Link(nodes=(0, 1), bytes_per_second=0.0, trouble="hangs for 65 s")
    asked = Asked(ranks=2, hosts=HOSTS[:2], gpus_per_node=1)
    verdict = judged(ranks=(0, 1), asked=asked, links=(hangs,), changed={1: broken}, all_reduce=None)
    assert failing(verdict) == {"matrix products": "b: 0 GFLOP/s on rank 1"}
    assert verdict.exclude == ("b",)


def test_a_least_bandwidth() -> None:
    verdict = judged(links=links(50e9, 50e9, 50e9), asked=dataclasses.replace(ASKED, least_bandwidth=100e9))
    assert (verdict.passes, verdict.exclude) == (False, ())


def test_a_pair_that_never_met_says_why() -> None:
    broken = dataclasses.replace(GOOD[2], bytes_per_second=0.0, trouble="Connection reset by peer")
    assert "b - c Connection reset by peer" in failing(judged(links=(*GOOD[:2], broken)))["bandwidth"]


def within(*speeds: float) -> tuple[Link, ...]:
    """Of the nodes a, b and so on."""
    return tuple(Link(nodes=(node,), bytes_per_second=speed) for node, speed in enumerate(speeds))


@pytest.mark.parametrize(
    ("speeds", "excluded", "text"),
    [
        ((360e9, 370e9, 190e9), (), "360 GB/s per node, slowest c 190 GB/s, 42% of NVLink's 450 GB/s each way"),
        ((360e9, 370e9, 40e9), ("c",), "c: 40 GB/s, fastest b 370 GB/s"),
        ((360e9, 40e9), ("b",), "b: 40 GB/s, fastest a 360 GB/s"),  # two nodes suffice, unlike with pairs
        ((40e9,), (), "a 40 GB/s, 9% of NVLink's 450 GB/s each way"),
    ],
)
def test_links_within_nodes(speeds: tuple[float, ...], excluded: tuple[str, ...], text: str) -> None:
    ranks = tuple(range(len(speeds)))
    asked = dataclasses.replace(ASKED, ranks=len(ranks))
    between = tuple(link for link in GOOD if set(link.nodes) <= set(ranks))
    verdict = judged(ranks=ranks, asked=asked, links=(*within(*speeds), *between))
    assert {check.what: check.text for check in verdict.checks}["links within nodes"] == text
    assert (verdict.passes, verdict.exclude) == (not excluded, excluded)


@pytest.mark.parametrize("pairs", [GOOD, (GOOD[1],), ()])
@pytest.mark.parametrize("num_nodes", [2, 3])
def test_ranks_of_a_node_that_do_not_meet(pairs: tuple[Link, ...], num_nodes: int) -> None:
    """Nor do they meet others, of whom one or none may have said so when rank 0 has heard enough."""
    hangs = tuple(Link(nodes=nodes, bytes_per_second=0.0, trouble="hangs for 65 s") for nodes in ((1,), (0, 1)))
    ranks = tuple(range(num_nodes))
    seen = tuple(link for link in pairs if set(link.nodes) <= set(ranks))
    asked = dataclasses.replace(ASKED, ranks=num_nodes, hosts=HOSTS[:num_nodes])
    verdict = judged(ranks=ranks, asked=asked, links=(*within(360e9), *hangs, *seen), all_reduce=None)
    assert failing(verdict) == {"links within nodes": "b: hangs for 65 s, fastest a 360 GB/s"}
    assert verdict.exclude == ("b",)


def test_ranks_of_the_only_node_that_do_not_meet() -> None:
    broken = dataclasses.replace(within(0.0)[0], trouble="Connection closed by peer")
    verdict = judged(ranks=(0,), asked=dataclasses.replace(ASKED, ranks=1), links=(broken,), all_reduce=None)
    assert failing(verdict) == {"links within nodes": "a: Connection closed by peer"}
    assert verdict.exclude == ()  # whose fault it is, nobody can tell


def test_links_within_cpu_nodes_vary_with_what_else_runs() -> None:
    on_cpu = {rank: dataclasses.replace(report(rank), on_gpu=False) for rank in range(3)}
    verdict = judged(changed=on_cpu, links=(*within(2e9, 2e9, 0.2e9), *GOOD))
    assert {check.what: check.text for check in verdict.checks}[
        "links within nodes"
    ] == "2 GB/s per node, slowest c 200 MB/s"
    assert verdict.passes


@pytest.mark.parametrize(
    ("gpu", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 450e9),
        ("NVIDIA H200", 450e9),
        ("NVIDIA A100-SXM4-80GB", 300e9),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA L40S", None),
        ("", None),
    ],
)
def test_what_nvlink_gives(gpu: str, rate: float | None) -> None:
    assert nvlink_bytes_per_second(gpu) == rate


@pytest.mark.parametrize(
    ("slow", "nodes"),
    [
        ([(0, 1)], []),
        ([(0, 1), (2, 3)], []),
        ([(0, 3), (1, 3), (2, 3)], [3]),
        ([(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)], [2, 3]),
        ([(0, 5), (1, 5), (2, 5), (3, 4)], [5]),
    ],
)
def test_what_slow_links_have_in_common(slow: list[tuple[int, int]], nodes: list[int]) -> None:
    assert slow_nodes([Link(nodes=pair, bytes_per_second=1.0) for pair in slow]) == nodes


@pytest.mark.parametrize("num_nodes", [2, 3, 4, 7, 16])
def test_all_pairs_meet_once_and_never_twice_in_a_round(num_nodes: int) -> None:
    made = rounds(num_nodes)
    assert sorted(pair for pairs in made for pair in pairs) == [
        (a, b) for a in range(num_nodes) for b in range(a + 1, num_nodes)
    ]
    assert all(len({node for pair in pairs for node in pair}) == 2 * len(pairs) for pairs in made)


def test_of_many_nodes_each_meets_fifteen_others() -> None:
    made = [pair for pairs in rounds(64) for pair in pairs]
    assert len(made) == len(set(made)) == 15 * 32
    assert {sum(node in pair for pair in made) for node in range(64)} == {15}


def test_one_node_has_no_pairs() -> None:
    assert rounds(1) == []


def test_what_nvidia_smi_says() -> None:
    rows = [["0", "NVIDIA H100 80GB HBM3", "4", "0"], ["1", "NVIDIA H100 80GB HBM3", "[N/A]", "[N/A]"]]
    assert parse_gpus(rows, [["0", "Not Active"], ["1", "Active"]]) == (
        Gpu(index=0, name="NVIDIA H100 80GB HBM3", used_bytes=4 << 20, uncorrected_errors=0),
        Gpu(index=1, name="NVIDIA H100 80GB HBM3", used_bytes=0, uncorrected_errors=None, slowed=True),
    )


def test_network_ports_that_are_up(tmp_path: Path) -> None:
    for port, state in (
        ("mlx5_0/ports/1", "4: ACTIVE"),
        ("mlx5_1/ports/1", "1: DOWN"),
        ("mlx5_2/ports/2", "4: ACTIVE"),
    ):
        (tmp_path / port).mkdir(parents=True)
        (tmp_path / port / "state").write_text(f"{state}\n")
    assert active_ports(tmp_path) == ("mlx5_0/1", "mlx5_2/2")
    assert active_ports(tmp_path / "none") == ()


def test_a_node_is_called_as_slurm_calls_it() -> None:
    assert node_name({"SLURMD_NODENAME": "gpu17"}) == "gpu17"
    assert node_name({}) == platform.node()
