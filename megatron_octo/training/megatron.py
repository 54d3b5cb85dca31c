"""The only file that knows both vocabularies: our config on one side, Megatron-Core's objects on the other.

`parallel_state` is read here and nowhere else.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.tensor_parallel import layers
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module
from megatron.core.utils import get_batch_on_this_cp_rank, get_te_version, is_te_min_version
from torch._C._distributed_c10d import Store
from torch.distributed.distributed_c10d import _get_default_store

from megatron_octo import process
from megatron_octo.errors import ConfigError
from megatron_octo.training import spec, torch_adam
from megatron_octo.training.config import MidTraining, ModelConfig, Optimizer
from megatron_octo.training.fusions import Fusions
from megatron_octo.training.parallelism import Parallelism
from megatron_octo.training.precision import FP8_TRANSFORMER_ENGINE, Fp8, Fp8Recipe, Precision, why_no_fp8
from megatron_octo.training.recompute import Recompute, RecomputeGranularity

#: Seconds a collective may wait before a lost rank is reported, where no watchdog looks earlier.
COLLECTIVE_TIMEOUT_SECONDS = 600.0

T = TypeVar("T")
#: This rank's chunks of the model: one, or several with virtual pipeline stages.
Model = list[DistributedDataParallel]


@dataclass(frozen=True)
class Ranks:
    """This process's place in the layout."""

    rank: int
    world_size: int
    data_parallel_rank: int
    data_parallel_size: int
    context_parallel_size: int
    #: The losses of a replica are counted once per context-parallel part: on the last pipeline stage, tensor-parallel rank 0.
    reports_loss: bool


def device() -> torch.device:
    """The CUDA device of this local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # Where Slurm shows each task its own GPU alone, that is number 0 for all of them.
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def initialize(parallelism: Parallelism, seed: int, *, timeout_seconds: float = COLLECTIVE_TIMEOUT_SECONDS) -> Ranks:
    """Join the process group torchrun, srun or the local launcher describes in the environment, and lay out the ranks."""
    on_gpu = device().type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device())
    else:
        from megatron_octo.training import cpu  # never imported where CUDA is used

        cpu.install()
    # Before anything collective: a layout that cannot work is refused on every rank alike.
    parallelism.data_parallel_size(process.world_size())
    _join("nccl" if on_gpu else "gloo", timedelta(seconds=timeout_seconds))
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallelism.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallelism.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallelism.context_parallel_size,
    )
    torch.manual_seed(seed)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Ranks(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        context_parallel_size=parallel_state.get_context_parallel_world_size(),
        reports_loss=parallel_state.is_pipeline_last_stage() and parallel_state.get_tensor_model_parallel_rank() == 0,
    )


def _join(backend: str, timeout: timedelta) -> None:
    """The process group of torchrun, srun or the local launcher; a group of one where none of them started us."""
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group(backend, timeout=timeout)
    else:
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]  # not in __all__
        torch.distributed.init_process_group(backend, timeout=timeout, store=store, rank=0, world_size=1)


def require_precision(precision: Precision, fp8: Fp8) -> None:
    """Raises `ConfigError` for fp8 without Transformer Engine, where Megatron-Core would train in bf16 and say nothing, or too old a one, or GPU."""
    if precision is not Precision.FP8:
        return
    if not spec.uses_transformer_engine():
        raise ConfigError(
            "precision fp8 runs through Transformer Engine on a GPU of Hopper or newer, and this process has "
            f"{'no Transformer Engine' if torch.cuda.is_available() else 'no GPU'}; set precision=bf16, or run in the GPU image"
        )
    if (why := why_no_fp8(fp8.recipe, torch.cuda.get_device_capability())) is not None:
        raise ConfigError(f"{why}; set precision=bf16")
    least = FP8_TRANSFORMER_ENGINE.get(fp8.recipe)
    if least is not None and not is_te_min_version(least):
        raise ConfigError(
            f"fp8.recipe {fp8.recipe.value} takes Transformer Engine {least} or newer, this process has {get_te_version()}; install that, or set "
            f"fp8.recipe={Fp8Recipe.DELAYED.value}"
        )


def gpt_config(recipe: MidTraining) -> TransformerConfig:
    """Megatron's config of a phase: the model's and how it is trained. Raises `ConfigError` as `require_precision` does."""
    require_precision(recipe.precision, recipe.fp8)
    settings: dict[str, Any] = _recompute(recipe.recompute) | fused(recipe.fusions)
    if recipe.precision is Precision.FP8:
        settings |= fp8_settings(recipe.fp8)
    return transformer_config(
        recipe.model, recipe.parallelism, recipe.precision, init_method_std=recipe.init_method_std, **settings
    )


def transformer_config(
    model: ModelConfig,
    parallelism: Parallelism,
    precision: Precision,
    *,
    init_method_std: float = 0.02,
    **settings: Any,
) -> TransformerConfig:
    """Megatron's config of a decoder; fusions that are not in `settings` stay off."""
    dtype = torch_dtype(precision)
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.kv_channels,
        normalization="RMSNorm",
        layernorm_epsilon=model.layernorm_epsilon,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        qk_layernorm=model.qk_layernorm,
        init_method_std=init_method_std,
        hidden_dropout=0.0,  # Megatron's default is 0.1
        attention_dropout=0.0,
        tensor_model_parallel_size=parallelism.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallelism.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallelism.virtual_pipeline_model_parallel_size,
        context_parallel_size=parallelism.context_parallel_size,
        sequence_parallel=parallelism.sequence_parallel,
        overlap_p2p_comm=parallelism.overlap_p2p_comm,
        batch_p2p_comm=not parallelism.overlap_p2p_comm,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision is not Precision.FP32,
        # The same initial weights at every tensor-parallel size.
        use_cpu_initialization=True,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        attention_softmax_in_fp32=True,
        # gloo sends from the tensor itself while the schedule goes on: freed early, the next stage receives other bytes.
        deallocate_pipeline_outputs=device().type == "cuda",
        **settings,
    )


def fp8_settings(fp8: Fp8) -> dict[str, Any]:
    """Megatron's words for it; the history of delayed scaling is Megatron-Bridge's (Megatron's own default looks at one step)."""
    settings: dict[str, Any] = {"fp8": fp8.format.value, "fp8_recipe": fp8.recipe.value}
    if fp8.recipe is Fp8Recipe.DELAYED:
        settings |= {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
    if fp8.num_layers_at_start_in_bf16 or fp8.num_layers_at_end_in_bf16:
        settings |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": fp8.num_layers_at_start_in_bf16,
            "num_layers_at_end_in_bf16": fp8.num_layers_at_end_in_bf16,
        }
    return settings


def fused(fusions: Fusions) -> dict[str, Any]:
    """Megatron's words for it. Raises `ConfigError` for a kernel that is not installed: Megatron would find out layers later."""
    if fusions.rope and rope_utils.fused_apply_rotary_pos_emb is None:
        raise ConfigError("fusions.rope is a kernel of Transformer Engine, which is not installed; set it to false")
    if fusions.gradient_accumulation and not layers._grad_accum_fusion_available:
        raise ConfigError(
            "fusions.gradient_accumulation needs Apex built with --cpp_ext --cuda_ext (fused_weight_gradient_mlp_cuda), which is not installed; "
            "set it to false"
        )
    return {
        "bias_activation_fusion": fusions.swiglu,
        "cross_entropy_loss_fusion": fusions.cross_entropy,
        "apply_rope_fusion": fusions.rope,
        "gradient_accumulation_fusion": fusions.gradient_accumulation,
    }


def _recompute(recompute: Recompute) -> dict[str, Any]:
    match recompute.granularity:
        case RecomputeGranularity.NONE:
            return {}
        case RecomputeGranularity.SELECTIVE:
            return {"recompute_granularity": "selective", "recompute_modules": list(recompute.modules)}
        case RecomputeGranularity.FULL:
            return {
                "recompute_granularity": "full",
                "recompute_method": recompute.method.value,
                "recompute_num_layers": recompute.num_layers,
            }


def torch_dtype(precision: Precision) -> torch.dtype:
    """Of weights and activations; fp8 is a format of matrix products inside a bf16 model."""
    return torch.float32 if precision is Precision.FP32 else torch.bfloat16


def build_gpt(
    model: ModelConfig, config: TransformerConfig, *, seed: int = 0, documents: bool = False
) -> list[GPTModel]:
    """This rank's chunks of the model, with the same random weights at every layout.

    Args:
        documents: attention is told where documents begin.
    """
    chunks = config.virtual_pipeline_model_parallel_size
    stages = [None] if chunks is None else range(chunks)
    return [_build_chunk(model, config, stage, seed=seed, documents=documents) for stage in stages]


def _build_chunk(
    model: ModelConfig, config: TransformerConfig, vp_stage: int | None, *, seed: int, documents: bool
) -> GPTModel:
    # for the input table; the layers seed themselves, and the output table follows the last of them
    torch.manual_seed(seed)
    return GPTModel(
        config,
        spec.layer_spec(config, seed=seed, vp_stage=vp_stage, documents=documents),
        vocab_size=model.vocab_size,
        max_sequence_length=model.max_position_embeddings,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        position_embedding_type="rope",
        rotary_base=int(model.rotary_base),
        rope_scaling=model.rope_scaling_factor is not None,
        rope_scaling_factor=model.rope_scaling_factor or 1.0,
        vp_stage=vp_stage,
    )


def build(recipe: MidTraining) -> tuple[Model, MegatronOptimizer]:
    """The phase's model, initialised at random, and its optimizer."""
    gpts = build_gpt(recipe.model, gpt_config(recipe), seed=recipe.seed, documents=recipe.reset_attention_mask)
    model = wrap(gpts, recipe)
    return model, build_optimizer(model, recipe)


def wrap(gpts: Sequence[GPTModel], recipe: MidTraining) -> Model:
    """Megatron's data-parallel wrapper around each chunk: one fp32 gradient buffer, reduced after or during the backward pass."""
    layout = recipe.parallelism
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=layout.use_distributed_optimizer,
        overlap_grad_reduce=layout.overlap_grad_reduce,
        overlap_param_gather=layout.overlap_param_gather,
        # The loop looks at the norm of the whole gradient and can leave such a step out; this check would end the run.
        check_for_nan_in_grad=False,
    )
    model = [
        DistributedDataParallel(
            gpt.config,
            settings,
            gpt if recipe.precision is Precision.FP32 else Float16Module(gpt.config, gpt),
            disable_bucketing=index > 0,
        )
        for index, gpt in enumerate(gpt.to(device()) for gpt in gpts)
    ]
    for chunk in model:
        chunk.broadcast_params()
    return model


def build_optimizer(model: Model, recipe: MidTraining) -> MegatronOptimizer:
    """Megatron's optimizer; gradients of tied embeddings and data-parallel ranks are finished by `finalize_model_grads`."""
    settings: Optimizer = recipe.optimizer
    layout = recipe.parallelism
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=recipe.schedule.peak_lr,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.adam_beta1,
            adam_beta2=settings.adam_beta2,
            adam_eps=settings.adam_eps,
            clip_grad=settings.clip_grad or 0.0,  # Megatron's word for not clipping
            bf16=recipe.precision is not Precision.FP32,
            params_dtype=torch_dtype(recipe.precision),
            use_distributed_optimizer=layout.use_distributed_optimizer,
            overlap_param_gather=layout.overlap_param_gather,
        ),
        model,
    )
    if device().type == "cuda":
        torch_adam.fuse(inner_optimizers(optimizer))
    config = model[0].config
    config.finalize_model_grads_func = finalize_model_grads
    config.grad_scale_func = optimizer.scale_loss
    if layout.overlap_grad_reduce:
        # Without it every micro-batch would be reduced by itself.
        no_sync = [chunk.no_sync for chunk in model]
        config.no_sync_func = no_sync if len(model) > 1 else no_sync[0]
    return optimizer


def step(optimizer: MegatronOptimizer, why_not: Callable[[float], str | None]) -> tuple[float, str | None]:
    """Megatron's optimizer step, unless `why_not` has a reason against the gradient's norm; returns the norm and the reason.

    The norm is one number of the whole world, so every rank decides alike.
    """
    optimizer.prepare_grads()
    norm = float(optimizer.get_grad_norm())
    if (reason := why_not(norm)) is not None:
        return norm, reason
    for part in inner_optimizers(optimizer):
        if part.config.clip_grad > 0 and (parameters := part.get_parameters()):
            clip_grad_by_total_norm_fp32(parameters, max_norm=part.config.clip_grad, total_norm=norm)
    assert optimizer.step_with_ready_grads(), "fp32 and bf16 training have no loss scale to skip a step for"
    return norm, None


def finish_param_gather(model: Model) -> None:
    """Have this step's weights on every rank: with overlap they would be gathered during the next forward pass only."""
    for chunk in model:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def context_slices(**batch_BS: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    """This context-parallel rank's part of tensors [B, S, ...]: one chunk from the front of the sequence, one from the back."""
    slices: dict[str, torch.Tensor | None] = get_batch_on_this_cp_rank(batch_BS)
    return slices


def set_learning_rate(optimizer: MegatronOptimizer, learning_rate: float, weight_decay: float) -> None:
    """What Megatron's scheduler does each step. Without it norms would decay too: `wd_mult` is applied nowhere else."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_mult", 1.0)
        group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over the whole world, on every rank."""
    torch.distributed.all_reduce(values)
    return values


def store() -> Store:
    """The key-value store through which the ranks found each other."""
    return _get_default_store()


def gather(value: T) -> list[T]:
    """Every rank's value, on every rank."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    torch.distributed.barrier()


def is_rank_zero() -> bool:
    return torch.distributed.get_rank() == 0


def from_rank_zero(value: bool) -> bool:
    """Rank 0's answer to a yes-or-no question, on every rank."""
    answer = torch.tensor(int(value), device=device())
    torch.distributed.broadcast(answer, src=0)
    return bool(answer.item())


def data_parallel_group() -> torch.distributed.ProcessGroup:
    group: torch.distributed.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group


def inner_optimizers(optimizer: MegatronOptimizer) -> Sequence[Any]:
    """The optimizers a ChainedOptimizer is made of."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
