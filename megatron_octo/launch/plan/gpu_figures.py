"""What one H100 should reach, predicted: the tables of docs/measurements.md that wait for a GPU.

`python tools/gpu_figures_table.py` writes them into the page; a test compares. A step is the sum of four times, none hidden behind another:
matrix products and attention at a share of the card's peak, everything else as bytes over the memory's bandwidth, and the optimizer.
Bytes are counted by reading Megatron-Core 0.16.1 and torch's kernels. The shares are guesses, and the first thing a GPU will correct.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_octo import recipes
from megatron_octo.training import estimate
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.memory import memory
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.units import GIB

MODELS = {"1B": "llama32_1b.stable", "3B": "llama32_3b.stable", "8B": "llama31_8b.stable"}
LENGTHS = (8192, 4096)
PRECISIONS = (Precision.BF16, Precision.FP8)
#: As benchmarks/gpu_throughput.py: sequences of one per step and rank, and how much of a card's memory the estimate may fill.
MICROBATCHES, FILL = 4, 0.85
CARD_BYTES = 80 * GIB
#: Ranks that share the optimizer state where one card cannot hold it.
RANKS = 8

PEAK_FLOPS = estimate.PEAK_BF16_FLOPS["H100"]
#: Of products of fp8 over those of bf16, on the data sheet.
FP8_SPEED = 2.0
#: Of the peak, for the layers' products (guess: a square product of 8,192, which preflight measures, reaches more).
MATMUL_SHARE = 0.61
#: Forward and backward, by head size (guesses: FlashAttention-3 reaches 614 in a forward pass of size 128, pytorch/benchmark 2391; backward
#: passes and small heads are slower).
ATTENTION_FLOPS = {64: 350e12, 128: 450e12}
#: Two products of seven are the forward pass': the backward pass makes the scores again.
ATTENTION_FORWARD = 2 / 7
#: The data sheet's, and the share of it that such kernels reach (guess).
HBM_BYTES_PER_SECOND = 0.9 * 3.35e12

#: Numbers read and written per number of the stream, forward and backward: two norms (2, 3) and two sums (3, 3).
STREAM = (10, 12)
#: Per number of queries and keys: RoPE as a chain of operations; as one kernel.
ROPE, ROPE_FUSED = (12, 14), (2, 2)
#: Per number of the product of gate and up: SiLU, 0 added to up, product, and the gradients put together; as one kernel.
SWIGLU, SWIGLU_FUSED = (7, 13), (3, 5)
BF16_BYTES = 2
#: Bytes per logit: to fp32, maximum, difference, exponential, sum, quotient; gradient and to bf16. Compiled into fewer kernels.
CROSS_ENTROPY, CROSS_ENTROPY_FUSED = (38, 14), (18, 6)
#: Bytes per weight of a matrix and micro-batch: its gradient read in bf16, the fp32 buffer read and written. Fused, the product adds to the
#: buffer, and what it reads and writes more hides behind multiplying.
ACCUMULATION, ACCUMULATION_FUSED = 2 + 4 + 4, 0
#: Bytes per parameter and step: norm 4, clipping 8, Adam 28 (gradient, and three numbers read and written), bf16 copy 6, zeros 4.
OPTIMIZER = 50
#: Bytes per number that becomes fp8: largest value, quantised by rows and by columns.
QUANTISE = 2 + 2 + 1 + 1

NO_FUSIONS = Fusions()
ALL_FUSIONS = Fusions(**{field.name: True for field in dataclasses.fields(Fusions)})
#: (model, tokens, precision): tokens/s per GPU and whose. Sources are listed in docs/measurements.md.
PUBLISHED = {
    ("1B", 8192, Precision.BF16): "29,157 MPT-1B",
    ("1B", 8192, Precision.FP8): "32,010 MPT-1B",
    ("1B", 4096, Precision.BF16): "55,000 OLMo-core",
    ("1B", 4096, Precision.FP8): "65,000 OLMo-core",
    ("3B", 8192, Precision.BF16): "16,578 MPT-3B",
    ("3B", 8192, Precision.FP8): "19,146 MPT-3B",
    ("8B", 8192, Precision.BF16): "6,667 torchtitan",
    ("8B", 8192, Precision.FP8): "14,451 Megatron-Bridge; 8,532 torchtitan",
    ("8B", 4096, Precision.BF16): "9,500 OLMo-core",
    ("8B", 4096, Precision.FP8): "12,500 OLMo-core",
}


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one step on one rank."""

    forward: float
    backward: float
    optimizer: float

    @property
    def step(self) -> float:
        return self.forward + self.backward + self.optimizer


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row: a model on one card, or with its optimizer state over `ranks`."""

    name: str
    recipe: MidTraining
    ranks: int = 1

    @property
    def tokens(self) -> int:
        """Of a rank's step."""
        return MICROBATCHES * self.recipe.seq_length

    def seconds(self, fusions: Fusions = NO_FUSIONS) -> Seconds:
        recipe = self.recipe
        forward, backward = (
            self.tokens * (products + moved / HBM_BYTES_PER_SECOND)
            for products, moved in zip(
                multiplying(recipe), bytes_per_token(recipe.model, recipe.precision, fusions), strict=True
            )
        )
        accumulation = ACCUMULATION_FUSED if fusions.gradient_accumulation else ACCUMULATION
        backward += MICROBATCHES * accumulation * _matrices(recipe.model) / HBM_BYTES_PER_SECOND
        # Quantised weights are kept from one micro-batch of a step to the next.
        weights = QUANTISE * _layer_matrices(recipe.model) if recipe.precision is Precision.FP8 else 0
        optimizer = OPTIMIZER * estimate.parameters(recipe.model) / self.ranks
        return Seconds(
            forward=forward + weights / HBM_BYTES_PER_SECOND,
            backward=backward,
            optimizer=optimizer / HBM_BYTES_PER_SECOND,
        )

    def tokens_per_second(self, fusions: Fusions = NO_FUSIONS) -> float:
        return self.tokens / self.seconds(fusions).step

    def flops(self, fusions: Fusions = NO_FUSIONS) -> float:
        return self.tokens_per_second(fusions) * estimate.flops_per_token(self.recipe.model, self.recipe.seq_length)


def multiplying(recipe: MidTraining) -> tuple[float, float]:
    """Seconds per token of matrix products and attention, forward and backward."""
    model, rate = recipe.model, MATMUL_SHARE * PEAK_FLOPS
    layers_rate = rate * (FP8_SPEED if recipe.precision is Precision.FP8 else 1)
    products = 2 * _layer_matrices(model) / layers_rate + 2 * estimate.embedding_parameters(model) / rate
    attention_flops = estimate.flops_per_token(model, recipe.seq_length) - estimate.flops_per_token(model, 0)
    attention = attention_flops / ATTENTION_FLOPS[model.kv_channels]
    return products + ATTENTION_FORWARD * attention, 2 * products + (1 - ATTENTION_FORWARD) * attention


def bytes_per_token(model: ModelConfig, precision: Precision, fusions: Fusions) -> tuple[float, float]:
    """Moved by everything that is no matrix product and no attention, forward and backward."""
    query, key = model.num_attention_heads * model.kv_channels, model.num_query_groups * model.kv_channels
    numbers = (
        (model.hidden_size, STREAM),
        (query + key, ROPE_FUSED if fusions.rope else ROPE),
        (model.ffn_hidden_size, SWIGLU_FUSED if fusions.swiglu else SWIGLU),
    )
    # Inputs of the four products of a layer, and the gradients of their outputs.
    quantised = (
        2 * model.hidden_size + query + model.ffn_hidden_size,
        query + 2 * key + 2 * model.hidden_size + 2 * model.ffn_hidden_size,
    )
    loss = CROSS_ENTROPY_FUSED if fusions.cross_entropy else CROSS_ENTROPY
    cast = QUANTISE if precision is Precision.FP8 else 0
    forward, backward = (
        model.num_layers * (BF16_BYTES * sum(width * times[way] for width, times in numbers) + cast * quantised[way])
        + loss[way] * model.vocab_size
        for way in (0, 1)
    )
    return forward, backward


def _layer_matrices(model: ModelConfig) -> int:
    return model.num_layers * estimate.layer_matrices(model)


def _matrices(model: ModelConfig) -> int:
    """Weights whose gradients are products: the layers' and the output table's."""
    return _layer_matrices(model) + estimate.embedding_parameters(model)


def cases() -> Iterator[Case]:
    """Each model as deep as one card holds it, which is what one card can measure; if that is not whole, the whole over eight as well."""
    for model in MODELS:
        for length in LENGTHS:
            for precision in PRECISIONS:
                whole, cut = _whole(model, length, precision), _on_one_card(model, length, precision)
                yield cut
                if cut.recipe.model != whole.recipe.model:
                    yield whole


def _whole(name: str, length: int, precision: Precision) -> Case:
    """All layers, whether eight cards hold them or not."""
    return Case(name=f"{name} over {RANKS} GPUs", recipe=_recipe(name, length, precision, RANKS), ranks=RANKS)


def _on_one_card(name: str, length: int, precision: Precision) -> Case:
    recipe = _recipe(name, length, precision, 1)
    whole = recipe.model.num_layers
    while memory(recipe, 1).total >= FILL * CARD_BYTES:
        model = dataclasses.replace(recipe.model, num_layers=recipe.model.num_layers - 1)
        recipe = dataclasses.replace(recipe, model=model)
    layers = recipe.model.num_layers
    return Case(name=name if layers == whole else f"{name}, {layers} of {whole} layers", recipe=recipe)


def _recipe(name: str, length: int, precision: Precision, ranks: int) -> MidTraining:
    stable: MidTraining = recipes.load(MODELS[name])
    return dataclasses.replace(
        stable, seq_length=length, global_batch_size=MICROBATCHES * ranks, micro_batch_size=1, precision=precision,
        parallelism=Parallelism(),
    )  # fmt: skip


def write_into(page: str) -> str:
    """The page with its tables between their marks. Raises `ValueError` where a mark is missing."""
    for name, table in (("speed", speed_table()), ("fusions", fusions_table())):
        begin, end = f"<!-- predicted {name} -->\n", f"<!-- end of predicted {name} -->\n"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page has no place for the table: a line {begin.strip()} and a line {end.strip()}")
        page = f"{before}{begin}{table}{end}{after}"
    return page


def speed_table() -> str:
    """Markdown: what benchmarks/gpu_throughput.py should print, all fusions off, and beside it with all of them."""
    head = (
        "model", "tokens", "precision", "tokens/s", "TFLOP/s", "MFU", "fp8 gains", "all fusions: tokens/s", "MFU", "peak memory",
        "step, ms: forward, backward, optimizer", "published, tokens/s",
    )  # fmt: skip
    return _markdown(head, (_speed_row(case) for case in cases()))


def _speed_row(case: Case) -> tuple[str, ...]:
    recipe, seconds = case.recipe, case.seconds()
    gain = ""
    if recipe.precision is Precision.FP8:
        bf16 = dataclasses.replace(case, recipe=dataclasses.replace(recipe, precision=Precision.BF16))
        gain = f"{case.tokens_per_second() / bf16.tokens_per_second():.2f}"
    published = PUBLISHED.get((case.name.split(" ")[0], recipe.seq_length, recipe.precision), "")
    return (
        case.name,
        f"{recipe.seq_length:,}",
        recipe.precision.value,
        f"{case.tokens_per_second():,.0f}",
        f"{case.flops() / 1e12:.0f}",
        f"{case.flops() / PEAK_FLOPS:.1%}",
        gain,
        f"{case.tokens_per_second(ALL_FUSIONS):,.0f}",
        f"{case.flops(ALL_FUSIONS) / PEAK_FLOPS:.1%}",
        f"{memory(recipe, case.ranks).total / GIB:.1f} GiB",
        ", ".join(f"{1e3 * part:.0f}" for part in (seconds.forward, seconds.backward, seconds.optimizer)),
        "" if "layers" in case.name else published,
    )


def fusions_table() -> str:
    """Markdown: what each fusion alone should take off a micro-batch of 8,192 tokens in bf16."""
    models = {name: _whole(name, LENGTHS[0], Precision.BF16) for name in MODELS}
    rows = (
        (f"`fusions.{field.name}`", *(_saved(case, Fusions(**{field.name: True})) for case in models.values()))
        for field in dataclasses.fields(Fusions)
    )
    return _markdown(("fusion", *models), rows)


def _saved(case: Case, fusions: Fusions) -> str:
    before, after = case.seconds().step, case.seconds(fusions).step
    return f"{1e3 * (before - after) / MICROBATCHES:.1f} of {1e3 * before / MICROBATCHES:.0f} ms, {(before - after) / before:.1%}"


def _markdown(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
