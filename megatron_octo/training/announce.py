"""What a run says before step one: where it stands, where it comes from, and everything that was decided for it."""

from megatron_octo import units
from megatron_octo.training import estimate, memory, spec
from megatron_octo.training.activations import Modules
from megatron_octo.training.checkpoint import Progress
from megatron_octo.training.config import Anomalies, MidTraining, RunOptions
from megatron_octo.training.data import SampleOrder
from megatron_octo.training.lineage import Lineage
from megatron_octo.training.megatron import Ranks, device
from megatron_octo.training.recompute import Recompute, RecomputeGranularity
from megatron_octo.training.schedule import knots


def decided(
    recipe: MidTraining,
    *,
    options: RunOptions,
    ranks: Ranks,
    order: SampleOrder,
    progress: Progress,
    lineage: Lineage,
    continued: str | None,
) -> str:
    """Args: continued: name of the run's own checkpoint that it goes on from, None for a new run."""
    lines = [
        f"{recipe.name}: step {progress.step} of {recipe.train_iters}, {units.count(recipe.tokens_per_step)} tokens per step, "
        f"{units.count(recipe.trained_tokens)} in all (total so far {units.count(progress.total_tokens)})",
        f"from {lineage.spelled}" + (f"; going on from {continued}" if continued is not None else ""),
        _model(recipe),
        _layout(recipe, ranks),
        _learning(recipe),
        f"blend: {_blend(recipe, order)}",
        *_validation(recipe),
        _anomalies(recipe.anomalies),
        f"checkpoint every {recipe.save_interval:,} steps{' in the background' if options.async_save else ''}, the newest "
        f"{recipe.keep_checkpoints} stay"
        + (f" and every {recipe.keep_every:,} steps one" if recipe.keep_every else ""),
        f"watchdog after {units.duration(options.watchdog_seconds)} without progress; seed {recipe.seed}",
    ]
    return "\n  ".join(lines)


def _model(recipe: MidTraining) -> str:
    flops = estimate.flops_per_token(recipe.model, recipe.seq_length)
    modules = "Transformer Engine" if spec.modules() is Modules.TRANSFORMER_ENGINE else "local layers, fused attention"
    documents = ", attention within documents" if recipe.reset_attention_mask else ""
    return (
        f"{units.count(estimate.parameters(recipe.model))} parameters, {flops / 1e9:.3g} GFLOPs per token, {modules}, "
        f"{recipe.precision.value} on {device().type}{documents}{_recompute(recipe.recompute)}"
    )


def _recompute(recompute: Recompute) -> str:
    if recompute.granularity is RecomputeGranularity.NONE:
        return ""
    return f", activations recomputed ({recompute.granularity.value})"


def _layout(recipe: MidTraining, ranks: Ranks) -> str:
    layout = recipe.parallelism
    extras = [
        name
        for name, on in {
            f"{layout.num_chunks} virtual stages": layout.num_chunks > 1,
            "stages' messages overlapped": layout.overlap_p2p_comm,
            "sequence parallel": layout.sequence_parallel,
            "distributed optimizer": layout.use_distributed_optimizer,
            "gradient reduction overlapped": layout.overlap_grad_reduce,
            "weight gathering overlapped": layout.overlap_param_gather,
        }.items()
        if on
    ]
    needed = memory.memory(recipe, ranks.world_size, modules=spec.modules()).total
    return (
        f"{ranks.world_size} ranks = {layout.spelled} x DP {ranks.data_parallel_size}{''.join(f', {extra}' for extra in extras)}; "
        f"{recipe.num_microbatches(ranks.world_size)} micro-batches of {recipe.micro_batch_size} per rank and step; about "
        f"{units.bytes_(needed)} on the fullest rank"
    )


def _learning(recipe: MidTraining) -> str:
    points = knots(recipe.schedule, recipe.trained_tokens)
    rates = ", ".join(f"{knot.learning_rate:g} at {units.count(knot.tokens)}" for knot in points)
    adam = recipe.optimizer
    return (
        f"learning rate ({recipe.schedule.style.value}) {rates} tokens; AdamW betas {adam.adam_beta1:g} {adam.adam_beta2:g}, weight decay "
        f"{adam.weight_decay:g}, gradients clipped at {adam.clip_grad:g}"
    )


def _blend(recipe: MidTraining, order: SampleOrder) -> str:
    epochs = order.epochs(recipe.train_iters * recipe.global_batch_size)
    tokens = {stream.name: stream.num_tokens for stream in order.streams}
    return ", ".join(
        f"{share.corpus} {share.weight:g} ({epochs[share.corpus]:.2f} epochs of {units.count(tokens[share.corpus])}"
        + (f", at most {share.max_epochs:g})" if share.max_epochs is not None else ")")
        for share in recipe.blend.shares
    )


def _anomalies(anomalies: Anomalies) -> str:
    spike = "" if anomalies.spike_factor is None else f", or {anomalies.spike_factor:g} times the median norm"
    return f"left out: steps not finite{spike}; more than {anomalies.max_skipped_steps} end the run"


def _validation(recipe: MidTraining) -> list[str]:
    if recipe.validation is None:
        return []
    names = ", ".join(f"{share.corpus} {share.weight:g}" for share in recipe.validation.blend.shares)
    tokens = units.count(recipe.validation_steps * recipe.tokens_per_step)
    return [f"validation on {tokens} tokens of {names} every {recipe.validation_interval:,} steps"]
