"""Are the nodes of this job fit for it? The job's first minute: an srun before the stage's, with the same tasks.

    srun python -m megatron_octo.launch.node.check DIRECTORY [--hosts A,B] [--gpus-per-node 8] [--least-bandwidth 10GB]

Every node looks at itself (`facts.py`) and reports to rank 0 (`desk.py`), the ranks of each node and pairs of nodes sum numbers
together (`collectives.py`), and rank 0 judges (`verdict.py`): one table, and DIRECTORY/verdict.json. DIRECTORY is on the file system
that the nodes share. Two nodes without GPUs take 3 s on an idle machine, most of it the import of torch.

Exit codes of rank 0; the others leave with 0 once rank 0 has heard enough:

    0    the job may start
    69   DIRECTORY/exclude names the nodes to do without, as `sbatch --exclude` takes them (EX_UNAVAILABLE of sysexits.h)
    2    something is wrong that other nodes do not mend
"""

import argparse
import errno
import faulthandler
import functools
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo import artifacts, config, process, units
from megatron_octo.launch.node.desk import Desk, Findings, Line, Plan, connected, free_port
from megatron_octo.launch.node.facts import collect, node_name
from megatron_octo.launch.node.links import rounds
from megatron_octo.launch.node.shared import PATIENCE_SECONDS, SharedDirectory
from megatron_octo.launch.node.verdict import Asked, Report, Verdict, judge, node_hosts, only
from megatron_octo.launch.preflight import checklist

EXIT_BAD_NODES = 69
VERDICT = "verdict.json"
#: The nodes to do without, with commas, for shells; not there where nobody is to be left out.
EXCLUDE = "exclude"
#: Until rank 0 gives up on measurements: every meeting has a time limit of its own, and it waits for nobody who is gone.
MEASURING_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Here:
    """This rank among the others, in Slurm's words."""

    rank: int
    local_rank: int
    world_size: int
    #: Of rank 0, and the port at which the stage's ranks will meet.
    address: str
    port: int
    host: str
    #: Of this srun and no other.
    key: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Here":
        """Outside Slurm a rank is alone."""
        step = [environment.get(f"SLURM_{what}", "0") for what in ("JOB_ID", "RESTART_COUNT", "STEP_ID")]
        return cls(
            rank=int(environment.get("SLURM_PROCID", "0")),
            local_rank=int(environment.get("SLURM_LOCALID", "0")),
            world_size=int(environment.get("SLURM_NTASKS", "1")),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=int(environment.get("MASTER_PORT", "29500")),
            host=node_name(environment),
            key=".".join(step),
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.launch.node.check", description=__doc__.splitlines()[0]
    )
    parser.add_argument("directory", type=Path, help="on the shared file system; verdict.json appears there")
    parser.add_argument(
        "--hosts", default="", help="all nodes as Slurm names them, with commas: who does not come is named"
    )
    parser.add_argument("--gpus-per-node", type=int, default=0)
    parser.add_argument(
        "--least-bandwidth", metavar="SIZE", help="per second and pair of nodes, such as 10GB; slower ones fail"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds until a rank that has not come counts as lost"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        help="seconds until a file must be seen on all nodes",
    )
    given = parser.parse_args(argv)
    here = Here.of(os.environ)
    asked = Asked(
        ranks=here.world_size,
        hosts=tuple(filter(None, given.hosts.split(","))),
        gpus_per_node=given.gpus_per_node,
        least_bandwidth=units.parse_bytes(given.least_bandwidth) if given.least_bandwidth else None,
    )
    threading.excepthook = _leave
    process.allow_open_files()  # rank 0 holds up to three connections per rank
    # A GPU or file system may hang before a rank can tell; if that is rank 0, or everybody, nobody else would end this.
    faulthandler.dump_traceback_later(given.timeout + MEASURING_SECONDS + 2 * given.patience, exit=True)
    deadline = time.monotonic() + given.timeout
    shared = SharedDirectory(directory=given.directory, key=here.key, patience_seconds=given.patience)
    return _lead(here, shared, asked, deadline) if here.rank == 0 else _follow(here, shared, deadline)


def _leave(failed: threading.ExceptHookArgs) -> None:
    """A defect in any thread ends this rank, which rank 0 sees; else the others would wait for it."""
    threading.__excepthook__(failed)
    sys.stderr.flush()
    os._exit(1)


def _lead(here: Here, shared: SharedDirectory, asked: Asked, deadline: float) -> int:
    """Rank 0: takes part as the others do, then judges."""
    started, directory = time.monotonic(), shared.directory
    trouble = shared.leave_word(0)
    if trouble is not None:
        return _end(_alone_with("shared directory", trouble, "name one that the nodes can write", here), None)
    try:
        desk = Desk(
            world_size=here.world_size,
            port=here.port,
            plan=functools.partial(_plan, here.world_size),
            deadline=deadline,
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        remedy = "stop what listens there ('ss -ltnp'), or run without this node"
        return _end(_alone_with("port", f"{here.port} is taken", remedy, here), directory)
    threading.Thread(target=_listen, args=(desk,), daemon=True).start()
    try:
        _take_part(here, shared, trouble, deadline)
    except OSError as error:
        text = f"does not reach itself as {here.address}: {error}"
        return _end(_alone_with("address", text, "mend /etc/hosts or DNS on the node", here), directory)
    reports = [desk.reports[rank] for rank in sorted(desk.reports)]
    verdict = judge(
        reports,
        sorted(desk.links, key=lambda link: link.nodes),
        asked,
        hidden=_hidden(shared, reports),
        silent=desk.silent(),
        all_reduce=desk.findings[0].all_reduce if 0 in desk.findings else None,
        seconds=time.monotonic() - started,
    )
    return _end(verdict, directory)


def _listen(desk: Desk) -> None:
    """Until enough is heard; then all ranks leave, this one's own part in it first."""
    desk.wait_for_findings(MEASURING_SECONDS)
    desk.close()


def _follow(here: Here, shared: SharedDirectory, deadline: float) -> int:
    trouble = shared.leave_word(here.rank)
    try:
        _take_part(here, shared, trouble, deadline)
    except (OSError, ValueError) as error:
        print(f"{here.host}: no answer from rank 0 at {here.address}, port {here.port}: {error}", file=sys.stderr)
        return EXIT_BAD_NODES
    return 0


def _take_part(here: Here, shared: SharedDirectory, trouble: str | None, deadline: float) -> None:
    """What every rank does, until rank 0 has heard enough.

    Raises `OSError` or `ValueError` where rank 0 does not answer, or not as it should.
    """
    facts = collect(here.host) if here.local_rank == 0 else None
    flops, copied, on_gpu = _alone(here)
    with connected(here.address, here.port, deadline=deadline) as line:
        report = Report(
            rank=here.rank,
            host=here.host,
            facts=facts,
            shared_trouble=trouble or shared.look_for_rank_0(),
            clock_ahead=line.clock_ahead(),
            matmul_flops=flops,
            copy_bytes_per_second=copied,
            on_gpu=on_gpu,
        )
        plan = line.report(report)
        # Measuring may hang, and this rank shall not.
        threading.Thread(target=_measure, args=(here, line, plan), daemon=True).start()
        line.stay()


def _measure(here: Here, line: Line, plan: Plan) -> None:
    """The links, where the plan says so."""
    all_reduce = None
    if plan.backend is not None:
        from megatron_octo.launch.node import collectives as together  # torch is there: the plan knows

        meeting = together.Meeting(
            backend=plan.backend, address=here.address, port=plan.port, rank=here.rank, world_size=here.world_size,
            local_rank=here.local_rank,
        )  # fmt: skip
        all_reduce = together.measure(meeting, rounds(len(plan.nodes)), plan.nodes, line.tell)
    line.tell(Findings(rank=here.rank, all_reduce=all_reduce))


def _alone(here: Here) -> tuple[float | None, float | None, bool]:
    """FLOP/s, bytes/s that a GPU copies, and whether it is one; None without torch, 0 where the GPU does not work."""
    if importlib.util.find_spec("torch") is None:
        return None, None, False
    from megatron_octo.launch.node import collectives as together

    on_gpu = together.has_gpu()
    try:
        on = together.device(here.local_rank)
        return together.multiply(on), together.copy(on) if on_gpu else None, on_gpu
    except RuntimeError as error:  # CUDA's words about it; the verdict names the node
        print(f"{here.host}, rank {here.rank}: {error}", file=sys.stderr)
        return 0.0, None, on_gpu


def _plan(world_size: int, reports: Sequence[Report]) -> Plan:
    """Links are measured when all have come that have torch, on GPUs when all have one."""
    hosts = node_hosts(reports)
    nodes = tuple(tuple(one.rank for one in reports if one.host == host) for host in hosts)
    able = len(reports) == world_size > 1 and all(one.matmul_flops is not None for one in reports)
    backend = "nccl" if all(one.on_gpu for one in reports) else "gloo"
    return Plan(backend=backend if able else None, port=free_port(), nodes=nodes)


def _hidden(shared: SharedDirectory, reports: Sequence[Report]) -> dict[str, str]:
    """Why rank 0 does not see what nodes wrote, though they could, by host."""
    hosts = {one.rank: one.host for one in reports if one.shared_trouble is None}
    why = f"rank 0 does not see what it wrote to {shared.directory}"
    return {hosts[rank]: why for rank in shared.hidden(hosts)}


def _alone_with(what: str, text: str, remedy: str, here: Here) -> Verdict:
    """Rank 0's own trouble, which keeps the others from being looked at."""
    return only(checklist.fail(what, f"{here.host}: {text}", remedy), blamed=here.host)


def _end(verdict: Verdict, directory: Path | None) -> int:
    """Say the verdict, keep it where there is room for it, and make an exit code of it."""
    print(checklist.table(verdict.checks))
    names = ",".join(verdict.exclude)
    if names:
        print(f"run without: --exclude={names}")
    if directory is not None:
        artifacts.write_json(directory / VERDICT, config.to_dict(verdict))
        (directory / EXCLUDE).unlink(missing_ok=True)
        if names:
            (directory / EXCLUDE).write_text(f"{names}\n")
    if verdict.passes:
        return 0
    return EXIT_BAD_NODES if verdict.exclude else process.EXIT_USER_ERROR


if __name__ == "__main__":
    code = process.exit_code(main)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whoever still hangs in gloo or NCCL would keep an interpreter that ends
