"""How fast one card trains: our loop, a bare Megatron-Core loop, and Hugging Face transformers under torch.compile, side by side.

    python benchmarks/gpu_throughput.py [--model 1b 3b 8b] [--steps 5] [--fuse swiglu cross_entropy] [--minutes 7.5] [--out FILE.json]

Llama-3.2-1B, 3B and Llama-3.1-8B at 4,096 and 8,192 tokens, bf16 and (with Transformer Engine) fp8, micro-batches of one sequence,
four to a step. A model that does not fit on the card with its optimizer is cut to the layers that do, and its name says so. Each row is a process of its own, in the
order of what matters most; what the time does not reach is named. `--model tiny` runs on a CPU too.

Megatron's FLOPs (causal attention is half of the square) give model TFLOP/s and MFU, against the matrix product this card was
measured at just before and against its data sheet. Forward and backward passes are timed in a step of their own, with the card waited for
at both ends; the optimizer is what is left of that step. Hugging Face's weights and Adam's state are bf16: it keeps no fp32 copies, so it does less.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import memory as memory_benchmark
import torch
import training as loops
from torch.profiler import ProfilerActivity, profile

from megatron_octo import artifacts
from megatron_octo.errors import ConfigError
from megatron_octo.launch.node import collectives
from megatron_octo.recipes import llama31_8b, llama32_1b, llama32_3b
from megatron_octo.training import estimate, megatron, spec
from megatron_octo.training.blend import blend
from megatron_octo.training.config import MidTraining, ModelConfig
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.memory import memory
from megatron_octo.training.precision import Precision
from megatron_octo.training.schedule import LearningRateStyle, Schedule

TINY = memory_benchmark.llama(num_layers=2, hidden_size=256, vocab_size=2048)
MODELS = {"1b": llama32_1b.MODEL, "3b": llama32_3b.MODEL, "8b": llama31_8b.MODEL, "tiny": TINY}
LENGTHS = (8192, 4096)
TINY_LENGTH = 128
MICROBATCHES = 4
#: Of the card's memory that the estimate may fill: the rest is for the CUDA context, cuBLAS, and fragments.
FILL = 0.85
#: One row: longer than any compilation we know of.
ROW_SECONDS = 240.0
KERNELS = 10
OURS, BARE, HUGGING_FACE = "megatron-octo", "bare Megatron-Core", "transformers + torch.compile"
TERA, GIB = 1e12, 2**30
#: Rates at which a random model's loss stays finite do not matter to the speed.
LEARNING_RATE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A process: both Megatron loops on one model, or Hugging Face's step on it."""

    model: str
    seq_length: int
    precision: Precision
    hugging_face: bool
    steps: int
    #: Fields of `Fusions` that are on in the Megatron loops.
    fuse: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        kind = ["--hugging-face"] if self.hugging_face else []
        kind += ["--fuse", *self.fuse] if self.fuse else []
        return ["--case", self.model, str(self.seq_length), self.precision.value, "--steps", str(self.steps), *kind]


def main() -> None:
    options = _options()
    if options.case:
        name, length, precision = options.case
        case = Case(
            model=name, seq_length=int(length), precision=Precision(precision), hugging_face=options.hugging_face,
            steps=options.steps, fuse=tuple(options.fuse),
        )  # fmt: skip
        print(json.dumps(in_this_process(case)))
        return
    deadline = time.monotonic() + 60 * options.minutes
    results = [_child(case, deadline) for case in cases(options.model, options.steps, tuple(options.fuse))]
    about = {"date": time.strftime("%Y-%m-%d"), "command": " ".join(sys.argv), "versions": artifacts.versions()}
    artifacts.write_json(options.out, about | {"results": results})
    _report(results)


def cases(models: Sequence[str], steps: int, fuse: tuple[str, ...]) -> Iterator[Case]:
    """The length of the published figures first; of each our loop in bf16, the others' step, and fp8."""
    for length in LENGTHS:
        for precision, hugging_face in ((Precision.BF16, False), (Precision.BF16, True), (Precision.FP8, False)):
            for name in models:
                if name != "tiny" or length == LENGTHS[0]:
                    yield Case(
                        model=name, seq_length=TINY_LENGTH if name == "tiny" else length, precision=precision,
                        hugging_face=hugging_face, steps=steps, fuse=fuse,
                    )  # fmt: skip


def _child(case: Case, deadline: float) -> dict[str, Any]:
    """A row's results, or why there are none."""
    about = {"model": case.model, "seq_length": case.seq_length, "precision": case.precision.value}
    about["loop"] = HUGGING_FACE if case.hugging_face else f"{OURS}, {BARE}"
    if (left := deadline - time.monotonic()) <= 0:
        return about | {"missing": "the time was over"}
    if case.precision is Precision.FP8 and importlib.util.find_spec("transformer_engine") is None:
        return about | {"missing": "Transformer Engine is not installed"}
    print(f"{case.model} {case.seq_length} {case.precision.value} {about['loop']} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *case.arguments]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=min(left, ROW_SECONDS), check=False)
    except subprocess.TimeoutExpired as error:
        return about | {"missing": f"not done in {error.timeout:.0f} s"}
    if ended.returncode:
        return about | {"missing": (ended.stderr.strip().splitlines() or ["no message"])[-1]}
    return about | json.loads(ended.stdout.splitlines()[-1])


def in_this_process(case: Case) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    here = {
        "card": card,
        "matmul_flops": collectives.multiply(megatron.device()),
        "peak_flops": estimate.peak_flops(card),
    }
    settings = recipe(case)
    here |= {"layers": settings.model.num_layers, "of_layers": MODELS[case.model].num_layers}
    if case.hugging_face:
        return here | {"loops": {HUGGING_FACE: hugging_face(settings)}}
    try:
        megatron.require_precision(settings.precision, settings.fp8)
    except ConfigError as error:
        return here | {"missing": str(error)}
    return here | megatron_loops(settings)


def recipe(case: Case) -> MidTraining:
    """Steps of random tokens on as many of the model's layers as the card holds."""
    model, length = MODELS[case.model], case.seq_length
    batch = MICROBATCHES * length
    settings = MidTraining(
        name="throughput", model=model, init_from=None, tokenizer="none", blend=blend(random=1.0),
        train_tokens=(case.steps + loops.WARMUP_STEPS) * batch, seq_length=length, global_batch_size=MICROBATCHES, micro_batch_size=1,
        schedule=Schedule(style=LearningRateStyle.CONSTANT, peak_lr=LEARNING_RATE, min_lr=LEARNING_RATE),
        precision=case.precision, save_interval_tokens=10**12, fusions=Fusions(**dict.fromkeys(case.fuse, True)),
    )  # fmt: skip
    return next(settings for settings in _shallower(settings) if _fits(settings))


def _shallower(settings: MidTraining) -> Iterator[MidTraining]:
    for layers in range(settings.model.num_layers, 0, -1):
        yield dataclasses.replace(settings, model=dataclasses.replace(settings.model, num_layers=layers))


def _fits(settings: MidTraining) -> bool:
    if not torch.cuda.is_available():
        return True
    return memory(settings, 1, modules=spec.modules()).total < FILL * torch.cuda.get_device_properties(0).total_memory


def megatron_loops(settings: MidTraining) -> dict[str, Any]:
    """Both loops in turns on one model; then a step with the card waited for, and one under the profiler."""
    megatron.initialize(settings.parallelism, settings.seed)
    model, optimizer = build(settings)
    step = dataclasses.replace(settings, train_tokens=settings.tokens_per_step)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        order = memory_benchmark.random_tokens(settings, work)
        memory_benchmark.start_counting()
        found[BARE] = _row(settings, [each.wall for each in loops.bare(settings, model, optimizer, order)])
        memory_benchmark.start_counting()
        found[OURS] = _row(
            settings, [each.wall for each in loops.ours(settings, model, optimizer, order, work / "run")]
        )
        found[OURS]["data_wait_seconds"] = _data_wait(work / "run")
        found[OURS] |= breakdown(step, model, optimizer, order)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            loops.bare(step, model, optimizer, order)
    largest = kernels(profiler)
    return {
        "modules": spec.modules().value,
        "loops": found,
        "kernels": largest,
        "busy_share": busy(largest, found[BARE]),
    }


def build(settings: MidTraining) -> tuple[megatron.Model, Any]:
    """As `megatron.build`, with random weights made on the card: on a CPU that takes a minute for 8B."""
    config = megatron.gpt_config(settings)
    config.perform_initialization = False
    model = megatron.wrap(megatron.build_gpt(settings.model, config, seed=settings.seed), settings)
    with torch.no_grad():
        for chunk in model:
            for parameter in chunk.parameters():
                parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(std=settings.init_method_std)
    return model, megatron.build_optimizer(model, settings)


def _row(settings: MidTraining, seconds: Sequence[float]) -> dict[str, Any]:
    median = statistics.median(seconds)
    tokens = settings.tokens_per_step / median
    flops = tokens * estimate.flops_per_token(settings.model, settings.seq_length)
    return {
        "step_seconds": seconds,
        "tokens_per_second": tokens,
        "model_flops": flops,
        "peak_bytes": memory_benchmark.peak_bytes(),
    }


def _data_wait(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["data_wait_seconds"] for row in rows[loops.WARMUP_STEPS :])


class Stopwatches:
    """In the place of Megatron's timers, which know no CPU: seconds by name, the card waited for at both ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, log_level: int = 0) -> "Stopwatch":
        return Stopwatch(self.seconds, name)


@dataclasses.dataclass(frozen=True)
class Stopwatch:
    seconds: dict[str, float]
    name: str

    def start(self, **_: Any) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) - now()

    def stop(self, **_: Any) -> None:
        self.seconds[self.name] += now()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def breakdown(step: MidTraining, model: megatron.Model, optimizer: Any, order: Any) -> dict[str, float]:
    """Seconds of one step's parts."""
    watches = Stopwatches()
    model[0].config.timers = watches
    started = now()
    loops.bare(step, model, optimizer, order)
    whole = now() - started
    model[0].config.timers = None
    forward, backward = (watches.seconds[name] for name in ("forward-compute", "backward-compute"))
    return {"forward_seconds": forward, "backward_seconds": backward, "optimizer_seconds": whole - forward - backward}


def kernels(profiler: profile) -> list[dict[str, Any]]:
    """The kernels that take most of a step; on a CPU the operations."""
    on_gpu = torch.cuda.is_available()
    events = [event for event in profiler.key_averages() if not on_gpu or str(event.device_type).endswith("CUDA")]
    spent = [(event.self_device_time_total if on_gpu else event.self_cpu_time_total, event) for event in events]
    whole = sum(microseconds for microseconds, _ in spent)
    largest = sorted(spent, key=lambda pair: -pair[0])[:KERNELS]
    return [
        {"name": event.key, "seconds": time_ / 1e6, "share": time_ / whole, "calls": event.count}
        for time_, event in largest
    ]


def busy(largest: Sequence[dict[str, Any]], bare: dict[str, Any]) -> float:
    """Kernels' time of a step of the bare loop, as a share of it: the rest are gaps, and all that CUDA graphs could take away."""
    return float(largest[0]["seconds"] / largest[0]["share"] / statistics.median(bare["step_seconds"]))


def hugging_face(settings: MidTraining) -> dict[str, Any]:
    """The same batches through transformers' Llama, compiled, with torch's fused AdamW."""
    # Here, so that Megatron's rows need no transformers.
    from transformers import LlamaConfig, LlamaForCausalLM

    device = megatron.device()
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = LlamaForCausalLM(LlamaConfig(**hugging_face_sizes(settings.model)))
    torch.set_default_dtype(torch.float32)
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    shape = (settings.train_iters, MICROBATCHES, 1, settings.seq_length)
    tokens = torch.randint(settings.model.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    memory_benchmark.start_counting()
    ends = [now()]
    for batches in tokens:
        for batch in batches.to(device):
            (compiled(input_ids=batch, labels=batch, use_cache=False).loss / MICROBATCHES).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(now())
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    return _row(settings, seconds[loops.WARMUP_STEPS :])


def hugging_face_sizes(model: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": model.vocab_size, "hidden_size": model.hidden_size, "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers, "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups, "head_dim": model.kv_channels, "max_position_embeddings": max(LENGTHS),
        "tie_word_embeddings": model.share_embeddings_and_output_weights, "attn_implementation": "sdpa",
    }  # fmt: skip


def _report(results: Sequence[dict[str, Any]]) -> None:
    measured = [result for result in results if "loops" in result]
    if measured:
        first, rate = measured[0], statistics.median(result["matmul_flops"] for result in measured)
        sheet = first["peak_flops"]
        data_sheet = f"{sheet / TERA:.0f}" if sheet else "not known"
        print(f"\n{first['card']}: matrix product {rate / TERA:.1f} TFLOP/s measured, {data_sheet} on the data sheet\n")
    print(
        "| model | seq | precision | loop | tokens/s | TFLOP/s | MFU of matmul | of data sheet | peak GiB | forward, backward, optimizer, data s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for result in results:
        for line in _lines(result):
            print(line)
    for result in [result for result in measured if "kernels" in result][:1]:
        about = f"{result['model']}, {result['seq_length']}, {result['precision']}"
        print(
            f"\n{KERNELS} largest of a step ({about}); all kernels take {result['busy_share']:.1%} of a step's time:\n"
        )
        print("| share | ms | calls | kernel |\n|---|---|---|---|")
        for kernel in result["kernels"]:
            print(
                f"| {kernel['share']:.1%} | {kernel['seconds'] * 1e3:.1f} | {kernel['calls']} | `{kernel['name'][:100]}` |"
            )


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Rows of the table."""
    about = f"{result['seq_length']} | {result['precision']}"
    if "loops" not in result:
        yield f"| {result['model']} | {about} | {result['loop']} | {result['missing']} |||||||"
        return
    cut = "" if result["layers"] == result["of_layers"] else f", {result['layers']} of {result['of_layers']} layers"
    for name, row in result["loops"].items():
        shares = [
            row["model_flops"] / peak if peak else None for peak in (result["matmul_flops"], result["peak_flops"])
        ]
        mfu = " | ".join("" if share is None else f"{share:.1%}" for share in shares)
        parts = [row.get(f"{part}_seconds") for part in ("forward", "backward", "optimizer", "data_wait")]
        times = ", ".join(f"{part:.3f}" for part in parts if part is not None)
        yield (
            f"| {result['model']}{cut} | {about} | {name} | {row['tokens_per_second']:,.0f} | {row['model_flops'] / TERA:.1f} | {mfu} | "
            f"{row['peak_bytes'] / GIB:.1f} | {times} |"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["1b", "3b", "8b"])
    parser.add_argument("--steps", type=int, default=5, help="measured steps of a row")
    parser.add_argument("--fuse", nargs="+", default=[], choices=[field.name for field in dataclasses.fields(Fusions)])
    parser.add_argument("--minutes", type=float, default=7.5, help="no row starts later, and none runs longer")
    parser.add_argument("--out", type=Path, default=Path("gpu_throughput.json"))
    parser.add_argument("--case", nargs=3, metavar=("MODEL", "LENGTH", "PRECISION"), help="this row, in this process")
    parser.add_argument("--hugging-face", action="store_true", help="with --case: transformers' step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
