"""What `show` says of a phase of mid-training: steps, data, model, layout, memory and hours."""

from megatron_octo.launch.explain.columns import Row, hours, percent, rows, section
from megatron_octo.recipes import corpora
from megatron_octo.training import estimate, gpu_environment, schedule
from megatron_octo.training.activations import Modules
from megatron_octo.training.blend import Share
from megatron_octo.training.config import MidTraining, OptimizerState
from megatron_octo.training.memory import Memory, memory
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import Precision
from megatron_octo.training.recompute import Recompute, RecomputeGranularity, RecomputeMethod
from megatron_octo.units import bytes_, count, counted

H100_BF16_FLOPS = estimate.PEAK_BF16_FLOPS["H100"]
#: Share of that peak a run may count on. Published bf16 runs on H100 reach 35 % (torchtitan, Llama-3.1-8B, 6,667 tokens/s/GPU)
#: to 47 % (OLMo-core, OLMo2-1B, 55,000); nobody has published Megatron numbers for Llama-3.2 1B and 3B.
ASSUMED_MFU = 0.40
DERIVED_ORIGIN = (
    f"derived, not measured: {ASSUMED_MFU:.0%} of an H100's {H100_BF16_FLOPS / 1e12:.0f} TFLOP/s;\n"
    "published bf16 runs reach 35 to 47 % (torchtitan, OLMo-core)"
)
#: Up to about four passes over the same text are nearly as good as new text (Muennighoff et al., arXiv 2305.16264).
EPOCHS_WORTHWHILE = 4


def derived_throughput(config: MidTraining) -> float:
    """Tokens per second and GPU at `ASSUMED_MFU` of an H100."""
    return ASSUMED_MFU * H100_BF16_FLOPS / estimate.flops_per_token(config.model, config.seq_length)


def mid_training(config: MidTraining, nodes: int, gpus_per_node: int, throughput: float | None) -> list[str]:
    world_size = nodes * gpus_per_node
    return [
        section("run", rows(_run_rows(config))),
        section("data", _data_lines(config)),
        section("model", rows(_model_rows(config))),
        section(
            f"layout: {counted(nodes, 'node')} x {counted(gpus_per_node, 'GPU')} = {counted(world_size, 'rank')}",
            rows(_layout_rows(config, world_size)),
        ),
        section("environment on GPUs, where nothing else is set", _environment_lines(config.parallelism, world_size)),
        section("time", rows(_time_rows(config, world_size, throughput))),
    ]


def _run_rows(config: MidTraining) -> list[Row]:
    return [
        ("starts from", _start(config)),
        (
            "tokens per step",
            f"{config.tokens_per_step:,} = {config.global_batch_size} sequences x {config.seq_length:,}",
        ),
        ("steps", f"{config.train_iters:,} = {config.trained_tokens:,} tokens"),
        (f"learning rate, {config.schedule.style.value}", _learning_rate(config)),
        ("checkpoints", _checkpoints(config)),
        *_validation_rows(config),
        ("left out", _anomalies(config)),
    ]


def _learning_rate(config: MidTraining) -> str:
    settings = config.schedule
    knots = schedule.knots(settings, config.trained_tokens)
    lines = [f"{knot.learning_rate:<9.3g} at {_at(config, knot.tokens)}" for knot in knots]
    if settings.wsd_decay_style is not None and settings.wsd_decay_tokens is not None:
        lines.append(f"{settings.wsd_decay_style.value} over the last {count(settings.wsd_decay_tokens)} tokens")
    return "\n".join(lines)


def _checkpoints(config: MidTraining) -> str:
    stay = f"the newest {config.keep_checkpoints} stay"
    if config.keep_every is not None:
        stay += f", and one every {config.keep_every:,} steps"
    return f"every {config.save_interval:,} steps and at the end; {stay}"


def _validation_rows(config: MidTraining) -> list[Row]:
    if config.validation is None:
        return []
    times = -(-config.train_iters // config.validation_interval)
    tokens = config.validation_steps * config.tokens_per_step
    shares = ", ".join(f"{share.corpus} {percent(share.weight)}" for share in config.validation.blend.shares)
    return [
        (
            "validation",
            f"{count(tokens)} tokens every {config.validation_interval:,} steps, {times:,} times\n{shares}",
        )
    ]


def _anomalies(config: MidTraining) -> str:
    rules = config.anomalies
    spike = (
        f"or {rules.spike_factor:g} x the median of {rules.window} norms" if rules.spike_factor else "none for its norm"
    )
    return f"not finite, {spike}; {rules.max_skipped_steps + 1} of them end the run"


def _start(config: MidTraining) -> str:
    if point := config.branch_point:
        state = (
            "with its optimizer state" if point.optimizer_state is OptimizerState.CARRY else "with a fresh optimizer"
        )
        return f"{point.parent} after {count(point.at_tokens)} tokens, {state}"
    return config.init_from or "random weights"


def _at(config: MidTraining, tokens: int) -> str:
    return f"step {round(tokens / config.tokens_per_step):,} ({count(tokens)} tokens)"


def _data_lines(config: MidTraining) -> list[str]:
    uses = estimate.corpus_uses(config.blend, config.trained_tokens, corpora.tokens)
    token_bytes = estimate.token_bytes(config.model.vocab_size)
    distinct = sum(use.distinct_tokens for use in uses)
    return [
        f"{'corpus':<26}{'share':>8}{'tokens':>9}{'of':>9}{'epochs':>9}",
        *(_corpus_line(use, share) for use, share in zip(uses, config.blend.shares, strict=True)),
        *rows(
            [
                ("shards to read", f"{bytes_(distinct * token_bytes)}: {token_bytes} bytes a token, repeats once"),
                ("attention", "within a document" if config.reset_attention_mask else "over the whole window"),
            ]
        ),
    ]


def _corpus_line(use: estimate.CorpusUse, share: Share) -> str:
    size = "unknown" if use.size_tokens is None else count(use.size_tokens)
    epochs = "unknown" if use.epochs is None else f"{use.epochs:.2f}" if use.epochs >= 0.01 else "<0.01"
    remark = _remark(use, share)
    return f"{use.corpus:<26}{percent(use.weight):>8}{count(use.tokens):>9}{size:>9}{epochs:>9}{remark}"


def _remark(use: estimate.CorpusUse, share: Share) -> str:
    """What the recipe forbids, or else what is not worthwhile."""
    if share.max_epochs is not None:
        over = ": refused" if use.epochs is not None and use.epochs > share.max_epochs else ""
        return f"  at most {share.max_epochs:g} allowed{over}"
    return f"  more than {EPOCHS_WORTHWHILE} epochs" if use.epochs and use.epochs > EPOCHS_WORTHWHILE else ""


def _model_rows(config: MidTraining) -> list[Row]:
    model = config.model
    tied = "tied embeddings" if model.share_embeddings_and_output_weights else "two embedding tables"
    extras = [
        *(["query, key and value bias"] if model.add_qkv_bias else []), *(["QK norm"] if model.qk_layernorm else []),
    ]  # fmt: skip
    flops = estimate.flops_per_token(model, config.seq_length)
    return [
        ("parameters", f"{estimate.parameters(model):,} ({', '.join([tied, *extras])})"),
        ("FLOPs per token", f"{flops / 1e9:.2f} G at {config.seq_length:,} tokens, forward and backward"),
        ("FLOPs of the run", f"{flops * config.trained_tokens:.3g}"),
    ]


def _layout_rows(config: MidTraining, world_size: int) -> list[Row]:
    layout = config.parallelism
    data_parallel = layout.data_parallel_size(world_size)
    microbatches = config.num_microbatches(world_size)
    return [
        ("ranks per axis", f"{layout.spelled} x DP {data_parallel}{_virtual_stages(layout)}"),
        *([("split and overlapped", switches)] if (switches := _switches(layout)) else []),
        ("micro-batches", f"{microbatches:,} per rank and step, {counted(config.micro_batch_size, 'sequence')} each"),
        ("precision", _precision(config)),
        ("recomputed backward", _recompute(config.recompute)),
        *_memory_rows(config, memory(config, world_size), data_parallel * layout.context_parallel_size),
        ("one checkpoint", bytes_(estimate.checkpoint_bytes(config))),
    ]


def _virtual_stages(layout: Parallelism) -> str:
    return f", {layout.num_chunks} model chunks each" if layout.num_chunks > 1 else ""


def _switches(layout: Parallelism) -> str:
    return ", ".join(
        words
        for on, words in (
            (layout.sequence_parallel, "norms split along the sequence"),
            (layout.overlap_grad_reduce, "gradient reduction behind backward"),
            (layout.overlap_param_gather, "weight gathering behind forward"),
            (layout.overlap_p2p_comm, "stage messages behind compute"),
        )
        if on
    )


def _precision(config: MidTraining) -> str:
    if config.precision is not Precision.FP8:
        return str(config.precision.value)
    return f"fp8 matrix products in bf16: {config.fp8.recipe.value} scaling, {config.fp8.format.value}"


def _recompute(recompute: Recompute) -> str:
    if recompute.granularity is RecomputeGranularity.NONE:
        return "nothing"
    if recompute.granularity is RecomputeGranularity.SELECTIVE:
        return ", ".join(recompute.modules)
    if recompute.method is RecomputeMethod.BLOCK:
        return f"the first {counted(recompute.num_layers, 'layer')} of each model chunk"
    return f"all layers, {recompute.num_layers} at a time"


def _counted_in(modules: Modules) -> str:
    return (
        "modules of Transformer Engine, not measured"
        if modules is Modules.TRANSFORMER_ENGINE
        else "modules of Megatron"
    )


def _memory_rows(config: MidTraining, fullest: Memory, replicas: int) -> list[Row]:
    stages = config.parallelism.pipeline_model_parallel_size
    where = f", fullest stage {fullest.stage + 1} of {stages}" if stages > 1 else ""
    shared = f", over {replicas} ranks" if config.parallelism.use_distributed_optimizer else ", on every rank"
    activations = fullest.activations
    return [
        ("weights per GPU", f"{bytes_(fullest.weights)} ({config.precision.value}{where})"),
        ("gradients per GPU", f"{bytes_(fullest.gradients)} (fp32)"),
        ("optimizer per GPU", f"{bytes_(fullest.optimizer)} (Adam in fp32{shared})"),
        (
            "activations per GPU",
            f"{bytes_(activations.total)} at the {activations.moment}, {_counted_in(fullest.modules)}:\nlayers {bytes_(activations.layers)}, "
            f"output {bytes_(activations.output)}, temporary {bytes_(activations.temporary)}",
        ),
        ("together per GPU", f"{bytes_(fullest.total)}, without CUDA, NCCL and fragments"),
    ]


def _environment_lines(layout: Parallelism, world_size: int) -> list[str]:
    return [
        line
        for each in gpu_environment.variables(layout, ranks=world_size)
        for line in (f"{each.name}={each.value}{_on_blackwell(each)}", f"  {each.why}")
    ]


def _on_blackwell(variable: gpu_environment.Variable) -> str:
    return f", on Blackwell {variable.on_blackwell}" if variable.on_blackwell is not None else ""


def _time_rows(config: MidTraining, world_size: int, throughput: float | None) -> list[Row]:
    if throughput is None and config.precision is not Precision.BF16:
        return [("wall time", f"unknown in {config.precision.value}; state a throughput in tokens per second and GPU")]
    rate = throughput or derived_throughput(config)
    origin = "stated" if throughput else DERIVED_ORIGIN
    gpu_hours = estimate.gpu_hours(config.trained_tokens, rate)
    return [
        ("throughput", f"{rate:,.0f} tokens/s/GPU, {origin}"),
        ("wall time", f"{hours(gpu_hours / world_size)} on {counted(world_size, 'GPU')} = {gpu_hours:,.0f} GPU-hours"),
    ]
