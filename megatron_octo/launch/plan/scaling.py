"""The table of docs/scaling.md: the stable stages on 8, 64 and 512 GPUs, every number from the estimators that `show` and `plan` use.

`python tools/scaling_table.py` writes it into the page; a test compares.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_octo import recipes
from megatron_octo.launch.explain.training import derived_throughput
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining
from megatron_octo.training.memory import local_parameters, memory
from megatron_octo.units import GIB, bytes_, count

BEGIN, END = "<!-- table -->\n", "<!-- end -->\n"
MODELS = {"1B": "llama32_1b.stable", "3B": "llama32_3b.stable", "8B": "llama31_8b.stable"}
GPUS = (8, 64, 512)
GPUS_PER_NODE = 8
#: Between nodes, of one GPU: a 400 Gbit/s port each, as in a DGX H100.
NETWORK_BYTES_PER_SECOND = 50e9
#: What a node writes to a parallel file system (guess).
DISK_BYTES_PER_SECOND_AND_NODE = 2e9
#: Per parameter and step: gradients are reduced and scattered in fp32, weights gathered in bf16.
NETWORK_BYTES_PER_PARAMETER = 4 + 2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """One stable stage on so many GPUs."""

    model: str
    recipe: MidTraining
    gpus: int

    @property
    def layout(self) -> str:
        axes = self.recipe.parallelism
        data = self.gpus // (
            axes.tensor_model_parallel_size * axes.pipeline_model_parallel_size * axes.context_parallel_size
        )
        return f"TP{axes.tensor_model_parallel_size} PP{axes.pipeline_model_parallel_size} CP{axes.context_parallel_size} DP{data}"

    @property
    def tokens_per_second(self) -> float:
        return derived_throughput(self.recipe) * self.gpus

    @property
    def step_seconds(self) -> float:
        """Of computing alone."""
        return self.recipe.tokens_per_step / self.tokens_per_second

    @property
    def network_seconds(self) -> float:
        """Of a step, for gradients and weights; nothing between nodes on one node."""
        if self.gpus <= GPUS_PER_NODE:
            return 0.0
        return local_parameters(self.recipe, 0) * NETWORK_BYTES_PER_PARAMETER / NETWORK_BYTES_PER_SECOND

    @property
    def checkpoint_seconds(self) -> float:
        nodes = -(-self.gpus // GPUS_PER_NODE)
        return estimate.checkpoint_bytes(self.recipe) / (DISK_BYTES_PER_SECOND_AND_NODE * nodes)

    @property
    def read_bytes_per_second(self) -> float:
        return self.tokens_per_second * estimate.token_bytes(self.recipe.model.vocab_size)

    @property
    def days(self) -> float:
        return self.recipe.trained_tokens / self.tokens_per_second / 86_400


def scales() -> Iterator[Scale]:
    for model, name in MODELS.items():
        recipe: MidTraining = recipes.load(name)
        yield from (Scale(model=model, recipe=recipe, gpus=gpus) for gpus in GPUS)


def write_into(page: str) -> str:
    """The page with the table between its two marks. Raises `ValueError` where they are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no place for the table: a line {BEGIN.strip()} and a line {END.strip()}")
    return f"{before}{BEGIN}{table()}{END}{after}"


def table() -> str:
    """Markdown."""
    head = (
        "model", "GPUs", "layout", "micro-batches", "memory per GPU", "tokens/s", "days", "GPU-hours", "step", "network per step",
        "checkpoint", "written in", "shards read",
    )  # fmt: skip
    rows = [head, ("---",) * len(head), *(_row(scale) for scale in scales())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(scale: Scale) -> tuple[str, ...]:
    recipe = scale.recipe
    return (
        scale.model,
        f"{scale.gpus}",
        scale.layout,
        f"{recipe.num_microbatches(scale.gpus)}",
        f"{memory(recipe, scale.gpus).total / GIB:.0f} GiB",
        count(round(scale.tokens_per_second)),
        f"{scale.days:.1f}",
        f"{scale.days * 24 * scale.gpus:,.0f}",
        f"{scale.step_seconds:.2f} s",
        f"{scale.network_seconds:.2f} s" if scale.network_seconds else "within the node",
        bytes_(estimate.checkpoint_bytes(recipe)),
        f"{scale.checkpoint_seconds:.1f} s",
        f"{bytes_(round(scale.read_bytes_per_second))}/s",
    )
