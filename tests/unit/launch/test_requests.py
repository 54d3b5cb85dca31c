import dataclasses
from pathlib import Path

import pytest
import rendered
from rendered import PLAIN

from megatron_octo import recipes
from megatron_octo.conversion.config import Conversion, Direction
from megatron_octo.errors import ConfigError
from megatron_octo.evaluation.config import Engine, Evaluation, Source
from megatron_octo.launch.jobs import Job
from megatron_octo.launch.jobscript.requests import Request, request
from megatron_octo.launch.place import Place
from megatron_octo.rl.config import RLJob
from megatron_octo.servers import Server
from megatron_octo.templates import Template

CPU = dataclasses.replace(PLAIN, gpus_per_node=0, cpus_per_node=2, partition="batch", cpu_partition=None)


def other(settings: object, module: str = "megatron_octo.conversion.run") -> Job:
    return Job(name="hf/stable", module=module, config=settings, out=Path("out"), logs=Path("logs"))


def conversion(workers: int = 4) -> Job:
    return other(Conversion(direction=Direction.TO_HF, source=Path("a"), tokenizer=Path("t"), workers=workers))


def evaluation(engine: Engine) -> Job:
    server = Server(url="http://host/v1", model="m") if engine is Engine.SERVER else None
    model = None if server else Path("model")
    sources = (Source(name="gsm8k", file=Path("gsm8k.jsonl")),)
    return other(
        Evaluation(
            engine=engine, model=model, server=server, benchmarks=sources, template=Template.SIMPLE, max_new_tokens=8
        )
    )


def trl() -> Job:
    recipe = recipes.load("tiny.rl_stable")
    sets = {name: Path("x") for name in recipe.eval_sets}
    return other(RLJob(recipe=recipe, model=Path("m"), prompts=Path("p"), eval_sets=sets))


@pytest.mark.parametrize(
    ("job", "place", "nodes", "shape"),
    [
        (rendered.stable("llama32_3b"), PLAIN, None, (1, 8, 8, 14, "h100")),
        (rendered.stable("llama31_8b"), PLAIN, 64, (64, 8, 8, 14, "h100")),
        (rendered.stable("llama32_1b", ranks=4), CPU, 2, (2, 2, 0, 1, "batch")),
        (rendered.rl(), PLAIN, None, (2, 1, 8, 112, "h100")),
        (rendered.rl(), PLAIN, 2, (2, 1, 8, 112, "h100")),
        (rendered.tokenize(), PLAIN, None, (1, 1, 0, 32, "cpu")),
        (rendered.tokenize(), CPU, 1, (1, 1, 0, 2, "batch")),
        (conversion(), PLAIN, None, (1, 1, 0, 4, "cpu")),
        (evaluation(Engine.VLLM), PLAIN, None, (1, 1, 1, 14, "h100")),
        (evaluation(Engine.SERVER), PLAIN, None, (1, 1, 0, 4, "cpu")),
        (trl(), PLAIN, None, (1, 1, 1, 14, "h100")),
        (trl(), CPU, None, (1, 1, 0, 2, "batch")),
    ],
)
def test_what_jobs_ask_for(job: Job, place: Place, nodes: int | None, shape: tuple[int, int, int, int, str]) -> None:
    asked = request(job, place, nodes)
    assert asked == Request(
        nodes=shape[0], tasks_per_node=shape[1], gpus_per_node=shape[2], cpus_per_task=shape[3], time_limit="24:00:00",
        partition=shape[4],
    )  # fmt: skip
    assert asked.tasks == shape[0] * shape[1]


@pytest.mark.parametrize(
    ("job", "place", "nodes", "said"),
    [
        (rendered.stable("llama32_3b"), PLAIN, 0, "--nodes is 0"),
        (rendered.stable("llama32_3b"), PLAIN, 3, "global_batch_size 512 does not divide"),
        (
            rendered.stable("llama32_3b", ranks=4),
            CPU,
            3,
            "4 ranks of stable do not spread evenly over 3 nodes; .* divides 4",
        ),
        (
            rendered.stable("llama32_3b", ranks=8),
            CPU,
            2,
            "4 ranks of stable per node on 2 CPUs; ask for 4 nodes or more",
        ),
        (rendered.rl(), PLAIN, 3, "rl/long/seed0 is placed on 2 nodes, and --nodes is 3; set placement.nodes=3"),
        (
            rendered.rl(),
            dataclasses.replace(PLAIN, gpus_per_node=4),
            None,
            "wants 8 GPUs per node and this place has 4; set placement.gpus_per_node",
        ),
        (conversion(), PLAIN, 2, "hf/stable runs on one node, not 2; leave --nodes out"),
    ],
)
def test_what_does_not_fit(job: Job, place: Place, nodes: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        request(job, place, nodes)
